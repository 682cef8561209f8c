"""How far a classifier is from the retrained one: the mean gap of UA, RA, TA and MIA-efficacy (arXiv 2304.04934, table 2).

disparity = ( |UA - UA*| + |RA - RA*| + |TA - TA*| + |MIA - MIA*| ) / 4, * the retrained model of the same seed (and of
the same sparsity, where a stage names one in `against`). SalUn calls it the average gap; time is left out, as there. Lower
is better, and it says nothing without the row of a model that nothing was done to: where random rows are forgotten,
doing nothing is already close.

The interval is [max(0, d - r), d + r] with r the 95 % quantile of the mean of |g_i - g_i*| over resampled gaps g*: the
disparity of the resampled rows cannot move further. Rows are resampled in pairs of the two models, and together where two
parts rest on one role. It does not cover how training might have gone otherwise: that is what seeds are for.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

import numpy as np
from pydantic import Field

from amends.core.rng import stream_seed
from amends.core.spec import Count, spec
from amends.core.types import Better, Measurement, Role
from amends.metrics.class_accuracy import UA, told
from amends.metrics.evaluation import Evaluation
from amends.metrics.mia_efficacy import Attacker, MiaEfficacy
from amends.metrics.rows import required
from amends.metrics.stats import RESAMPLES

Part = Literal["ua", "ra", "ta", "mia"]


@spec
class Disparity:
    """Mean gap to the retrained model over UA, RA, TA and MIA-efficacy: 0 is no telling the two apart."""

    version: ClassVar[int] = 1
    better: ClassVar[Better] = "lower"
    needs_reference: ClassVar[bool] = True
    parts: tuple[Part, ...] = Field(default=("ua", "ra", "ta", "mia"), min_length=1)
    """Which gaps are averaged."""
    test: Role = "test"
    """The rows of TA and of the attacker's non-members; `valid` (with `data.valid`) to choose settings without them."""
    attacker: Attacker = "svc"
    """The attacker of MIA-efficacy."""
    most: Count | None = None
    """At most so many rows of each group for the attacker."""

    @property
    def name(self) -> str:
        """`disparity`, or `disparity.valid`."""
        return "disparity" if self.test == "test" else f"disparity.{self.test}"

    def roles(self) -> frozenset[Role]:
        """All it rests on."""
        return frozenset({"forget", "retain", self.test})

    def measure(self, evaluation: Evaluation, against: Evaluation | None = None) -> Measurement:
        """The mean gap; `scores` are each part's own gap, and the note says what it is made of."""
        mine, other = self.tables(evaluation), self.tables(required(against, self.name))
        means = {p: (_mean(mine[p][1]), _mean(other[p][1])) for p in mine}
        gaps = {p: abs(a - b) for p, (a, b) in means.items()}
        value = sum(gaps.values()) / len(gaps)
        radius = _radius(mine, other)
        note = ", ".join(f"{p.upper()} {a:.3f} (retrained {b:.3f})" for p, (a, b) in means.items())
        n = len({row for _, scores in mine.values() for row in scores})
        low, high = max(0.0, value - radius), value + radius
        return Measurement(self.name, value, low, high, n, self.better, self.version, note=note, scores=gaps)

    def tables(self, evaluation: Evaluation) -> dict[str, tuple[Role, dict[str, float]]]:
        """part -> (the role it rests on, each row's 0 or 1)."""
        mia = MiaEfficacy(attacker=self.attacker, others=self.test, most=self.most)
        known = {
            "ua": lambda: ("forget", UA().scores(evaluation)),
            "ra": lambda: ("retain", told(evaluation, "retain")),
            "ta": lambda: (self.test, told(evaluation, self.test)),
            "mia": lambda: ("forget", mia.scores(evaluation)),
        }
        return {part: known[part]() for part in self.parts}


def _mean(scores: Mapping[str, float]) -> float:
    return sum(scores.values()) / len(scores)


def _radius(
    mine: Mapping[str, tuple[Role, Mapping[str, float]]], other: Mapping[str, tuple[Role, Mapping[str, float]]]
) -> float:
    """The 95 % quantile of how far all gaps together move when the rows of each role are drawn anew."""
    draws = np.random.default_rng(stream_seed(0, "bootstrap"))
    moved_S = np.zeros(RESAMPLES)
    for role in dict.fromkeys(role for role, _ in mine.values()):
        own = [p for p, (r, _) in mine.items() if r == role]
        apart_RP = np.array([[mine[p][1][row] - other[p][1][row] for p in own] for row in mine[own[0]][1]])
        kinds_KP, counts_K = np.unique(
            apart_RP, axis=0, return_counts=True
        )  # few kinds of rows: drawing counts is drawing rows
        drawn_SK = draws.multinomial(len(apart_RP), counts_K / len(apart_RP), size=RESAMPLES) / len(apart_RP)
        moved_S += np.abs(drawn_SK @ kinds_KP - apart_RP.mean(0)).sum(1)
    return float(np.quantile(moved_S, 0.95)) / len(mine)
