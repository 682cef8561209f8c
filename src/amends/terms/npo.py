"""Negative preference optimisation, NPO (arXiv 2404.05868, eq. 3).

L = -(2/beta) log sigma(-beta log(p / p_ref)) = (2/beta) log(1 + (p/p_ref)^beta) with log-probabilities SUMMED over the
answer, mean over rows. At the start its gradient equals gradient ascent's; as a row is forgotten its weight
2 p^beta / (p^beta + p_ref^beta) falls to 0, so the loss is bounded below where ascent's is not. beta -> 0 is ascent.

Released code that differs: WAGLE and SOUL put the token MEAN inside the sigmoid (`inside: mean`), which at beta 0.1
leaves the weight near 1, close to plain ascent; MUSE's applies the sigmoid to raw logits element by element, which is
another loss altogether and is not offered.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from torch.nn.functional import logsigmoid

from amends.core.protocols import Need, View
from amends.core.spec import Positive, spec
from amends.core.types import Mean, Role


@spec
class NPO:
    """Negative preference optimisation: ascent that stops pushing what is already forgotten."""

    needs: ClassVar[frozenset[Need]] = frozenset({Need.REFERENCE})
    per: ClassVar = "row"
    role: Role = "forget"
    """Which rows are to go."""
    beta: Positive = 0.1
    """Inverse temperature: how soon a row's push fades; 0.1 in every paper, 0.05 to 0.5 in sweeps."""
    inside: Literal["sum", "mean"] = "sum"
    """What stands inside the sigmoid: the answer's summed log-ratio (the paper) or its token mean (WAGLE, SOUL)."""

    def __call__(self, view: View) -> Mean:
        """Starts at (2/beta) ln 2 = 13.8629 for beta 0.1."""
        log_ratio_B = view.reference.nll_B - view.policy.nll_B
        if self.inside == "mean":
            log_ratio_B = log_ratio_B / view.policy.n_B
        total_B = -(2 / self.beta) * logsigmoid(-self.beta * log_ratio_B)
        return Mean(total_B, torch.ones_like(view.policy.n_B))
