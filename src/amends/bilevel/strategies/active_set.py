"""Implicit differentiation with linear constraints on the lower level, A y <= b (SIGD, arXiv 2205.01608).

With the active rows A_a at y* (independent of one another, with multipliers above 0) y* moves along them:

    dy*/dx = -[H^-1 - H^-1 A_a^T (A_a H^-1 A_a^T)^-1 A_a H^-1] grad^2_yx g,

which is conjugate gradients among the directions that A_a leaves free: H has to be positive definite on those alone. A box's
active coordinates are simply held. Where the active set changes F has no derivative; SIGD adds a small random linear term to
the lower loss, after which such points are met with probability 0: `perturb`. A multiplier near 0 is an error otherwise.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from amends.bilevel.curvature import Lower
from amends.bilevel.implicit import Free, Solved, implicit
from amends.bilevel.problem import Answer, Linear, Point, Problem
from amends.bilevel.strategies.cg import conjugate_gradients
from amends.bilevel.tree import flat
from amends.core.errors import UserError
from amends.core.protocols import Params
from amends.core.spec import Count, NonNegative, Positive, spec


@spec
class ActiveSet:
    """Implicit differentiation of a lower level with linear constraints, along those that are active (SIGD)."""

    steps: Count = 20
    """At most so many Hessian-vector products for the system."""
    tolerance: NonNegative = 1e-8
    """Ends earlier where the residual is this share of the right-hand side."""
    slack: Positive = 1e-6
    """A constraint within this of its bound is active; in units of its row."""
    perturb: NonNegative = 0.0
    """The standard deviation of the random linear term in the lower loss."""

    def __call__(self, at: Point) -> Answer:
        """The hypergradient at the solver's solution. Raises UserError where there are no constraints, or broken ones."""
        held = at.problem.constraints
        if held is None:
            raise UserError("active_set: the problem has no `constraints`: use cg")
        if self.perturb:
            at = replace(at, problem=self._perturbed(at))
        free: list[Free] = []

        def free_at(lower: Lower) -> Free:
            free.append(self._free(held, lower))
            return free[0]

        def solve(lower: Lower, b_D: Tensor) -> Solved:
            v_D, met = conjugate_gradients(
                lambda p_D: free[0].onto(lower.product(p_D)), b_D, steps=self.steps, tolerance=self.tolerance
            )
            return Solved(v_D, curvatures=tuple(met))

        return implicit(at, solve, free_at)

    def _perturbed(self, at: Point) -> Problem:
        lower, size = at.problem.lower, sum(v.numel() for v in at.inner.values())
        tilt_D = self.perturb * torch.randn(size, generator=at.rng, dtype=torch.float64)

        def tilted(outer: Params, inner: Params) -> Tensor:
            y_D = flat(inner.values())
            return lower(outer, inner) + tilt_D.to(y_D) @ y_D

        return replace(at.problem, lower=tilted)

    def _free(self, held: Linear, lower: Lower) -> Free:
        """The directions along the active constraints, and the smallest multiplier of an inequality among them."""
        y_D = flat(lower.inner.values()).detach()
        matrix_MD, bound_M = held.matrix_MD.to(y_D), held.bound_M.to(y_D)
        room_M = (bound_M - matrix_MD @ y_D) / matrix_MD.norm(dim=1)
        broken = room_M.clone()
        broken[: held.num_equal] = -broken[: held.num_equal].abs()
        if len(broken) and float(broken.min()) < -self.slack:
            raise UserError(
                f"active_set: the inner parameters break constraint {int(broken.argmin())} by {-float(broken.min()):.3g}: "
                "the solver has to keep the constraints, as `Projected` does"
            )
        active_M = room_M <= self.slack
        rows_AD = matrix_MD[active_M]
        if not len(rows_AD):
            return Free()
        kinds = torch.arange(len(room_M), device=y_D.device)[active_M] >= held.num_equal
        slope_D = lower.slope_D
        multipliers_A = torch.linalg.lstsq(rows_AD.T, -slope_D[:, None], driver="gelsd").solution[:, 0] * rows_AD.norm(dim=1)
        smallest = float(multipliers_A[kinds].min()) / (float(slope_D.norm()) or 1.0) if kinds.any() else None
        values, basis_AD = torch.linalg.svd(rows_AD, full_matrices=False)[1:]
        basis_RD = basis_AD[values > 1e-10 * values.max()]
        return Free(lambda v_D: v_D - basis_RD.T @ (basis_RD @ v_D), smallest)
