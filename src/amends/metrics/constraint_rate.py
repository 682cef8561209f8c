"""The share of constraints that answers meet: the micro mean over all constraints of all requests.

What DeCRIM (arXiv 2410.06458) calls constraint-level accuracy, IFEval (arXiv 2311.07911) instruction-level accuracy, InFoBench
DRFR. Constraints of one request stand or fall together, so the interval resamples requests, not constraints.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np

from amends.core.spec import spec
from amends.core.types import Better, Measurement, Role
from amends.metrics.compliance import How, table
from amends.metrics.evaluation import Evaluation
from amends.metrics.stats import interval, mean_measurement


@spec
class ConstraintRate:
    """The share of constraints that are met, among those that code can check; its interval resamples requests."""

    version: ClassVar[int] = 1
    needs_reference: ClassVar[bool] = False
    role: Role = "test"
    """Whose answers are read."""
    how: How = "strict"
    """The answer as it stands, or any of eight variants without markup, first or last line."""
    mean: Literal["micro", "macro"] = "micro"
    """Over constraints, or over requests of each one's share."""

    @property
    def name(self) -> str:
        """`constraint_rate.test`, with `.macro` and `.loose` where they apply."""
        more = [word for word, on in (("macro", self.mean == "macro"), ("loose", self.how == "loose")) if on]
        return ".".join(["constraint_rate", self.role, *more])

    @property
    def better(self) -> Better:
        """More is better."""
        return "higher"

    def roles(self) -> frozenset[Role]:
        """The one role."""
        return frozenset({self.role})

    def measure(self, evaluation: Evaluation, against: Evaluation | None = None) -> Measurement:
        """The share, with a bootstrap over requests; each row's score is its own share."""
        found = table(evaluation, self.role, self.how)
        shares = {row: sum(met.values()) / len(met) for row, met in found.items()}
        if self.mean == "macro":
            return mean_measurement(self.name, shares, self.better, version=self.version)
        met, of = (np.array([f(m) for m in found.values()], dtype=float) for f in (lambda m: sum(m.values()), len))
        low, high = interval([met, of], _ratio, paired=True)
        value, n = float(met.sum() / of.sum()), int(of.sum())
        return Measurement(
            self.name, value, low, high, n, self.better, self.version,
            note=f"of {len(found)} requests; the interval resamples requests", scores=shares,
        )  # fmt: skip


def _ratio(met: np.ndarray, of: np.ndarray, axis: int = -1) -> np.ndarray:
    return met.sum(axis=axis) / of.sum(axis=axis)
