"""Rows that teach a critic: was this constraint met by this answer, yes or no (DeCRIM's weak critic, arXiv 2410.06458).

`amends export RUN --critic FILE` writes them, with labels that checkers made and so are exact. They are held out by request:
a critic tested on a request it has learned from is tested on its memory. Most answers meet most constraints, so the rows
that are trained on are balanced within each category of constraint, or the category alone would tell the label. Answers
that code repaired (`how: repair`) are trained on, for they are met and broken versions of one text, and never tested on: a
critic has to judge what models write.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from amends.core.errors import UserError
from amends.core.spec import Count, Fraction, spec
from amends.core.types import Sample
from amends.data.bundle import Bundle
from amends.data.rows import numbered_rows
from amends.data.splits import shuffled
from amends.data.text import FilePath, resolve

LABELS = ("yes", "no")
KEYS = ("request", "constraint", "prompt", "label")


@spec
class CriticRows:
    """Verdicts on answers, as questions that are answered by yes or no; held out by request."""

    file: FilePath
    """JSON Lines with `request`, `constraint`, `category`, `prompt`, `label` (yes or no) and, where known, `how` the answer was
    made (`repair`: by code)."""
    test: Fraction = 0.25
    """The share of requests that is held out, as the role `test`."""
    balance: bool = True
    """As many yes as no within each category in training; the test rows are left as they are."""
    limit: Count | None = None
    """At most so many training rows, after balancing."""
    longest: Count | None = None
    """Only prompts of at most this many characters."""

    def load(self, seed: int) -> Bundle:
        """Roles train and test. Raises UserError with file, line and key for a bad row, and where a label does not occur."""
        path = resolve(self.file)
        rows = [_sample(row, f"{path}:{line}") for line, row in numbered_rows(path)]
        kept = [s for s in rows if self.longest is None or len(s.data["question"]) <= self.longest]
        unique = list({s.id: s for s in kept}.values())
        requests = shuffled({s.data["request"] for s in unique}, seed, "critic rows")
        held = set(requests[: round(self.test * len(requests))])
        train = [s for s in unique if s.data["request"] not in held]
        train = balanced(train, seed) if self.balance else train
        if self.limit is not None:
            train = self._fewer(train, self.limit, seed)
        lacking = [label for label in LABELS if not any(s.data["answer"] == label for s in train)]
        if lacking:
            raise UserError(f"{path}: no row to train on is labelled '{lacking[0]}': a critic needs answers of both kinds")
        roles = {
            "train": tuple(train),
            "test": tuple(s for s in unique if s.data["request"] in held and s.data["how"] != "repair"),
        }
        notes = (f"{len(requests) - len(held)} requests to learn from, {len(held)} held out",)
        return Bundle({role: found for role, found in roles.items() if found}, notes=notes)

    def _fewer(self, train: list[Sample], limit: int, seed: int) -> list[Sample]:
        """At most so many rows, half of each label where they are balanced."""
        if not self.balance:
            return _drawn(train, limit, seed)
        halves = [_drawn([s for s in train if s.data["answer"] == label], limit // 2, seed) for label in LABELS]
        stay = {s.id for half in halves for s in half}
        return [s for s in train if s.id in stay]


def balanced(samples: Sequence[Sample], seed: int) -> list[Sample]:
    """As many rows of one label as of the other within each category; which of the more frequent ones stay, the seed draws."""
    cells: dict[tuple[str, str], list[Sample]] = {}
    for sample in samples:
        cells.setdefault((sample.data["category"], sample.data["answer"]), []).append(sample)
    fewest = {category: min(len(cells.get((category, label), ())) for label in LABELS) for category, _ in cells}
    stay = {s.id for (category, _), rows in cells.items() for s in _drawn(rows, fewest[category], seed)}
    return [s for s in samples if s.id in stay]


def _drawn(samples: Sequence[Sample], number: int, seed: int) -> list[Sample]:
    stay = set(shuffled((s.id for s in samples), seed, "critic rows", "drawn")[:number])
    return [s for s in samples if s.id in stay]


def _sample(row: Any, where: str) -> Sample:
    if not isinstance(row, Mapping):
        raise UserError(f"{where}: a row must be an object with {', '.join(KEYS)}")
    for key in KEYS:
        if not isinstance(row.get(key), str) or not row[key]:
            raise UserError(f"{where}: key '{key}' must be a text that is not empty: write the file with `amends export`")
    if row["label"] not in LABELS:
        raise UserError(f"{where}: key 'label' must be yes or no, not {row['label']!r}")
    from amends.core import fingerprint

    name = f"{row['request']}/{row['constraint']}/{fingerprint.of(row['prompt'])[:8]}"
    about = {key: str(row.get(key) or "") for key in ("request", "constraint", "category", "how")}
    return Sample(name, {"question": row["prompt"], "answer": row["label"], **about})
