"""CE-U, cross-entropy unlearning (arXiv 2503.01224): the model's own prediction without the true token is the target.

q = softmax of the logits, held constant, with the true token's at minus infinity; L = CE(q, p) at each token of the
answer. CE(q, p) = H(q) + KL(q || p), where H(q) has no gradient, and KL(q || p) = -log(1 - p_y) because q is p without y,
rescaled. The gradient of -log(1 - p_y) is p - q as well, so CE-U is unlikelihood training (arXiv 1908.04319) by another
name. The value here is that divergence: the same gradient, and 0 when the answer is forgotten. It is bounded below, and
its gradient fades with p_y.

open-unlearning's code leaves out the first token of each answer (a footnote of the paper) and the divisor with it;
here left-out tokens count in the divisor, which is known before the forward: (n - 1) / n of its value. It has no retain
half; the preset adds one.
"""

from __future__ import annotations

from typing import ClassVar

import torch

from amends.core.protocols import Need, Per, View
from amends.core.spec import Natural, spec
from amends.core.types import Mean, Role
from amends.subjects.distributions import classes, row_sums


@spec
class CEU:
    """Learns the model's own prediction without the true token: ascent that is bounded (CE-U, unlikelihood)."""

    needs: ClassVar[frozenset[Need]] = frozenset({Need.CLASSES})
    role: Role = "forget"
    """Which rows are to go."""
    skip_first: Natural = 0
    """How many of an answer's first tokens are left alone: 1 in the released code."""
    per: Per = "token"
    """`token`: mean over the batch's tokens (the paper); `row`: length-normalised."""

    def __call__(self, view: View) -> Mean:
        """-log(1 - p) at each token, of logits, so that a certain token has a finite gradient."""
        dist, n_B = classes(view.policy), view.policy.n_B
        rest_NV = dist.logits_NV.scatter(1, dist.target_N[:, None], -torch.inf)
        loss_N = dist.logits_NV.logsumexp(1) - rest_NV.logsumexp(1)
        first_B = n_B.cumsum(0) - n_B  # terms lie packed, row after row
        place_N = torch.arange(len(loss_N), device=loss_N.device) - first_B[dist.row_N]
        kept_N = loss_N * (place_N >= self.skip_first)
        return Mean.average(row_sums(kept_N, dist.row_N, len(n_B)), n_B, self.per)
