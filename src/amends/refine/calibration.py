"""How good is a critic on *your* constraints? Measured against the checkers, which know, before it is believed on the rest.

The class that matters is "violated": it starts a rewrite. With V the violated and M the met constraints (by the checkers),

    TPR = share of V that the critic calls violated,   TNR = share of M that it calls met,
    balanced accuracy = (TPR + TNR) / 2,   kappa = (p_o - p_e) / (1 - p_e).

Verdicts that it could not give are left out of the rates and counted. Rates have Wilson's interval; balanced accuracy and
kappa a bootstrap over *requests*, since verdicts on one answer fail together. A critic that only guesses has TPR + TNR = 1.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple, Protocol

import numpy as np

from amends.chat.client import Client, Usage
from amends.constraints.constraint import Constraint, Request, Verdict
from amends.constraints.looked import look
from amends.core.chance import no_better
from amends.core.rng import stream_seed

RESAMPLES = 1000
Z = 1.959963984540054
"""Of a 95 % interval."""
OVERALL = ""
"""The category that holds all pairs."""


class Case(NamedTuple):
    """One answer to judge."""

    request: Request
    text: str


class Pair(NamedTuple):
    """What is true and what was said of one constraint of one answer."""

    request: str
    category: str
    truth: bool
    """Whether the constraint is met."""
    said: bool | None


class Estimate(NamedTuple):
    """A value with its 95 % interval; NaN where there is nothing to take it from."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Rates:
    """A critic on one category of constraints."""

    n: int
    """Verdicts that could be read."""
    violated: int
    """Of these, on constraints that are violated."""
    unknown: int
    """Verdicts of "cannot tell"."""
    tpr: Estimate
    tnr: Estimate
    balanced: Estimate
    kappa: Estimate
    warning: str = ""
    """Empty, or why this critic should not be believed here."""

    @property
    def worse_than_chance(self) -> bool:
        """Whether following it is no better than following a coin."""
        return bool(self.warning)


@dataclass(frozen=True, slots=True)
class Calibration:
    """A critic by category of constraint, the category "" being all of them."""

    by_category: dict[str, Rates]
    usage: Usage = field(default_factory=Usage)

    @property
    def overall(self) -> Rates:
        """Over all constraints."""
        return self.by_category[OVERALL]

    def trusts(self, category: str) -> bool:
        """Whether to believe it on a category: by its own rates where both classes were seen there, else by all."""
        own = self.by_category.get(category)
        if own is None or math.isnan(own.balanced.value):
            own = self.overall
        return not own.worse_than_chance


def rates(pairs: Sequence[Pair], seed: int = 0) -> Rates:
    """The rates of some pairs; NaN for a class that does not occur."""
    read = [p for p in pairs if p.said is not None]
    requests = sorted({p.request for p in read})
    index = {name: i for i, name in enumerate(requests)}
    counts_R4 = np.zeros((max(len(requests), 1), 4))
    for p in read:  # columns: violated and said so, violated and missed, met and said so, met and accused
        counts_R4[index[p.request], (0 if p.said is False else 1) if not p.truth else (2 if p.said else 3)] += 1
    tp, fn, tn, fp = counts_R4.sum(0)
    tpr, tnr = _wilson(tp, tp + fn), _wilson(tn, tn + fp)
    draws_B4 = _resampled(counts_R4, seed)
    balanced = _estimate(float(_balanced(counts_R4.sum(0))), _balanced(draws_B4))
    kappa = _estimate(float(_kappa(counts_R4.sum(0))), _kappa(draws_B4))
    found = Rates(len(read), int(tp + fn), len(pairs) - len(read), tpr, tnr, balanced, kappa)
    return replace(found, warning=no_better(tpr.value, tnr.value, balanced.value, balanced.high))


def calibration(pairs: Sequence[Pair], usage: Usage | None = None, seed: int = 0) -> Calibration:
    """Rates by category and over all."""
    categories = sorted({p.category for p in pairs} - {OVERALL})
    by = {OVERALL: rates(pairs, seed)} | {c: rates([p for p in pairs if p.category == c], seed) for c in categories}
    return Calibration(by, usage or Usage())


class _Asked(Protocol):
    async def verdicts(
        self, request: Request, text: str, constraints: Sequence[Constraint], client: Client
    ) -> tuple[tuple[Verdict, ...], Usage]: ...


async def calibrated(critic: _Asked, cases: Iterable[Case], client: Client, *, hide: bool = True) -> Calibration:
    """A critic against the checkers on the cases' verifiable constraints, which it sees without their checkers if `hide`.

    A client that fails raises, as it does in the loop's critic: half a calibration is none.
    """
    pairs: list[Pair] = []
    usage = Usage()
    for request, text in cases:
        known = [c for c in request.constraints if c.verifiable]
        shown = [_without_checker(c) for c in known] if hide else known
        said, cost = await critic.verdicts(request, text, shown, client)
        usage = usage + cost
        by_id = {v.constraint: v.passed for v in said}
        pairs += [Pair(request.id, c.category, look(c.checker, text).passed, by_id.get(c.id)) for c in known]
    return calibration(pairs, usage)


def _without_checker(constraint: Constraint) -> Constraint:
    return replace(constraint, checker=None)  # type: ignore[type-var]


def _wilson(hits: float, n: float) -> Estimate:
    if n == 0:
        return Estimate(math.nan, math.nan, math.nan)
    p = hits / n
    middle = (p + Z**2 / (2 * n)) / (1 + Z**2 / n)
    half = Z / (1 + Z**2 / n) * math.sqrt(p * (1 - p) / n + Z**2 / (4 * n**2))
    return Estimate(float(p), float(max(middle - half, 0.0)), float(min(middle + half, 1.0)))


def _resampled(counts_R4: np.ndarray, seed: int) -> np.ndarray:
    """Sums over requests drawn with replacement: (draws, 4)."""
    n = len(counts_R4)
    drawn = np.random.default_rng(stream_seed(seed, "calibration"))
    return drawn.multinomial(n, [1 / n] * n, size=RESAMPLES) @ counts_R4


def _balanced(counts_4: np.ndarray) -> np.ndarray:
    tp, fn, tn, fp = np.moveaxis(counts_4, -1, 0)
    with np.errstate(invalid="ignore"):
        return (tp / (tp + fn) + tn / (tn + fp)) / 2


def _kappa(counts_4: np.ndarray) -> np.ndarray:
    """Cohen's; NaN where both sides say one and the same thing of everything, and agreement by chance is certain."""
    tp, fn, tn, fp = np.moveaxis(counts_4, -1, 0)
    with np.errstate(invalid="ignore"):
        n = tp + fn + tn + fp
        by_chance = ((tp + fn) * (tp + fp) + (tn + fp) * (tn + fn)) / n**2
        return np.where(by_chance < 1, ((tp + tn) / n - by_chance) / (1 - by_chance), math.nan)


def _estimate(value: float, draws: np.ndarray) -> Estimate:
    draws = draws[np.isfinite(draws)]
    if math.isnan(value) or not draws.size:
        return Estimate(value, value, value)
    low, high = np.quantile(draws, [0.025, 0.975])
    return Estimate(value, float(low), float(high))
