"""Implicit differentiation with the Fisher matrix of single rows' gradients, inverted exactly (WoodFisher, arXiv 2004.14340).

H ~ damping I + (1/N) sum_n g_n g_n^T, g_n the gradient of row n's own loss in y, and by the Woodbury identity

    v = (b - G^T (N damping I + G G^T)^-1 G b) / damping:

one N x N system, with N gradients in memory. The Fisher matrix is the Hessian where the lower level's model fits its rows, and
not elsewhere: the diagnosis has `bias` against the true one, and the answer is not held to it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from amends.bilevel.curvature import Lower
from amends.bilevel.implicit import Solved, implicit
from amends.bilevel.problem import Answer, Point
from amends.core.errors import UserError
from amends.core.spec import Count, Positive, spec


@spec
class Woodbury:
    """Implicit differentiation with the inverse Fisher matrix of single rows' gradients, by the Woodbury identity."""

    damping: Positive = 1e-3
    """The curvature where no row's gradient points: the strength of the lower level's quadratic regulariser."""
    at_most: Count = 4096
    """The most rows whose gradients are held together."""

    def __call__(self, at: Point) -> Answer:
        """The hypergradient at the solver's solution. Raises UserError where the problem has no losses of single rows."""
        if at.problem.rows is None:
            raise UserError("woodbury: the problem needs `rows`, the losses of single rows, or use cg")
        rows = at.problem.rows
        return implicit(at, lambda lower, b_D: self._solve(rows(lower.outer, lower.inner), lower, b_D))

    def _solve(self, losses_N: Tensor, lower: Lower, b_D: Tensor) -> Solved:
        if losses_N.ndim != 1 or len(losses_N) > self.at_most:
            got = f"a tensor of shape {tuple(losses_N.shape)}"
            raise UserError(f"woodbury: `rows` gave {got}, not [N] with N up to {self.at_most}: use fewer, or raise `at_most`")
        each = torch.eye(len(losses_N), dtype=losses_N.dtype, device=losses_N.device)
        found = torch.autograd.grad(
            losses_N, list(lower.inner.values()), each, is_grads_batched=True, allow_unused=True, materialize_grads=True
        )
        single_ND = torch.cat([f.reshape(len(losses_N), -1) for f in found], 1)
        gram_NN = (single_ND @ single_ND.T).double()
        gram_NN.diagonal().add_(len(losses_N) * self.damping)
        weights_N = torch.linalg.solve(gram_NN, (single_ND @ b_D).double()).to(b_D)
        return Solved((b_D - weights_N @ single_ND) / self.damping, solves=False)
