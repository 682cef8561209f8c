"""What the auditors share: rows by their class, the checks that they can be told one, and the highest of some scores."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from amends.core.errors import UserError
from amends.core.types import Role, Sample
from amends.data.bundle import Bundle

TRUTH = ("poisoned", "clean_label", "cover")
"""What a row's data says of how it was made; an auditor does not get to see it."""


def blind(data: Bundle) -> Bundle:
    """The rows without what is known of them, and without the rows that carry the attacker's trigger by construction."""
    roles = {role: tuple(map(_blind, rows)) for role, rows in data.roles.items() if role != "triggered"}
    return Bundle(roles, classes=data.classes)


def _blind(row: Sample) -> Sample:
    if not any(key in row.data for key in TRUTH):
        return row
    return Sample(row.id, {key: value for key, value in row.data.items() if key not in TRUTH})


def check_classifier(data: Bundle, role: Role, subject: Any | None, use: str) -> None:
    """Raises UserError unless the rows have classes, and the model, where there is one yet, tells them."""
    if not data[role]:
        raise UserError(f"{use}: role '{role}' is empty: there is nothing to audit")
    for row in data[role]:
        if "label" not in row.data:
            raise UserError(f"{use}: row {row.id} of '{role}' has no label: it audits rows that have a class")
    if subject is not None and not getattr(subject, "predicts_one_class", False):
        raise UserError(f"{use}: the model tells no class of a row: it audits what a classifier was trained on")


def by_class(rows: Iterable[Sample]) -> dict[int, list[Sample]]:
    """The rows of each label, the labels and the ids in order, whatever the order they came in."""
    found: dict[int, list[Sample]] = {}
    for row in sorted(rows, key=lambda row: (int(row.data["label"]), row.id)):
        found.setdefault(int(row.data["label"]), []).append(row)
    return found


def stacked(table: Mapping[str, np.ndarray], rows: Sequence[Sample]) -> np.ndarray:
    """[N, C] the features of some rows, their mean taken away."""
    values_NC = np.stack([table[row.id] for row in rows])
    return values_NC - values_NC.mean(0)


def highest(score: Mapping[str, float], many: int) -> frozenset[str]:
    """The ids of so many highest scores; equal ones in the order of their ids.

    >>> sorted(highest({"a": 0.1, "b": 0.9, "c": 0.9}, 1))
    ['b']
    """
    return frozenset(sorted(score, key=lambda row: (-score[row], row))[:many])
