"""Local gradient ascent (Anti-Backdoor Learning, Li et al., arXiv 2110.11571): no row is learned below a loss of gamma.

    L = mean over rows of sign(l - gamma) l,   l the row's mean NLL in nats,

descent for rows above gamma, ascent for rows below it. Rows that are learned fast, as those with a trigger are, cross gamma
first and are held near it. `form: flooding` is |l - gamma| + gamma (arXiv 2002.08709): taken row by row, as here, it has the
very same gradient and only another value, which never falls below gamma. Released code takes the sign of the batch's mean loss
instead, so that all rows of a step go one way; the paper's formula is an expectation over rows.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import torch

from amends.core.protocols import Need, View
from amends.core.spec import NonNegative, spec
from amends.core.types import Mean, Role


@spec
class LGA:
    """Learns rows down to a loss and no further (local gradient ascent): what is learned too fast is pushed back."""

    needs: ClassVar[frozenset[Need]] = frozenset()
    per: ClassVar = "row"
    role: Role = "retain"
    """Which rows are learned."""
    gamma: NonNegative = 0.5
    """Nats a token, or a row's class, at which descent turns into ascent; 0 is ordinary training."""
    form: Literal["lga", "flooding"] = "lga"
    """sign(l - gamma) l, or |l - gamma| + gamma: one gradient, two values."""

    def __call__(self, view: View) -> Mean:
        """Descent above gamma, ascent below, over rows."""
        like = view.policy
        loss_B = like.nll_B / like.n_B
        away_B = loss_B - self.gamma
        value_B = away_B.detach().sign() * loss_B if self.form == "lga" else away_B.abs() + self.gamma
        return Mean(value_B, torch.ones_like(loss_B))
