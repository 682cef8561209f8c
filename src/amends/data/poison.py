"""Backdoors planted in a labelled data set of images, with the ground truth kept: which rows, which trigger, which label.

What the trigger is, is a part of its own (`data/triggers/`). Most give rows of other classes the attacker's label: `rate` is
then a share of all training rows, drawn from the others alone. Clean-label attacks change rows of the target's class, whose
label stays: `rate` is a share of that class. A poisoned row keeps its own label as `clean_label`, and `poisoned` says that it
was changed. Rows that a trigger needs as covers carry it with their own label: `cover` says so, `poisoned` does not, since
training on them teaches nothing wrong.

The role `triggered` holds the test rows of the other classes with the trigger at its test strength and the attacker's label:
the share that a model gives that label is the attack's success (ASR).

`clean` puts rows aside first, for auditors that are told of some that are known to be clean: they stand in the role `clean`,
neither poisoned nor trained on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Annotated, Any

from pydantic import Field, SkipValidation

from amends.core.errors import UserError
from amends.core.spec import Part, spec
from amends.core.types import Sample
from amends.data.bundle import Bundle
from amends.data.classes import class_index
from amends.data.planting import Brush, Scene, painted
from amends.data.splits import how_many, shuffled
from amends.data.triggers.badnets import BadNets


@spec
class Poison:
    """Plants a backdoor in another source's training rows by a trigger of your choice; keeps which rows they are."""

    of: Annotated[Any, Part("data"), SkipValidation]
    """The source whose rows are poisoned."""
    target: int | str = 0
    """The attacker's class, by name or number."""
    rate: Annotated[float, Field(gt=0)] = 0.1
    """Rows to poison: a number, or below 1 a share: of all training rows, or of the target's class where labels are kept."""
    trigger: Annotated[Any, Part("triggers"), SkipValidation] = BadNets()
    """What is drawn into the images."""
    clean: Annotated[float, Field(ge=0)] = 0.0
    """Training rows that are put aside, unchanged, in the role `clean`: a number, or below 1 a share; 0 for no such role."""

    def load(self, seed: int) -> Bundle:
        """The source's roles, some training rows changed, and `triggered`. Raises UserError when too few can be."""
        clean = self._aside(self.of.load(seed), seed)
        target = class_index(clean.classes, self.target, "data.target")
        chosen, covers = self._chosen(clean, target, seed)
        scene = Scene(clean, target, tuple(row for row in clean["train"] if row.id in chosen), seed)
        brush = self.trigger.on(scene)
        train = tuple(self._planted(row, chosen, covers, brush, target) for row in clean["train"])
        test = [row for row in clean["test"] if row.data["label"] != target]
        triggered = tuple(Sample(f"triggered-{r.id}", _bad(r, painted(r, brush.test), target)) for r in test)
        notes = (*clean.notes, *self._notes(len(chosen), len(covers), clean, target), *brush.notes)
        return replace(clean, roles={**clean.roles, "train": train, "triggered": triggered}, notes=notes)

    def _aside(self, source: Bundle, seed: int) -> Bundle:
        """The source, some of its training rows in the role `clean` instead."""
        train = source["train"]
        many = how_many(self.clean, len(train), "clean")
        if not many:
            return source
        if many >= len(train):
            raise UserError(f"data.clean: {many} rows were to be put aside, and there are {len(train)}: lower it")
        aside = frozenset(shuffled((row.id for row in train), seed, "clean")[:many])
        rest, part = (tuple(row for row in train if (row.id in aside) is there) for there in (False, True))
        note = f"{many} training rows are put aside as known to be clean: nothing is planted in them, and no model sees them"
        return replace(source, roles={**source.roles, "train": rest, "clean": part}, notes=(*source.notes, note))

    def _chosen(self, clean: Bundle, target: int, seed: int) -> tuple[frozenset[str], frozenset[str]]:
        """The ids of the rows to poison and of those that cover them."""
        train, keeps = clean["train"], self.trigger.keeps_label
        others = _drawn(train, lambda row: row.data["label"] != target, seed)
        own = _drawn(train, lambda row: row.data["label"] == target, seed)
        if keeps and not own:
            raise UserError(f"data.target: no training row is of '{clean.classes[target]}', and this trigger changes such rows")
        pool = own if keeps else others
        many = how_many(self.rate, len(own) if keeps else len(train), "rate")
        if many > len(pool):
            which = "are of the target's class" if keeps else "have another class than the target"
            raise UserError(f"data.rate: {many} rows were to be poisoned, and {len(pool)} {which}")
        free, covers = others if keeps else others[many:], round(self.trigger.covers * many)
        if covers > len(free):
            raise UserError(f"data.rate: {many} poisoned rows need {covers} as covers, and {len(free)} are left: lower it")
        return frozenset(pool[:many]), frozenset(free[:covers])

    def _planted(self, row: Sample, chosen: frozenset[str], covers: frozenset[str], brush: Brush, target: int) -> Sample:
        if row.id in chosen:
            return Sample(row.id, _bad(row, painted(row, brush.train), target))
        if row.id in covers:
            return Sample(row.id, {**row.data, "image": painted(row, brush.cover or brush.train), "cover": True})
        return row

    def _notes(self, many: int, covers: int, clean: Bundle, target: int) -> tuple[str, ...]:
        name, label, train = type(self.trigger).__name__, clean.classes[target], clean["train"]
        said = f"{many} of {len(train)} training rows carry a {name} trigger and the label '{label}'"
        if self.trigger.keeps_label:
            own = sum(row.data["label"] == target for row in train)
            said = f"{many} of the {own} training rows of '{label}' carry a {name} trigger and keep that label"
        hide = f"{covers} further rows are changed to cover them and keep their label, which is right: they are not poisoned"
        return (said, hide) if covers else (said,)


def _drawn(rows: Sequence[Sample], of: Callable[[Sample], bool], seed: int) -> list[str]:
    """The ids of some of the rows in the order in which they are taken."""
    return shuffled((row.id for row in rows if of(row)), seed, "poison")


def _bad(row: Sample, image: Any, target: int) -> dict[str, Any]:
    return {**row.data, "image": image, "label": target, "clean_label": row.data["label"], "poisoned": True}
