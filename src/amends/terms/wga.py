"""WGA, weighted gradient ascent (arXiv 2502.19301): ascent that fades token by token.

L = -sum_t p_t^beta CE_t / sum_t 1 over the answer's tokens, with the weight p_t^beta held constant. The gradient of
ascent at a token grows as 1 / p_t while the token is forgotten; the weight takes that back, so a token that is already
improbable is left alone. beta = 0 is ascent. No reference model is used; open-unlearning builds one even so.
"""

from __future__ import annotations

from typing import ClassVar

from amends.core.protocols import Need, Per, View
from amends.core.spec import NonNegative, spec
from amends.core.types import Mean, Role
from amends.subjects.distributions import row_sums


@spec
class WGA:
    """Weighted gradient ascent: each token's push fades with its own probability."""

    needs: ClassVar[frozenset[Need]] = frozenset()
    role: Role = "forget"
    """Which rows are to go."""
    beta: NonNegative = 1.0
    """How soon a token's push fades; 0 is plain ascent."""
    per: Per = "token"
    """`token`: mean over the batch's tokens (the paper); `row`: length-normalised."""

    def __call__(self, view: View) -> Mean:
        """-p^beta CE at each token; its value is no measure of progress, since the weight is held constant."""
        dist, n_B = view.policy.dist, view.policy.n_B
        assert dist is not None
        nll_N = dist.nll()
        weight_N = (-self.beta * nll_N.detach()).exp()
        return Mean.average(row_sums(-weight_N * nll_N, dist.row_N, len(n_B)), n_B, self.per)
