"""SatImp, loss reweighting by saturation and importance (arXiv 2505.11953).

L = -sum_t p_t^b1 (1 - p_t)^b2 CE_t / sum_t 1 over the answer's tokens, with the weight held constant. The first factor
leaves alone what is already forgotten (saturation), the second what the model knows by the way of the language, such as
"the" after "of" (importance: such tokens are certain). b2 = 0 is WGA, b1 = b2 = 0 is ascent. open-unlearning's
configuration weighs it 0.1 and the retain loss 1, its description 1 and 0.1, which the preset follows; both are a
matter of `weight`. At p = 0.9 the gradient is 17 times smaller than ascent's.
"""

from __future__ import annotations

from typing import ClassVar

import torch

from amends.core.protocols import Need, Per, View
from amends.core.spec import NonNegative, spec
from amends.core.types import Mean, Role
from amends.subjects.distributions import row_sums


@spec
class SatImp:
    """Ascent on the tokens that are neither forgotten yet nor certain anyway."""

    needs: ClassVar[frozenset[Need]] = frozenset()
    role: Role = "forget"
    """Which rows are to go."""
    saturation: NonNegative = 5.0
    """The paper's beta 1: how soon the push on an improbable token fades."""
    importance: NonNegative = 1.0
    """The paper's beta 2: how much less a certain token is pushed."""
    per: Per = "token"
    """`token`: mean over the batch's tokens (the paper); `row`: length-normalised."""

    def __call__(self, view: View) -> Mean:
        """-p^b1 (1 - p)^b2 CE at each token; its value is no measure of progress, since the weight is held constant."""
        dist, n_B = view.policy.dist, view.policy.n_B
        assert dist is not None
        nll_N = dist.nll()
        fixed_N = nll_N.detach()
        weight_N = (-self.saturation * fixed_N).exp() * (-torch.expm1(-fixed_N)).pow(self.importance)
        return Mean.average(row_sums(-weight_N * nll_N, dist.row_N, len(n_B)), n_B, self.per)
