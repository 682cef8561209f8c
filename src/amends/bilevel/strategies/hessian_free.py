"""Implicit differentiation with H ~ lambda I (BiP, arXiv 2210.04092; Fast-BAT, arXiv 2112.12376).

v = grad_y f / lambda: what is left of H where the loss is piecewise linear and lambda is the lower level's ridge. Biased
elsewhere; the diagnosis says by how much (`bias`, against the true Hessian), and the answer is not held to it.
"""

from __future__ import annotations

from amends.bilevel.implicit import Solved, implicit
from amends.bilevel.problem import Answer, Point
from amends.core.spec import Positive, spec


@spec
class HessianFree:
    """Implicit differentiation with a multiple of the identity in the place of the lower Hessian (BiP, Fast-BAT)."""

    curvature: Positive
    """The lambda: the strength of the lower level's quadratic regulariser."""

    def __call__(self, at: Point) -> Answer:
        """The hypergradient at the solver's solution."""
        return implicit(
            at, lambda lower, b_D: Solved(b_D / self.curvature, solves=False)
        )  # fmt: skip
