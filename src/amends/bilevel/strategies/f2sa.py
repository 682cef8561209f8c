"""A fully first-order hypergradient by a penalty on the lower level's value (F2SA, arXiv 2301.10945).

min f(x, y) + sigma (g(x, y) - min_z g(x, z)) has, at its own minimum y_sigma and at z = y*(x), the gradient

    grad_x f(x, y_sigma) + sigma (grad_x g(x, y_sigma) - grad_x g(x, z)),

which differs from dF/dx by O(1 / sigma): no second derivative, and no Hessian to invert. The solver finds z on g and y_sigma
on g + f / sigma, which has nearly g's curvature, so one step size serves both; each starts where it was left. The authors let
sigma grow from step to step: `growth`.
"""

from __future__ import annotations

from dataclasses import replace

from amends.bilevel.problem import Answer, Point, Problem, Upper, combined
from amends.bilevel.solvers import Closed, Given
from amends.bilevel.tree import filled
from amends.core.errors import UserError
from amends.core.spec import NonNegative, Positive, spec


@spec
class F2SA:
    """A penalty on the lower level's value: first derivatives only, and no single minimum needed (F2SA)."""

    sigma: Positive = 100.0
    """The penalty's weight; the bias is of order 1 / sigma, and float32 loses digits as it grows."""
    growth: NonNegative = 0.0
    """sigma at outer step t is sigma (1 + t)^growth."""

    def __call__(self, at: Point) -> Answer:
        """The gradient of the penalised problem, at both solutions. Raises UserError for a solver that follows no loss."""
        if isinstance(at.solver, (Closed, Given)):
            raise UserError("f2sa: it solves two lower levels, and the solver knows one: use `gd` or `fitted`")
        sigma = self.sigma * (1 + at.step) ** self.growth
        lower, upper = at.problem.lower, at.problem.upper
        mixed = replace(at.problem, lower=lambda x, y: lower(x, y) + upper(x, y) / sigma)
        z = at.solved()
        y = replace(at, problem=mixed, inner=at.memory.get("penalised", z)).solved()
        found = Upper.of(at.problem, at.outer, y)
        at_y, at_z = (Upper.of(Problem(lower, lower), at.outer, point).outer for point in (y, z))
        if any(slope is not None for slope in at_y.values()):
            above, below = filled(at_y, at.outer), filled(at_z, at.outer)
            rest = {n: None if at_y[n] is None else sigma * (below[n] - above[n]) for n in at.outer}
        else:
            rest = {}
        return Answer(combined(found, rest, at.outer), z, found.value, memory={"penalised": y})
