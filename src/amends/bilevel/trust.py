"""Whether a hypergradient is to be trusted: what was seen on the way to it, and the bounds that it is held to.

No bound is a wall-clock or a taste: each names an error of the answer. What is None was not looked at by the strategy.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from amends.core.errors import UserError
from amends.core.spec import Natural, Positive, spec


@dataclass(frozen=True)
class Diagnosis:
    """What a strategy saw of the lower level and of its linear system H v = b, b the upper loss's slope in y."""

    residual: float | None = None
    """|(H + damping) v - b| / |b|, of the product itself and not of the recursion's own idea of it."""
    bias: float | None = None
    """|H v - b| / |b| with the undamped, true Hessian: what damping or a stand-in for H costs."""
    stationarity: float | None = None
    """How far, as a share of |y|, the inner parameters are from the minimum along the lower loss's gradient: d / (|y| + d)
    with d the length of its best step."""
    largest: float | None = None
    """The largest curvature of the lower loss that was met: at most its largest eigenvalue."""
    smallest: float | None = None
    """The smallest one, of either sign: at least the smallest eigenvalue."""
    exact: bool = False
    """Whether the two are the ends of the spectrum and no bounds: the probe took as many steps as there are parameters."""
    lower_linear: bool = False
    """Whether the lower loss has no curvature at all."""
    assumes_minimum: bool = True
    """Whether the strategy is wrong where the lower Hessian is not positive definite."""
    solves: bool = False
    """Whether the strategy claims to solve the linear system."""
    radius: float | None = None
    """Of a series: by what each term is longer than the one before; 1 and more does not converge."""
    step: float | None = None
    """Of a series: the step it was taken with."""
    multiplier: float | None = None
    """The smallest multiplier of an active constraint, as a share of the lower loss's slope; near 0 the active set is about to
    change, and F has no derivative."""
    products: int = 0
    """How many Hessian-vector products it took."""
    finite: bool = True
    """Whether every number of the answer is one."""


class NotTrusted(UserError):
    """A hypergradient that should not be used: the sentence says what was seen, and what to change."""

    def __init__(self, sentence: str, diagnosis: Diagnosis) -> None:
        super().__init__(sentence)
        self.diagnosis = diagnosis


Bound = Annotated[float, Field(gt=0)] | None


@spec
class Trust:
    """The bounds that an answer must keep; None switches one off."""

    residual: Bound = 0.01
    """The largest relative residual of a linear system that a strategy claims to solve."""
    bias: Bound = 0.1
    """The same against the undamped Hessian; a declared approximation of H is not held to it."""
    stationarity: Bound = 0.01
    """How far from its minimum the lower level may be, as a share of the inner parameters' length."""
    curvature: bool = True
    """Refuse a lower level with negative or no curvature, where the strategy needs a minimum."""
    multiplier: Bound = 1e-6
    """The smallest multiplier of an active constraint, as a share of the lower loss's slope."""
    singular: Positive = 1e-10
    """The smallest curvature, as a share of the largest, that still counts as some; a hundred roundings at the least."""
    probe: Natural = 8
    """Lanczos steps, from a random direction, that look for the ends of the spectrum; 0: only what the solver meets anyway."""

    @staticmethod
    def blind() -> Trust:
        """No bound and no probe: for studies of what goes wrong."""
        return Trust(residual=None, bias=None, stationarity=None, curvature=False, probe=0)

    def check(self, d: Diagnosis) -> None:
        """Raises NotTrusted for the first bound that is not kept."""
        found = next((sentence for sentence in self._complaints(d) if sentence), None)
        if found is not None:
            raise NotTrusted(found, d)

    def _complaints(self, d: Diagnosis) -> list[str | None]:
        return [
            self._minimum(d), self._series(d), self._finite(d), self._residual(d), self._bias(d), self._held(d),
            self._stationary(d),
        ]  # fmt: skip

    def _series(self, d: Diagnosis) -> str | None:
        """A series that does not converge, by its own terms or by the curvature that was met."""
        if d.step is None or self.residual is None:
            return None
        known = d.largest is not None and d.largest > 0
        if not (d.radius is not None and d.radius >= 1) and not (known and d.step * (d.largest or 0.0) >= 2):
            return None
        most = f" (at most {1 / (d.largest or 1.0):.3g} is safe)" if known else ""
        return (
            f"the Neumann series with step {d.step:.3g} does not converge, each term is {_of(d.radius)} times the one "
            f"before and the lower loss has a curvature of {_of(d.largest)}: lower `step`{most}, or leave it null"
        )

    def _minimum(self, d: Diagnosis) -> str | None:
        if not self.curvature or not (d.assumes_minimum or d.solves):
            return None
        if d.lower_linear:
            return "the lower loss is linear in the inner parameters and has no minimum: add a regulariser to it"
        if d.smallest is None or d.largest is None:
            return None
        if d.assumes_minimum and d.smallest < -self.singular * max(d.largest, 0.0) and d.smallest < 0:
            return (
                f"the lower loss has negative curvature ({d.smallest:.3g}, the largest is {d.largest:.3g}): the inner "
                "parameters are at no minimum; solve the lower level further, regularise it, or use unroll, forward or f2sa"
            )
        if min(abs(d.smallest), abs(d.largest)) <= self.singular * max(abs(d.smallest), abs(d.largest)):
            return (
                f"the lower loss is flat in a direction (curvature {d.smallest:.3g}, the largest is {d.largest:.3g}): its "
                "minimum is no single point and implicit differentiation has no answer; regularise it, or use unroll, f2sa or "
                "bome"
            )
        return None

    @staticmethod
    def _finite(d: Diagnosis) -> str | None:
        if d.finite:
            return None
        return "the hypergradient or the inner parameters are not finite: lower the inner solver's lr"

    def _residual(self, d: Diagnosis) -> str | None:
        if self.residual is None or not d.solves or d.residual is None or d.residual <= self.residual:
            return None
        return (
            f"the linear system is not solved: its residual is {d.residual:.3g} of the right-hand side and at most "
            f"{self.residual:g} is trusted; raise the strategy's `steps`, add `damping`, or compute in float64"
        )

    def _bias(self, d: Diagnosis) -> str | None:
        if self.bias is None or not d.solves or d.bias is None or d.bias <= self.bias:
            return None
        return (
            f"the system that was solved is not the lower level's: against the true Hessian {d.bias:.3g} of the right-hand "
            f"side is left, and at most {self.bias:g} is trusted; lower `damping`, or use unroll or f2sa where the lower level "
            "is flat"
        )

    def _held(self, d: Diagnosis) -> str | None:
        if self.multiplier is None or d.multiplier is None or d.multiplier >= self.multiplier:
            return None
        return (
            f"an active constraint has a multiplier of {d.multiplier:.3g} of the lower loss's slope: the active set is about "
            "to change and there is no derivative; set `perturb`, or solve the lower level further"
        )

    def _stationary(self, d: Diagnosis) -> str | None:
        if self.stationarity is None or d.stationarity is None or d.stationarity <= self.stationarity:
            return None
        return (
            "the lower level has not converged: its best gradient step would move the inner parameters by "
            f"{d.stationarity:.3g} of their length, and at most {self.stationarity:g} is trusted; give the solver "
            "more steps, or use unroll"
        )


def _of(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.3g}"
