"""Implicit differentiation by minimal residuals (Paige and Saunders 1975): for a Hessian that may have both signs.

Lanczos' directions q_1..q_K from b turn H into a tridiagonal matrix with one row more; v = sum y_k q_k with the y that makes
|H v - b| smallest. The implicit function theorem asks for an invertible H, not for a positive one: at a stationary point that
is no minimum (a saddle, a max-min) this is the derivative of that point. All K directions are kept, made orthogonal anew, where
the usual recurrence keeps three and loses their orthogonality.
"""

from __future__ import annotations

import torch
from torch import Tensor

from amends.bilevel.curvature import Krylov, Lower, lanczos
from amends.bilevel.implicit import Solved, implicit
from amends.bilevel.problem import Answer, Point
from amends.core.spec import Count, NonNegative, spec


@spec
class MINRES:
    """Implicit differentiation, the linear system by minimal residuals: for a Hessian of either sign."""

    steps: Count = 20
    """At most so many Hessian-vector products for the system, each with a vector that is kept."""
    damping: NonNegative = 0.0
    """Added to the Hessian's diagonal."""

    def __call__(self, at: Point) -> Answer:
        """The hypergradient at the solver's solution."""
        return implicit(at, self._solve)

    def _solve(self, lower: Lower, b_D: Tensor) -> Solved:
        found = lanczos(lambda p_D: lower.product(p_D) + self.damping * p_D, b_D, self.steps)
        met = tuple(end - self.damping for end in found.ends)
        return Solved(_smallest_residual(found, b_D), self.damping, met, assumes_minimum=False)


def _smallest_residual(found: Krylov, b_D: Tensor) -> Tensor:
    """argmin |H v - b| over the directions: a least-squares problem of K + 1 rows; no more of v than it needs."""
    size = len(found.image_KK)
    out = found.image_KK.new_zeros(1, size)
    out[0, -1] = found.rest
    system = torch.cat([found.image_KK, out]).double()
    right = torch.zeros(size + 1, dtype=torch.float64, device=b_D.device)
    right[0] = float(b_D.norm())
    weights_K = torch.linalg.pinv(system, rtol=1e-12) @ right
    return weights_K.to(b_D) @ found.basis_KD
