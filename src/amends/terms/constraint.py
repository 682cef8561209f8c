"""A constraint in place of a coefficient: any term is kept at or below a bound, by a multiplier that is learned.

min_theta L_forget(theta) subject to L(theta) <= bound has the Lagrangian L_forget + m (L - bound), m >= 0. Descent on
theta and ascent on m alternate: m <- max(0, m + rate (L - bound)) with L the step's mean value. While the bound holds
with room to spare m falls to 0 and the forget terms move freely; where it is broken m rises until it holds again. This
is the primal-dual half of PDU (arXiv 2506.05314), which has a retain cross-entropy under it; here it takes any term.

open-unlearning's PDU moves the multiplier once an epoch or once a step after a warm-up of some epochs, and starts it at
100 (TOFU, rate 5) or 50 (MUSE, rate 1), for a forget loss in squared logits. `warmup` counts steps here.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import SkipValidation

from amends.core.protocols import Need, Per, View
from amends.core.spec import NonNegative, Part, Positive, Weighted, spec
from amends.core.types import Mean, Role
from amends.terms.nll import NLL


@spec
class Constraint:
    """Keeps another term at or below a bound, with a multiplier that is learned instead of a coefficient (PDU)."""

    term: Annotated[Any, Part("terms"), SkipValidation] = NLL()
    """The term that is bounded, on its own role."""
    at_most: float = 0.3
    """The bound, in the term's own units (nats a token for `nll`)."""
    start: NonNegative = 1.0
    """The multiplier before the first step."""
    rate: NonNegative = 1.0
    """How far one step moves it for each unit above or below the bound."""
    warmup: NonNegative = 0
    """Steps before it begins to move."""
    ceiling: Positive = 1e6
    """The largest value it may take."""

    @property
    def needs(self) -> frozenset[Need]:  # type: ignore[override]
        """What the term inside needs."""
        return self._inside.needs

    @property
    def role(self) -> Role:
        """The role of the term inside."""
        return self._inside.role

    @property
    def per(self) -> Per:
        """What the term inside is a mean over."""
        return self._inside.per

    @property
    def _inside(self) -> Any:
        return self.term.term if isinstance(self.term, Weighted) else self.term

    def __call__(self, view: View) -> Mean:
        """The term inside; the bound is a constant and has no gradient."""
        return self._inside(view)

    def first(self) -> float:
        """The multiplier at step 0."""
        return self.start

    def following(self, multiplier: float, value: float, step: int) -> float:
        """One step of dual ascent, kept within 0 and the ceiling."""
        if step < self.warmup:
            return multiplier
        return min(max(0.0, multiplier + self.rate * (value - self.at_most)), self.ceiling)
