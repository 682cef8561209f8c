"""UNDIAL, self-distillation with adjusted logits (arXiv 2402.10052).

At each token of the answer the model learns the start model's own distribution with the true token's logit lowered:
L = CE(softmax(z_ref - beta onehot(y)), p_theta), mean over the answer's tokens. The target never moves, so the loss is
bounded, and beta says how improbable the answer is to become; beta -> 0 is the divergence from the start model, up to a
constant.

open-unlearning's code differs twice: it lowers the logit at index -100, the mark of positions that are not supervised,
which is the hundredth word from the end, and it averages over prompt and padding as well. Neither is offered: the first
teaches the model to avoid an arbitrary word everywhere, the second weakens the term by a share that chance decides, the
padding's. Rows given as `text` are supervised from the second token on, where the prompt is to count as well.
"""

from __future__ import annotations

from typing import ClassVar

import torch

from amends.core.protocols import Need, Per, View
from amends.core.spec import NonNegative, spec
from amends.core.types import Mean, Role
from amends.subjects.distributions import classes, row_sums


@spec
class UNDIAL:
    """Learns the start model's own prediction with the true token held down: bounded and stable."""

    needs: ClassVar[frozenset[Need]] = frozenset({Need.REFERENCE_DIST, Need.CLASSES})
    role: Role = "forget"
    """Which rows are to go."""
    beta: NonNegative = 10.0
    """How far the true token's logit is lowered, in nats: 3, 10 and 30 in the paper."""
    per: Per = "token"
    """`token`: mean over the batch's tokens; `row`: length-normalised."""

    def __call__(self, view: View) -> Mean:
        """Cross-entropy to the lowered prediction; least where the two agree."""
        mine, start = classes(view.policy), classes(view.reference)
        true_N1 = start.target_N[:, None]
        lowered_NV = start.logits_NV.scatter_add(1, true_N1, start.logits_NV.new_full(true_N1.shape, -self.beta))
        loss_N = torch.nn.functional.cross_entropy(mine.logits_NV, lowered_NV.softmax(-1), reduction="none")
        n_B = view.policy.n_B
        return Mean.average(row_sums(loss_N, mine.row_N, len(n_B)), n_B, self.per)
