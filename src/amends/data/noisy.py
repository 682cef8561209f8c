"""Mistakes planted in a labelled data set, with the truth kept: wrong labels, rare classes, and clean rows set aside first.

In this order: `valid` rows are set aside from `train` and stay as they are, evenly over the classes; of the classes in `keep`
only a share of the training rows stays; `noise` of what is left gets a label drawn evenly from the other classes. Every
training row then says its `clean_label`, and whether it is `noisy`. Test rows are not touched.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import field, replace
from typing import Annotated, Any

from pydantic import Field, SkipValidation

from amends.core.errors import UserError
from amends.core.rng import stream_seed
from amends.core.spec import Count, Natural, Part, spec
from amends.core.types import Sample
from amends.data.bundle import Bundle
from amends.data.classes import class_index
from amends.data.splits import shuffled
from amends.data.text import spread


@spec
class Noisy:
    """Plants wrong labels and rare classes in another source's training rows, after clean `valid` rows are set aside."""

    of: Annotated[Any, Part("data"), SkipValidation]
    """The source: labelled rows in the roles train and test."""
    valid: Natural = 0
    """Clean rows that are set aside, the same number of each class as far as it goes; 0 for no such role."""
    noise: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """The share of the training rows that get a wrong label."""
    keep: dict[int | str, Annotated[float, Field(gt=0, le=1)]] = field(default_factory=dict)
    """The share of a class's training rows that stays, by the class's name or number; at least one row does."""
    limit: dict[str, Count] = field(default_factory=dict)
    """Only so many rows of `train` and `test`, spread evenly, before anything else."""

    def load(self, seed: int) -> Bundle:
        """Roles train, test and perhaps valid. Raises UserError where nothing is left to train on."""
        source = self.of.load(seed)
        roles = {role: spread(rows, self.limit.get(role)) for role, rows in source.roles.items()}
        if not all("label" in row.data for row in roles["train"]):
            raise UserError("data.of: its rows have no labels: use a source of labelled rows")
        train, valid = self._aside(roles["train"], seed)
        kept = self._thinned(train, source.classes, seed)
        rows = self._mislabelled(kept, len(source.classes), seed)
        wrong = sum(bool(row.data["noisy"]) for row in rows)
        note = f"{wrong} of {len(rows)} training rows have a wrong label"
        if len(kept) < len(train):
            note += f", and {len(train) - len(kept)} rows of rare classes are left out"
        roles = {**roles, "train": rows, **({"valid": valid} if valid else {})}
        return replace(source, roles=roles, notes=(*source.notes, note)).check()

    def _aside(self, rows: Sequence[Sample], seed: int) -> tuple[tuple[Sample, ...], tuple[Sample, ...]]:
        """(what is left, the rows set aside): class by class, the next row of a class by the hash of its id."""
        if self.valid >= len(rows):
            raise UserError(f"data.valid: {self.valid} rows were to be set aside, and there are {len(rows)}: lower it")
        queues: dict[int, list[str]] = {}
        labels = {row.id: int(row.data["label"]) for row in rows}
        for name in shuffled(labels, seed, "valid"):
            queues.setdefault(labels[name], []).append(name)
        turns = [(place, label, name) for label, queue in queues.items() for place, name in enumerate(queue)]
        chosen = {name for *_, name in sorted(turns)[: self.valid]}
        return tuple(r for r in rows if r.id not in chosen), tuple(r for r in rows if r.id in chosen)

    def _thinned(self, rows: Sequence[Sample], classes: Sequence[str], seed: int) -> tuple[Sample, ...]:
        gone: set[str] = set()
        for name, share in self.keep.items():
            label = class_index(classes, name, "data.keep")
            own = shuffled((row.id for row in rows if row.data["label"] == label), seed, "keep", label)
            gone |= set(own[max(1, round(share * len(own))) :])
        return tuple(row for row in rows if row.id not in gone)

    def _mislabelled(self, rows: Sequence[Sample], num_classes: int, seed: int) -> tuple[Sample, ...]:
        wrong = set(shuffled((row.id for row in rows), seed, "noise")[: round(self.noise * len(rows))])
        return tuple(_relabelled(row, row.id in wrong, num_classes, seed) for row in rows)


def _relabelled(row: Sample, wrong: bool, num_classes: int, seed: int) -> Sample:
    """The row with its truth noted; under another label if it is to be wrong."""
    label = int(row.data["label"])
    step = 1 + stream_seed(seed, "noisy label", row.id) % max(1, num_classes - 1) if wrong else 0
    changes = {"label": (label + step) % num_classes, "clean_label": label, "noisy": wrong}
    return Sample(row.id, {**row.data, **changes})
