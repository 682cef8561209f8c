"""Training rows from one source, test rows and rows with an attacker's trigger from others, under one list of classes.

Sources number their classes each in its own way, so rows are matched by the names of their classes: a test set that lacks a
class, or a folder with the one class that an attacker aims at, keeps its labels right. Where `classes` are given (those of
a trained model, in the order of its outputs), labels follow them. Where one side has numbers for names, a label is what it is.

A class that the training rows' source names and that has no row is refused unless `empty` allows it: most of the time it
is a folder that was not filled, or a filter that took too much.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Annotated, Any

from pydantic import SkipValidation

from amends.core.errors import UserError, nearest
from amends.core.spec import Part, spec
from amends.core.types import Sample
from amends.data.arrays import without_rows
from amends.data.bundle import Bundle

_NUMBER = re.compile(r"(label|class)?[ _-]?\d+")


@spec
class Joined:
    """Rows of several labelled sources under one list of classes: train, test, and images with an attacker's trigger."""

    of: Annotated[Any, Part("data"), SkipValidation]
    """The source of the training rows; its test and triggered rows are kept unless others are given."""
    test: Annotated[Any, Part("data"), SkipValidation] = None
    """The source of the test rows: its own test rows, or its training rows where it has no others."""
    triggered: Annotated[Any, Part("data"), SkipValidation] = None
    """The source of images with the trigger and the attacker's label, read likewise."""
    clean: Annotated[Any, Part("data"), SkipValidation] = None
    """The source of rows known to be clean, from which auditors learn what is normal, read likewise."""
    classes: tuple[str, ...] = ()
    """Names of the classes in the order of a model's outputs; by default the training rows' own."""
    empty: bool = False
    """Whether a class may have no training rows."""

    def load(self, seed: int) -> Bundle:
        """Roles train, test, triggered and clean; raises UserError for a class that is unknown or has no rows."""
        first = self.of.load(seed)
        where = place(self.of)
        self._check_rows(first, where)
        classes = self._ordered(first, where)
        roles = {role: relabelled(rows, first.classes, classes, where) for role, rows in first.roles.items()}
        notes = list(first.notes)
        for role in ("test", "triggered", "clean"):
            source = getattr(self, role)
            if source is not None:
                found = source.load(seed)
                notes += found.notes
                roles[role] = _under(role, found, classes, place(source))
        return Bundle(roles, notes=tuple(notes), classes=classes).check()

    def _check_rows(self, first: Bundle, where: str) -> None:
        if not first.roles.get("train"):
            raise UserError(f"{where}: holds no training rows: nothing can be learned from it or found in it")
        bare = next((row.id for row in first["train"] if "label" not in row.data), None)
        if bare is not None:
            raise UserError(f"{where}: row {bare} has no label: use a source of labelled images or texts")
        gone = without_rows(first["train"], first.classes)
        if gone and not self.empty:
            raise UserError(
                f"{where}: no training row has the class {gone}: give it rows or take it out of the classes, or "
                "set data.empty: true if that is meant (amends audit: --allow-empty)"
            )

    def _ordered(self, first: Bundle, where: str) -> tuple[str, ...]:
        """The classes that labels follow."""
        if not self.classes:
            return first.classes
        if len(first.classes) > len(self.classes):
            raise UserError(
                f"{where}: has {len(first.classes)} classes, and the model {len(self.classes)}: it is not the data that the "
                "model was trained on"
            )
        more = self.classes[len(first.classes) :]
        used = {int(row.data["label"]) for row in first["train"]}
        return (*first.classes, *more) if _by_place(used, first.classes, self.classes) else self.classes


def _under(role: str, found: Bundle, classes: Sequence[str], where: str) -> tuple[Sample, ...]:
    """A source's rows for a role under ids that no training row has."""
    rows = found.roles.get("test") or found.roles.get("train") or ()
    if not rows:
        raise UserError(f"{where}: holds no rows, and data.{role} needs some")
    return tuple(Sample(f"{role}/{row.id}", row.data) for row in relabelled(rows, found.classes, classes, where))


def relabelled(rows: Sequence[Sample], mine: Sequence[str], theirs: Sequence[str], where: str) -> tuple[Sample, ...]:
    """The rows with labels in the order of `theirs`, by the names of the classes; raises UserError for an unknown one."""
    used = {int(row.data["label"]) for row in rows}
    if _by_place(used, mine, theirs):
        if max(used, default=0) >= len(theirs):
            raise UserError(
                f"{where}: a row has label {max(used)}, and there are {len(theirs)} classes, 0 to {len(theirs) - 1}"
            )
        return tuple(rows)
    places = {_plain(name): i for i, name in enumerate(theirs)}
    for label in sorted(used):
        if _plain(mine[label]) not in places:
            raise UserError(
                f"{where}: its class '{mine[label]}' is none of the model's or the training rows' "
                f"{len(theirs)} classes{nearest(mine[label], theirs)}: rename it; where a model has the same classes in the "
                "same order under other names, set subject.trust_order: true (amends audit: --trust-order)"
            )
    moved = {label: places[_plain(mine[label])] for label in used}
    if all(a == b for a, b in moved.items()):
        return tuple(rows)
    return tuple(Sample(row.id, {**row.data, "label": moved[int(row.data["label"])]}) for row in rows)


def _by_place(used: Iterable[int], mine: Sequence[str], theirs: Sequence[str]) -> bool:
    """Whether labels are compared as numbers: names differ, and on one side they only count."""
    known = set(map(_plain, theirs))
    if all(_plain(mine[label]) in known for label in used):
        return False
    counted = all(name == str(i) for i, name in enumerate(mine))
    return counted or (not meaningful(theirs) and len(mine) <= len(theirs))


def meaningful(names: Sequence[str]) -> bool:
    """Whether names say anything: `LABEL_3` and `3` do not.

    >>> meaningful(("cat", "dog")), meaningful(("LABEL_0", "LABEL_1")), meaningful(("0", "1"))
    (True, False, False)
    """
    return bool(names) and not any(_NUMBER.fullmatch(_plain(name)) for name in names)


def place(source: Any) -> str:
    """What a source's rows come from, for messages: its folder, file or name, else `data`."""
    inner = getattr(source, "of", None)
    named = next((str(v) for key in ("folder", "file", "name") if (v := getattr(source, key, None))), None)
    return named or (place(inner) if inner is not None else "data")


def _plain(name: str) -> str:
    return str(name).strip().lower()
