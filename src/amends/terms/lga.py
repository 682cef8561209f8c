"""Local gradient ascent (Anti-Backdoor Learning, Li et al., arXiv 2110.11571): no row is learned below a loss of gamma.

    L = mean over rows of sign(l - gamma) l,   l the row's mean NLL in nats,

descent for rows above gamma, ascent for rows below it: the paper's formula (`sign: row`). It pushes back each row that is
learned fast, too. Released code takes the sign of the batch's mean loss (`sign: batch`): all rows of a step go one way, the
mean stays near gamma, and single rows may fall far below it. That mean is over the rows of one forward in one process, so
`micro` must be left out for it to be the batch's.

`form: flooding` is |l - gamma| + gamma (arXiv 2002.08709), of each row or of the mean: the very same gradient, and another
value, which never falls below gamma.
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
    sign: Literal["row", "batch"] = "row"
    """Whether each row has a direction of its own (the paper's formula), or all rows of a forward that of their mean."""
    form: Literal["lga", "flooding"] = "lga"
    """sign(l - gamma) l, or |l - gamma| + gamma: one gradient, two values."""

    def __call__(self, view: View) -> Mean:
        """Descent above gamma, ascent below, as a mean over rows."""
        like = view.policy
        loss_B = like.nll_B / like.n_B
        level_B = loss_B.detach() if self.sign == "row" else loss_B.detach().mean()
        side_B = (level_B - self.gamma).sign()
        value_B = side_B * loss_B if self.form == "lga" else side_B * (loss_B - self.gamma) + self.gamma
        return Mean(value_B, torch.ones_like(loss_B))
