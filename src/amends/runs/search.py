"""A search with a declared budget: so many settings of each method, tried on a seed that no table shows, and one rule.

Learning rates and strengths decide tables of unlearning, so where they come from belongs to the result. No method gets
more trials than the budget. What is chosen is the trial that forgets most (the rank's `forgetting`) among those that keep at
least a share of the original's `keeping`; where none does, the one that keeps most. All trials of a method are stages of one
run on the search's own seed, for which the original and the retrained model are made anew from other rows, so no number of the
table has been looked at. What was tried, and what it gave, is kept beside what was chosen.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import SkipValidation

from amends.core.errors import UserError, nearest
from amends.core.rng import stream_seed
from amends.core.spec import Count, Fraction, Natural, spec
from amends.runs.methods import Method

P = TypeVar("P")
ALL = "all"
"""The key of `over` whose settings are tried with every method."""


@spec
class Search:
    """Which settings of each method are tried, how many, and what is good enough."""

    seed: Natural = 1000
    """The seed of the trials; a table's seeds are 0, 1, ..."""
    budget: Count = 8
    """Trials of each method; of a larger grid this many are drawn."""
    at_least: Fraction = 0.95
    """The share of the original's `keeping` that the chosen trial must keep."""
    forgetting: str | None = None
    """The measurement to choose by, such as `disparity.valid`; None: the rank's."""
    keeping: str | None = None
    """The measurement that must be kept, such as `accuracy.valid`; None: the rank's."""
    over: Annotated[Mapping[str, Any], SkipValidation]
    """Values of settings by method, as in `settings`: {npo: {lr: [1e-4, 3e-4], objective.0.beta: [0.05, 0.1]}}."""
    changes: Annotated[Mapping[str, Any], SkipValidation] = field(default_factory=dict)
    """Overrides of the recipe for the trials alone: quicker measurements, no attack."""

    def trials(self, method: Method) -> list[dict[str, Any]]:
        """The settings to try, in a fixed order; at least one, which may be no change at all.

        A method's variants try what the method tries, unless they are given values of their own.
        """
        axes = {**self.over.get(ALL, {}), **(self.over.get(method.name) or self.over.get(method.preset, {}))}
        points = [dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())]
        return drawn(points, self.budget, self.seed, method.preset)

    def check(self, at: str, methods: Iterable[str]) -> None:
        """Raises UserError for a method that does not exist, or values that are no list."""
        known = [ALL, *methods]
        for name, axes in self.over.items():
            if name not in known:
                raise UserError(f"{at}.over.{name}: no such method{nearest(str(name), known)}")
            if not isinstance(axes, Mapping) or not all(isinstance(v, list) and v for v in axes.values()):
                raise UserError(f"{at}.over.{name}: expected lists of values, such as {{lr: [1e-4, 3e-4]}}")

    def check_apart(self, seeds: Sequence[int]) -> None:
        """Raises UserError where the trials' seed is one of the table's."""
        if self.seed in seeds:
            raise UserError(f"search.seed: {self.seed} is also a seed of the table: choose settings on another one")


def drawn(points: list[P], budget: int, seed: int, *names: object) -> list[P]:
    """At most `budget` points of a grid, in its order; which ones is decided by the seed alone."""
    if len(points) <= budget:
        return points
    order = sorted(range(len(points)), key=lambda i: stream_seed(seed, "search", *names, i))
    return [points[i] for i in sorted(order[:budget])]


@dataclass(frozen=True)
class Trial:
    """One setting and what it gave."""

    settings: Mapping[str, Any]
    forgetting: float | None
    keeping: float | None
    seconds: float | None = None

    @property
    def tested(self) -> bool:
        """Whether both numbers are there."""
        return all(v is not None and not math.isnan(v) for v in (self.forgetting, self.keeping))


def best_of(trials: Sequence[Trial], better: Literal["higher", "lower"], floor: float) -> int | None:
    """The index of the trial to choose, or None where none left its numbers.

    Args:
        better: which way `forgetting` points.
        floor: what `keeping` must be at least.

    >>> rows = [Trial({"lr": 1}, 0.5, 0.9), Trial({"lr": 2}, 0.2, 0.8), Trial({"lr": 3}, 0.1, 0.3)]
    >>> best_of(rows, "lower", 0.75), best_of(rows, "lower", 0.95)
    (1, 0)
    """
    tested = [i for i, t in enumerate(trials) if t.tested]
    if not tested:
        return None
    sign = 1 if better == "lower" else -1

    def gone(i: int) -> float:
        return sign * float(trials[i].forgetting or 0.0)

    def kept(i: int) -> float:
        return float(trials[i].keeping or 0.0)

    able = [i for i in tested if kept(i) >= floor]
    return min(able, key=lambda i: (gone(i), -kept(i))) if able else min(tested, key=lambda i: (-kept(i), gone(i)))


def trial_rows(trials: Sequence[Trial], chosen: int | None) -> list[dict[str, Any]]:
    """The trials as plain values."""
    return [
        {**{k: getattr(t, k) for k in ("settings", "forgetting", "keeping", "seconds")}, "chosen": i == chosen}
        for i, t in enumerate(trials)
    ]


def names_of(trials: Sequence[object]) -> list[str]:
    """Stage names of trials: t01, t02, ..."""
    return [f"t{i:02d}" for i in range(1, len(trials) + 1)]


def read_trials(
    results: Mapping[str, Any], stages: Sequence[Mapping[str, Any]], settings: Sequence[Mapping[str, Any]], rank: Any
) -> list[Trial]:
    """What a run of trials measured, in the order of `settings`."""
    values = {(r["subject"], r["name"]): r["value"] for r in results["measurements"] if r["attack"] is None}
    seconds = {s["name"]: s["seconds"] for s in stages}
    return [
        Trial(s, values.get((name, rank.forgetting)), values.get((name, rank.keeping)), seconds.get(name))
        for name, s in zip(names_of(settings), settings, strict=True)
    ]


def folder_of(root: Path, method: str) -> Path:
    """Where a method's trials lie."""
    return root / "search" / method
