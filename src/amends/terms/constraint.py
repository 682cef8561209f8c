"""A constraint in place of a coefficient: any term is kept at or below a bound, by a multiplier that is learned.

min_theta L_forget(theta) subject to L(theta) <= bound has the Lagrangian L_forget + m (L - bound), m >= 0. Descent on
theta and ascent on m alternate: m <- max(0, m + rate (L - bound)) with L the step's mean value. While the bound holds
with room to spare m falls to 0 and the forget terms move freely; where it is broken m rises until it holds again. This
is the primal-dual half of PDU (Constrained Entropic Unlearning, arXiv 2506.05314), which has a retain cross-entropy
under it; here it takes any term.

PDU's own settings start m at 100 (TOFU, rate 5, bound 0.3) or 50 (MUSE, rate 1) and move it at each step once 5 or 3
epochs of warm-up are over; `warmup` counts steps here. The released code moves it once for each piece of an accumulated
batch, and in each process by that process's rows alone, so that processes come to differ; here it moves once a step, by
the value of the whole step, and is the same everywhere. The code's other choice, once an epoch by all retain rows, is
not offered.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import AfterValidator, Field

from amends.core.protocols import Need, Per, View
from amends.core.spec import Natural, NonNegative, Part, Positive, Weighted, spec
from amends.core.types import Mean, Role
from amends.terms.nll import NLL


def _plain(given: Any) -> Any:
    """The term that was given, from Python as it is or from YAML as a summand with a weight, which must be 1."""
    term, weight = (given.term, given.weight) if isinstance(given, Weighted) else (given, 1.0)
    if weight != 1.0:
        raise ValueError("the multiplier takes the place of the weight: remove `weight`, or scale `at_most`")
    if isinstance(term, Constraint):
        raise ValueError("a constraint bounds a term, not another constraint")
    return term


@spec
class Constraint:
    """Keeps another term at or below a bound, with a multiplier that is learned instead of a coefficient (PDU)."""

    term: Annotated[Any, Part("terms"), AfterValidator(_plain)] = NLL()
    """The term that is bounded, on its own role."""
    at_most: Annotated[float, Field(allow_inf_nan=False)] = 0.3
    """The bound, in the term's own units (nats a token for `nll`)."""
    start: NonNegative = 1.0
    """The multiplier before the first step."""
    rate: NonNegative = 1.0
    """How far one step moves it for each unit above or below the bound."""
    warmup: Natural = 0
    """Steps before it begins to move."""
    ceiling: Positive = 1e6
    """The largest value it may take."""

    @property
    def needs(self) -> frozenset[Need]:  # type: ignore[override]
        """What the term inside needs."""
        return self.term.needs

    @property
    def role(self) -> Role:
        """The role of the term inside."""
        return self.term.role

    @property
    def per(self) -> Per:
        """What the term inside is a mean over."""
        return self.term.per

    def __call__(self, view: View) -> Mean:
        """The term inside; the bound is a constant and has no gradient."""
        return self.term(view)

    def first(self) -> float:
        """The multiplier at step 0."""
        return min(self.start, self.ceiling)

    def following(self, multiplier: float, value: float, step: int) -> float:
        """One step of dual ascent, kept within 0 and the ceiling."""
        if step < self.warmup:
            return multiplier
        return min(max(0.0, multiplier + self.rate * (value - self.at_most)), self.ceiling)
