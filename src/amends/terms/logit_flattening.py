"""Logit flattening: the forget half of PDU (Constrained Entropic Unlearning, arXiv 2506.05314).

L = mean over the answer's positions of (max_v z_v - mean_v z_v)^2: no token is to stand out. It is 0 for the uniform
prediction, needs no softmax, and its gradient does not fade before it is there. In squared logits it is large (hundreds
for a trained model), which is why PDU's multiplier on the retain half starts at 50 or 100.

open-unlearning's code takes the logits of unshifted positions, where its labels stand: one to the right of those that
predict the answer, so that the first word of each answer is missed and the prediction behind its end is flattened; one
version of it takes every position, prompt and padding included. Neither is offered: both are mistakes, no choices.
"""

from __future__ import annotations

from typing import ClassVar

from amends.core.protocols import Need, Per, View
from amends.core.spec import spec
from amends.core.types import Mean, Role
from amends.subjects.distributions import classes, row_sums


@spec
class LogitFlattening:
    """Flattens the prediction at each token of the answer until no word stands out: PDU's forget half."""

    needs: ClassVar[frozenset[Need]] = frozenset({Need.CLASSES})
    role: Role = "forget"
    """Which rows are to go."""
    per: Per = "token"
    """`token`: mean over the batch's tokens (the paper); `row`: length-normalised."""

    def __call__(self, view: View) -> Mean:
        """(max - mean)^2 of the logits at each token."""
        dist, n_B = classes(view.policy), view.policy.n_B
        gap_N = dist.logits_NV.amax(1) - dist.logits_NV.mean(1)
        return Mean.average(row_sums(gap_N.square(), dist.row_N, len(n_B)), n_B, self.per)
