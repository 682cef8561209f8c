"""Implicit differentiation by conjugate gradients (Hestenes and Stiefel 1952; iMAML, arXiv 1909.04630).

From v = 0, r = p = b:  alpha = <r, r> / <p, H p>;  v += alpha p;  r' = r - alpha H p;  p' = r' + (<r', r'> / <r, r>) p, with
the NEW residual in the last step. H must be positive definite; every <p, H p> is a curvature that is met for nothing, and with
the alphas and betas so is Lanczos' tridiagonal matrix, whose eigenvalues bound the spectrum from inside.

An exact product takes one backward pass through the graph of a gradient: a gradient's time for a linear model, up to twice that
for a deep net, whose arithmetic in it is twice a gradient's. `product: difference` takes one gradient for each product, and one
for the cross derivative and the residual together: K + 2 in all, and no graph of a gradient. It is off by rounding, some 5e-4
of a product in float32; where an answer has to be better, or a loss is not smooth at that width, products are exact.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from amends.bilevel.curvature import Lower, Product
from amends.bilevel.implicit import Solved, implicit
from amends.bilevel.problem import Answer, Point
from amends.core.spec import Count, NonNegative, spec


@spec
class CG:
    """Implicit differentiation, the linear system by conjugate gradients: for lower levels with a minimum."""

    steps: Count = 20
    """At most so many Hessian-vector products for the system."""
    tolerance: NonNegative = 1e-8
    """Ends earlier where the residual is this share of the right-hand side."""
    damping: NonNegative = 0.0
    """Added to the Hessian's diagonal."""
    product: Literal["exact", "difference"] = "exact"
    """How the Hessian meets a vector: by a second derivative, or by a difference of two gradients (faster for deep nets)."""

    def __call__(self, at: Point) -> Answer:
        """The hypergradient at the solver's solution."""
        return implicit(at, self._solve, exact=self.product == "exact")

    def _solve(self, lower: Lower, b_D: Tensor) -> Solved:
        bare = lower.product if self.product == "exact" else lower.difference
        damped = (lambda p_D: bare(p_D).add_(p_D, alpha=self.damping)) if self.damping else bare
        v_D, met = conjugate_gradients(damped, b_D, steps=self.steps, tolerance=self.tolerance)
        return Solved(v_D, self.damping, tuple(c - self.damping for c in met))


def conjugate_gradients(product: Product, b_D: Tensor, *, steps: int, tolerance: float) -> tuple[Tensor, list[float]]:
    """v with H v = b, and curvatures of H that were met: both ends of those in the directions taken.

    Stops where a direction has no positive curvature, which is then among them; v is what there was before.
    """
    v_D, r_D, p_D = torch.zeros_like(b_D), b_D.clone(), b_D.clone()
    rr = float(b_D @ b_D)
    alphas: list[float] = []
    betas: list[float] = []
    bad: list[float] = []
    wanted = tolerance**2 * rr
    for _ in range(steps):
        image_D = product(p_D)
        curved = float(p_D @ image_D)
        if not curved > 0:
            bad = [curved / float(p_D @ p_D)] if math.isfinite(curved) else []
            break
        alphas.append(rr / curved)
        v_D.add_(p_D, alpha=alphas[-1])
        r_D.sub_(image_D, alpha=alphas[-1])
        before, rr = rr, float(r_D @ r_D)
        if rr <= wanted or rr == 0:
            break
        betas.append(rr / before)
        p_D.mul_(betas[-1]).add_(r_D)
    return v_D, [*_ritz(alphas, betas), *bad]


def _ritz(alphas: list[float], betas: list[float]) -> list[float]:
    """The ends of the spectrum of Lanczos' matrix, from what conjugate gradients computed."""
    if not alphas:
        return []
    image_KK = torch.zeros(len(alphas), len(alphas), dtype=torch.float64)
    for k, alpha in enumerate(alphas):
        image_KK[k, k] = 1 / alpha + (betas[k - 1] / alphas[k - 1] if k else 0.0)
        if k + 1 < len(alphas):
            image_KK[k, k + 1] = image_KK[k + 1, k] = math.sqrt(betas[k]) / alpha
    values = torch.linalg.eigvalsh(image_KK)
    return [float(values[0]), float(values[-1])]
