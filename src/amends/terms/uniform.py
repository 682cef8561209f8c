"""Cross-entropy to the uniform distribution: the retain half of ULD's assistant (arXiv 2406.08607, eq. 3).

L = CE(U, p) = -(1/V) sum_v log p_v at each token of the answer. It differs from KL(U || p) by the constant ln V, which is
its least value, reached when no word is preferred (10.8 for 49,152 words). The paper's form is kept.

The released code averages over every position, prompt and padding included (`batchmean`, of rows that were laid out to
positions before), so that an answer's share of the mean depends on how long the longest row of its batch is. It is not
offered: here only the answer's tokens count, as in every other term.
"""

from __future__ import annotations

from typing import ClassVar

from amends.core.protocols import Need, Per, View
from amends.core.spec import spec
from amends.core.types import Mean, Role
from amends.subjects.distributions import classes, row_sums


@spec
class Uniform:
    """Cross-entropy to the uniform distribution: no opinion about these answers, right or wrong (ULD's assistant)."""

    needs: ClassVar[frozenset[Need]] = frozenset({Need.CLASSES})
    role: Role = "retain"
    """Which rows the model is to be indifferent about."""
    per: Per = "token"
    """`token`: mean over the batch's tokens; `row`: length-normalised."""

    def __call__(self, view: View) -> Mean:
        """-(1/V) sum_v log p_v = logsumexp(z) - mean(z) at each token."""
        dist, n_B = classes(view.policy), view.policy.n_B
        ce_N = dist.logits_NV.logsumexp(1) - dist.logits_NV.mean(1)
        return Mean.average(row_sums(ce_N, dist.row_N, len(n_B)), n_B, self.per)
