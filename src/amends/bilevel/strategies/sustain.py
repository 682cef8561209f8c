"""SUSTAIN (arXiv 2102.07367): one step of each level at a time, both along momenta that take their own noise out.

With the same rows at this point and at the one before,

    h_t = s(x_t, y_t) + (1 - beta) (h_{t-1} - s(x_{t-1}, y_{t-1})),

for the lower level's gradient (s = grad_y g, y_{t+1} = y_t - lr h) and for the hypergradient (s = stocBiO's estimate). Without
noise h is s itself. No inner loop: the solver is not used.
"""

from __future__ import annotations

import torch

from amends.bilevel.problem import Answer, Point
from amends.bilevel.solvers import gradient
from amends.bilevel.strategies.stocbio import estimate, looked
from amends.bilevel.tree import add, detached
from amends.core.protocols import Params
from amends.core.spec import Count, Fraction, Positive, spec


@spec
class Sustain:
    """Stochastic steps of both levels along variance-reduced momenta, without an inner loop (SUSTAIN)."""

    lr: Positive
    """The step of the inner parameters."""
    step: Positive
    """The step of Neumann's series."""
    steps: Count = 10
    """Factors of the series."""
    beta: Fraction = 0.1
    """What a step's own sample weighs in both momenta: 1 is no momentum."""

    def __call__(self, at: Point) -> Answer:
        """The hypergradient's momentum, and the inner parameters after a step along theirs."""
        here = estimate(at, at.outer, at.inner, step=self.step, steps=self.steps, first=1)
        slope = self._slope(at, at.outer, at.inner)
        upper, lower = here.gradient, slope
        if at.memory:
            outer, inner = at.memory["outer"], at.memory["inner"]
            before = estimate(at, outer, inner, step=self.step, steps=self.steps, first=1).gradient
            upper = add(upper, add(at.memory["upper"], before, -1.0), 1 - self.beta)
            lower = add(lower, add(at.memory["lower"], self._slope(at, outer, inner), -1.0), 1 - self.beta)
        memory = {"outer": detached(at.outer), "inner": detached(at.inner), "upper": upper, "lower": lower}
        moved = add(at.inner, lower, -self.lr)
        seen = looked(at, at.inner, here.radius, step=self.step, steps=self.steps, first=1)
        return Answer(upper, moved, here.value, seen, memory)

    @staticmethod
    def _slope(at: Point, outer: Params, inner: Params) -> Params:
        with torch.no_grad():
            return gradient(at.draw(0).lower, outer, inner)[0]
