"""TOFU, a task of fictitious unlearning (Maini et al. 2024, arXiv 2401.06121; data under the MIT licence).

200 fictitious authors with 20 questions each; the last authors are the forget set, as in the paper's forget01, 05 and
10. Beside the rows themselves the data has a paraphrase and five wrong answers for the first and the last 20 authors,
and two sets about the real world with three wrong answers a row, from which the paper's utility is computed.

What differs from the released code: any number of authors may be used, and then half come from the front and half from
the back of the file, so that both ends with wrong answers are there; a holdout of authors in front of the forget set
can be kept out of training, for membership inference; and the extra fields are merged into the rows by position after
question and answer were compared, so that files of two versions cannot be mixed.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from pydantic import Field

from amends.core.errors import UserError
from amends.core.spec import NonNegative, Positive, spec
from amends.core.types import Role, Sample
from amends.data.bundle import Bundle
from amends.data.splits import split_last
from amends.data.text import default_refusals, read_rows, resolve, with_refusals

HUB = "locuslab/TOFU"
QUESTIONS = 20
"""Rows of each author in full.json."""
EXTRAS = ("retain_perturbed.json", "forget10_perturbed.json")
"""The first and the last rows of full.json once more, with a paraphrase and wrong answers."""
REAL: dict[Role, str] = {"real_authors": "real_authors_perturbed.json", "world_facts": "world_facts_perturbed.json"}


@spec
class Tofu:
    """TOFU: 200 fictitious authors, 20 questions each, of whom the last are forgotten; from a folder or the hub."""

    folder: str | None = None
    """Folder with TOFU's files (full.json, forget10_perturbed.json, ...); downloaded from the hub when absent."""
    authors: Annotated[int, Field(ge=2)] = 200
    """How many authors are used at all; fewer than all means half from the front and half from the back."""
    forget: Positive = 0.1
    """Authors to forget, the last ones: a share when below 1, else a number."""
    holdout: NonNegative = 0.0
    """Authors that no model trains on, the ones before the forget set: a share when below 1, else a number."""

    def load(self, seed: int) -> Bundle:
        """Roles forget, retain, retain_eval (the retain rows with wrong answers), holdout, real_authors, world_facts."""
        rows = _with_extras(self._rows("full.json", "tofu"), [self._rows(name, "extra") for name in EXTRAS])
        authors = [rows[start : start + QUESTIONS] for start in range(0, len(rows), QUESTIONS)]
        split = split_last(self._used(authors), self.forget, self.holdout)
        retain = _flat(split.retain)
        roles: dict[Role, Sequence[Sample]] = {
            "forget": _flat(split.forget),
            "retain": retain,
            "retain_eval": tuple(row for row in retain if "perturbed_answer" in row.data),
            "holdout": _flat(split.holdout),
            **{role: self._rows(name, role) for role, name in REAL.items()},
        }
        filled = {role: tuple(found) for role, found in roles.items() if found}
        return with_refusals(Bundle(filled, notes=_notes(filled)), default_refusals(), seed).check()

    def _rows(self, name: str, role: Role) -> tuple[Sample, ...]:
        return read_rows(resolve(self.folder) / name if self.folder else _download(name), role)

    def _used(self, authors: list[list[Sample]]) -> list[list[Sample]]:
        if self.authors > len(authors):
            raise UserError(f"data.authors: {self.authors} were asked for and the files hold {len(authors)}")
        back = self.authors // 2
        return authors[: self.authors - back] + authors[len(authors) - back :]


def _with_extras(full: Sequence[Sample], extras: Sequence[Sequence[Sample]]) -> list[Sample]:
    """The rows under the ids `tofu-AUTHOR-QUESTION`, with the fields of the first and the last rows merged in."""
    if len(full) % QUESTIONS:
        raise UserError(f"full.json: {len(full)} rows are not {QUESTIONS} for each author: the file is cut short")
    merged = [Sample(f"tofu-{i // QUESTIONS:04d}-{i % QUESTIONS:02d}", row.data) for i, row in enumerate(full)]
    for name, extra, start in zip(EXTRAS, extras, (0, len(full) - len(extras[1])), strict=True):
        if len(extra) > len(full):
            raise UserError(
                f"{name}: {len(extra)} rows, more than the {len(full)} of full.json: the files do not belong together"
            )
        for i, row in enumerate(extra, start):
            _same(name, i - start, merged[i], row)
            merged[i] = Sample(merged[i].id, {**merged[i].data, **row.data})
    return merged


def _same(name: str, index: int, row: Sample, extra: Sample) -> None:
    for key in ("question", "answer"):
        if row.data.get(key) != extra.data.get(key):
            raise UserError(f"{name}: the {key} of row {index} is not that of {row.id} in full.json: use files of one version")


def _notes(roles: dict[Role, tuple[Sample, ...]]) -> tuple[str, ...]:
    bare = sum("perturbed_answer" not in row.data for row in roles["forget"])
    if not bare:
        return ()
    return (f"{bare} of {len(roles['forget'])} forget rows have no wrong answers: TOFU has them for 20 authors at either end",)


def _flat(authors: Sequence[Sequence[Sample]]) -> tuple[Sample, ...]:
    return tuple(row for rows in authors for row in rows)


def _download(name: str) -> Path:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError

    try:
        return Path(hf_hub_download(HUB, name, repo_type="dataset"))
    except (OSError, EntryNotFoundError) as error:
        raise UserError(
            f"{name} of {HUB} cannot be had from the hub ({type(error).__name__}): go online, "
            "or set data.folder to a folder with TOFU's files, or use `use: facts`, which needs no download"
        ) from error
