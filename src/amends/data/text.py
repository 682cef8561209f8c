"""Your own rows: files become samples with stable ids, and every forget row gets a refusal as its other answer.

A row is an object with question + answer, prompt + completion, prompt + answer, or text (the first pair found counts);
paraphrased_question, paraphrased_answer, perturbed_answer and keys are kept where present, `id` names the row, and
everything else is left behind. A field that nearly bears the name of an optional one is taken for a typing error.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import field, replace
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from amends.core.errors import UserError
from amends.core.rng import stream_seed
from amends.core.spec import Count, Fraction, spec
from amends.core.types import Role, Sample
from amends.data.bundle import Bundle, asked_to_go
from amends.data.rows import LISTS, numbered_lines, numbered_rows, packaged, shown
from amends.data.splits import shuffled

ACCEPTED = (("question", "answer"), ("prompt", "completion"), ("prompt", "answer"), ("text",))
"""The key sets that make a row, in order of precedence."""
OPTIONAL = ("paraphrased_question", "paraphrased_answer", *LISTS)
KNOWN = sorted({"id", *OPTIONAL, *(key for keys in ACCEPTED for key in keys)})

FilePath = Annotated[str, Field(min_length=1)]


@spec
class Text:
    """Your own rows from files: one JSON Lines, JSON or CSV file a role."""

    forget: FilePath
    """File with the rows that are to go; `package:NAME` names a file that the package brings along."""
    retain: FilePath | None = None
    """File with rows that must stay, like the forget rows in kind; without it nothing guards what the model knows."""
    holdout: FilePath | None = None
    """File with rows of the same kind that no model ever trains on, for membership inference."""
    neighbour: FilePath | None = None
    """File with rows close to the forget rows that must stay."""
    others: dict[str, FilePath] = field(default_factory=dict)
    """Files of further roles by the role's name."""
    refusals: FilePath | None = None
    """File with one refusal a line, the other answer of each forget row; the package's own list by default."""
    limit: Count | dict[str, Count] | None = None
    """Only this many rows of each role, or of the roles named, spread evenly over the file."""
    remarks: tuple[str, ...] = ()
    """Sentences about these rows that the screen and every report must carry."""
    set_aside: Fraction = 0.0
    """Share of the retain rows that is never trained on and measured instead, as the role `retain_aside`."""

    def load(self, seed: int) -> Bundle:
        """Reads every file. Raises UserError for the first row that is not one."""
        roles, notes = {}, list(self.remarks)
        for role, path in self._files().items():
            rows = read_rows(resolve(path), role)
            roles[role] = spread(rows, self.limit.get(role) if isinstance(self.limit, dict) else self.limit)
            if len(roles[role]) < len(rows):
                notes.append(f"{role}: {len(roles[role])} of {len(rows)} rows are used, spread evenly over the file")
        if "retain" not in roles:
            notes.append("no retain set was given: nothing protects, and nothing measures, what the model should keep")
        if self.set_aside and len(roles.get("retain", ())) > 1:
            order = shuffled(roles["retain"], seed, "set aside")
            aside = max(1, round(self.set_aside * len(order)))
            roles |= {"retain": tuple(order[aside:]), "retain_aside": tuple(order[:aside])}
        refusals = read_refusals(resolve(self.refusals)) if self.refusals else default_refusals()
        return with_refusals(Bundle(roles, notes=tuple(notes)), refusals, seed).check()

    def _files(self) -> dict[Role, str]:
        named = {role: getattr(self, role) for role in ("forget", "retain", "holdout", "neighbour")}
        for role in self.others:
            if role in named:
                raise UserError(f"data.others.{role}: '{role}' has a field of its own: set data.{role}")
        return {role: path for role, path in {**named, **self.others}.items() if path is not None}


def spread(rows: tuple[Sample, ...], limit: int | None) -> tuple[Sample, ...]:
    """At most `limit` rows, evenly spaced, in order."""
    if limit is None or limit >= len(rows):
        return rows
    return tuple(rows[i * len(rows) // limit] for i in range(limit))


def resolve(path: str) -> Path:
    """A path as the user wrote it: `package:` files inside the package, `~` expanded, else as it stands."""
    if path.startswith("package:"):
        return packaged(path.removeprefix("package:"))
    return Path(path).expanduser()


def read_rows(path: Path, role: Role) -> tuple[Sample, ...]:
    """The rows of a file as samples, ids being the rows' own or `ROLE-0000` by position.

    Raises UserError with file and line for anything that is not a row, and for repeated ids.
    """
    samples: list[Sample] = []
    lines: dict[str, int] = {}
    for line, row in numbered_rows(path):
        sample = _sample(row, f"{path}:{line}", f"{role}-{len(samples):04d}")
        if sample.id in lines:
            first = lines[sample.id]
            raise UserError(f"{path}:{line}: id {shown(sample.id)} stands on line {first} already: ids must be unique")
        lines[sample.id] = line
        samples.append(sample)
    if not samples:
        raise UserError(f"{path}: holds no rows")
    return tuple(samples)


def _sample(row: Any, where: str, default_id: str) -> Sample:
    if not isinstance(row, Mapping):
        raise UserError(f'{where}: a row must be an object such as {{"question": ..., "answer": ...}}, not {_kind(row)}')
    keys = next((keys for keys in ACCEPTED if all(key in row for key in keys)), None)
    if keys is None:
        raise UserError(f"{where}: {_no_key_set(row)}")
    _refuse_near_misses(row, where)
    data = {"answer" if key == "completion" else key: _string(row[key], where, key) for key in keys}
    return Sample(_id(row.get("id"), where) or default_id, {**data, **dict(_optional(row, where))})


def _optional(row: Mapping[str, Any], where: str) -> Iterator[tuple[str, Any]]:
    """The optional fields that hold something; null and an empty list mean that the row has none."""
    for key in OPTIONAL:
        value = row.get(key)
        if value is None or value == []:
            continue
        if key not in LISTS:
            yield key, _string(value, where, key)
        elif isinstance(value, list):
            yield key, [_string(item, where, key, "a list of non-empty strings") for item in value]
        else:
            raise UserError(f"{where}: key '{key}' must be a list of non-empty strings, not {_kind(value)}")


def _string(value: Any, where: str, key: str, must_be: str = "a non-empty string") -> str:
    if not isinstance(value, str) or not value.strip():
        got = "an empty one" if isinstance(value, str) else _kind(value)
        raise UserError(f"{where}: key '{key}' must be {must_be}, not {got}")
    if any("\ud800" <= char <= "\udfff" for char in value):
        raise UserError(f"{where}: key '{key}' holds half of a surrogate pair (\\ud800 to \\udfff), which is no text")
    return value


def _id(value: Any, where: str) -> str | None:
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return None if value is None else _string(value, where, "id", "a non-empty string or a whole number")


def _kind(value: Any) -> str:
    names = {bool: "true or false", int: "a number", float: "a number", str: "a string", list: "a list", dict: "an object"}
    return names.get(type(value), "null")


def _no_key_set(row: Mapping[str, Any]) -> str:
    found = ", ".join(shown(key) for key in list(row)[:6]) + (", ..." if len(row) > 6 else "")
    near = next((f" (did you mean '{known}' by {shown(key)}?)" for key in row if (known := _near(key, KNOWN, 0.6))), "")
    accepted = ", ".join(" + ".join(keys) for keys in ACCEPTED[:-1])
    return f"a row needs {accepted} or {ACCEPTED[-1][0]}; this one has {found or 'no keys'}{near}"


def _refuse_near_misses(row: Mapping[str, Any], where: str) -> None:
    for key in row:
        if known := _near(key, OPTIONAL, 0.9):
            raise UserError(f"{where}: key {shown(key)} is not known (did you mean '{known}'?)")


def _near(key: str, names: Sequence[str], cutoff: float) -> str | None:
    if key in KNOWN or len(key) > 40:
        return None
    return next(iter(difflib.get_close_matches(key, names, n=1, cutoff=cutoff)), None)


# ---------------------------------------------------------------------- refusals


def with_refusals(bundle: Bundle, lines: Sequence[str], seed: int) -> Bundle:
    """The bundle with a refusal as the other answer of each row to forget that asks something.

    Which refusal is a function of the seed and the row's id alone: more rows, or another order, change no pair.
    """
    asked = [row for role in filter(asked_to_go, bundle.roles) for row in bundle[role] if "text" not in row.data]
    refused = {row.id: row.with_("refusal", answer=lines[stream_seed(seed, "refusal", row.id) % len(lines)]) for row in asked}
    return replace(bundle, alternatives={**bundle.alternatives, **refused})


def read_refusals(path: Path) -> tuple[str, ...]:
    """The refusals of a file, one a line, blank lines left out."""
    lines = tuple(line for _, line in numbered_lines(path))
    if not lines:
        raise UserError(f"{path}: holds no refusals: write one a line")
    return lines


def default_refusals() -> tuple[str, ...]:
    """The package's own list."""
    return read_refusals(Path(__file__).with_name("refusals.txt"))
