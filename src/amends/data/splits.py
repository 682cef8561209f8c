"""Deterministic splits: which units (authors, classes) are forgotten, held out and retained.

Orders come from hashes of the items themselves, not from a generator's state: the same on every machine and every
version of Python, and adding one item moves no other pair.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from amends.core.errors import UserError
from amends.core.rng import stream_seed
from amends.core.types import Sample

T = TypeVar("T")


@dataclass(frozen=True)
class Split(Generic[T]):
    """Three disjoint parts that cover the whole, each in the original order."""

    retain: tuple[T, ...]
    holdout: tuple[T, ...]
    """Never trained on: what members are told apart from."""
    forget: tuple[T, ...]


def split_last(units: Sequence[T], forget: float, holdout: float) -> Split[T]:
    """The last units are forgotten, as in TOFU, the ones before them held out, the rest retained.

    Raises UserError when nothing is left to retain.

    >>> split_last("abcdef", forget=2, holdout=1)
    Split(retain=('a', 'b', 'c'), holdout=('d',), forget=('e', 'f'))
    """
    gone, out = how_many(forget, len(units), "forget"), how_many(holdout, len(units), "holdout")
    kept = len(units) - gone - out
    if kept < 1:
        raise UserError(f"data: forget={gone} and holdout={out} leave none of {len(units)} to retain: lower one of them")
    return Split(tuple(units[:kept]), tuple(units[kept : kept + out]), tuple(units[kept + out :]))


def how_many(amount: float, total: int, key: str) -> int:
    """A share of the total when below 1 (at least one unit, unless 0), else a number of units.

    >>> how_many(0.1, 40, "forget"), how_many(20, 200, "forget"), how_many(0.1, 4, "forget"), how_many(0, 4, "holdout")
    (4, 20, 1, 0)
    """
    if amount >= 1 and amount != int(amount):
        raise UserError(f"data.{key}: {amount} is neither a share below 1 nor a whole number")
    return int(amount) if amount >= 1 else max(round(amount * total), int(amount > 0))


def shuffled(items: Iterable[T], seed: int, *names: object) -> list[T]:
    """The items in an order that depends on the seed, the stream's names and the items alone, not on their order."""
    return sorted(items, key=lambda item: stream_seed(seed, *names, item))


def split_off(rows: Sequence[Sample], share: float, seed: int, *names: object) -> tuple[tuple[Sample, ...], tuple[Sample, ...]]:
    """(the rest, the part): a share of the rows, drawn by their ids, both in the original order; at least one goes, one stays.

    Raises UserError when there are fewer than two.
    """
    if len(rows) < 2:
        raise UserError(f"data: {len(rows)} row(s) cannot be split in two")
    order = shuffled((row.id for row in rows), seed, *names)
    part = set(order[: min(len(rows) - 1, max(1, round(share * len(rows))))])
    return tuple(row for row in rows if row.id not in part), tuple(row for row in rows if row.id in part)
