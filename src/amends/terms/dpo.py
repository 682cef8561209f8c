"""Direct preference optimisation with the refusal preferred over the true answer (IdkDPO).

L = -(2/beta) log sigma(beta [(log p(idk) - log p_ref(idk)) - (log p(y) - log p_ref(y))]), log-probabilities SUMMED over
the answer's tokens, mean over rows. The factor 2/beta is in the NPO repository and in open-unlearning; TOFU's own code
has none, so its loss starts at ln 2 and its gradient is beta/2 times this one: `scale: one` gives it.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from torch.nn.functional import logsigmoid

from amends.core.protocols import Need, View
from amends.core.spec import Positive, spec
from amends.core.types import Mean, Role


@spec
class DPO:
    """Preference of a refusal over the true answer (IdkDPO): declines, but tends to decline neighbours too."""

    needs: ClassVar[frozenset[Need]] = frozenset({Need.REFERENCE, Need.ALTERNATIVE})
    per: ClassVar = "row"
    role: Role = "forget"
    """Whose answers are dispreferred."""
    beta: Positive = 0.1
    """Inverse temperature; small values make it linear."""
    scale: Literal["two_over_beta", "one"] = "two_over_beta"
    """`two_over_beta`: the NPO repository and open-unlearning; `one`: TOFU's own code."""

    def __call__(self, view: View) -> Mean:
        """Starts at (2/beta) ln 2 = 13.8629 for beta 0.1."""
        other = view.alternative
        gain_B = other.reference.nll_B - other.policy.nll_B
        loss_B = view.reference.nll_B - view.policy.nll_B
        factor = 2 / self.beta if self.scale == "two_over_beta" else 1.0
        total_B = -factor * logsigmoid(self.beta * (gain_B - loss_B))
        return Mean(total_B, torch.ones_like(view.policy.n_B))
