"""SimNPO (arXiv 2410.07163, eq. 4): NPO without a reference, length-normalised.

L = -(2/beta) log sigma(beta (NLL/|y| - delta)), mean over rows; |y| counts the supervised tokens, EOS included. The
paper writes the margin outside, -(beta/|y|) log p - gamma, so gamma = beta * delta; both repositories have the delta
form. The gradient weight of a row is 2 p^beta / (1 + p^beta) / |y| with p = exp(-NLL/|y|) at delta = 0: short answers
get a larger push a token, answers that are improbable already get less. beta -> 0 is length-normalised ascent.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from pydantic import Field
from torch.nn.functional import logsigmoid

from amends.core.protocols import Need, View
from amends.core.spec import Positive, spec
from amends.core.types import Mean, Role


@spec
class SimNPO:
    """NPO without a reference model, length-normalised: easy rows are pushed more than hard ones."""

    needs: ClassVar[frozenset[Need]] = frozenset()
    per: ClassVar = "row"
    role: Role = "forget"
    """Which rows are to go."""
    beta: Positive = 4.5
    """Inverse temperature: 2.5 (forget05) and 4.5 (forget10) in the paper."""
    delta: float = Field(default=0.0, ge=0)
    """Margin in nats a token; the paper's gamma divided by beta. 0 is its best on TOFU."""

    def __call__(self, view: View) -> Mean:
        """Bounded below by 0, reached when the answer is improbable."""
        mean_nll_B = view.policy.nll_B / view.policy.n_B
        total_B = -(2 / self.beta) * logsigmoid(self.beta * (mean_nll_B - self.delta))
        return Mean(total_B, torch.ones_like(view.policy.n_B))
