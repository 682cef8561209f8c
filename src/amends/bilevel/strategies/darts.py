"""The finite difference of DARTS (arXiv 1806.09055, equation 8): no second derivative, and H taken as I / lr.

    dF/dx ~ grad_x f - lr (grad_x g(x, y + e b) - grad_x g(x, y - e b)) / (2 e),    b = grad_y f,    e = radius / |b|:

one step of gradient descent with rate lr, looked through. The cross derivative has an error of order e^2; that H is no multiple
of the identity is an error of another kind, which nothing here measures: compare with finite differences of F.
"""

from __future__ import annotations

from amends.bilevel.problem import Answer, Point, Problem, Upper, combined
from amends.bilevel.tree import add, filled, flat
from amends.core.spec import Positive, spec


@spec
class Darts:
    """One step looked through, the cross derivative by a finite difference (DARTS): two more gradients, no Hessian."""

    lr: Positive
    """The step that is looked through: 1 over the curvature that the lower loss is taken to have."""
    radius: Positive = 0.01
    """How far the inner parameters are moved, as a length."""

    def __call__(self, at: Point) -> Answer:
        """The hypergradient at the solver's solution."""
        inner = at.solved()
        upper = Upper.of(at.problem, at.outer, inner)
        b = filled(upper.inner, inner)
        length = float(flat(b.values()).norm())
        lower = Problem(at.problem.lower, at.problem.lower)
        e = self.radius / length if length > 0 else 1.0
        ahead, behind = (Upper.of(lower, at.outer, add(inner, b, sign * e)).outer for sign in (1, -1))
        above, below = filled(ahead, at.outer), filled(behind, at.outer)
        cross = {n: None if ahead[n] is None else self.lr * (above[n] - below[n]) / (2 * e) for n in at.outer}
        return Answer(combined(upper, cross, at.outer), inner, upper.value)
