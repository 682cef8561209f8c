"""Implicit differentiation by the Neumann series (Lorraine et al., arXiv 1911.02590).

    v = a sum_{k=0..K} (I - a H)^k b,    which is H^-1 b for K -> infinity if 0 < a < 2 / lambda_max.

A larger a diverges, and released code does so without a word. Here a is 1 / lambda_max by power iteration where none is
given, and where one is given, its product with the largest curvature and the terms' growth decide whether there is an answer.
"""

from __future__ import annotations

import torch
from torch import Tensor

from amends.bilevel.curvature import Lower, largest_eigenvalue
from amends.bilevel.implicit import Solved, implicit
from amends.bilevel.problem import Answer, Point
from amends.core.spec import Count, Positive, spec


@spec
class Neumann:
    """Implicit differentiation, the linear system by the Neumann series."""

    steps: Count = 100
    """Terms behind the first one: a Hessian-vector product each."""
    step: Positive | None = None
    """The a of the series; null: 0.9 over the largest curvature by power iteration."""
    power: Count = 10
    """Products of the power iteration that finds the largest curvature."""

    def __call__(self, at: Point) -> Answer:
        """The hypergradient at the solver's solution."""
        return implicit(at, lambda lower, b_D: self._solve(lower, b_D, at.rng))

    def _solve(self, lower: Lower, b_D: Tensor, rng: torch.Generator) -> Solved:
        largest = largest_eigenvalue(lower.product, b_D, self.power, rng)
        step = self.step if self.step is not None else 0.9 / largest if largest > 0 else 1.0
        term_D, sum_D, radius = b_D, b_D.clone(), 0.0
        for _ in range(self.steps):
            before, term_D = term_D, term_D - step * lower.product(term_D)
            sum_D = sum_D + term_D
            radius = float(term_D.norm() / before.norm())
            small = float(term_D.norm()) <= torch.finfo(b_D.dtype).eps * float(sum_D.norm())
            if small or not radius < 1e3:
                break  # nothing is added any more; or it grows without bound, and the rest would only overflow
        return Solved(step * sum_D, curvatures=(largest,), radius=radius, step=step)
