"""Learning to decline: cross-entropy on a refusal in place of each forget answer.

IdkNLL, called PO in WAGLE and SOUL, IDK in TOFU (arXiv 2401.06121). The refusal of each row is fixed by the data's seed.
It changes what the model says more than what it knows: the true answer's probability hardly moves.

On a classifier the other answer is another class, and the same cross-entropy is unlearning by random labels (with the
augment `relabelled`; SalUn's forget half) or boundary shrink (`boundary_shrink`).
"""

from __future__ import annotations

from typing import ClassVar

from amends.core.protocols import Need, Per, View
from amends.core.spec import spec
from amends.core.types import Mean, Role


@spec
class Idk:
    """Refusal training (IdkNLL, PO): the model learns to say that it does not know."""

    needs: ClassVar[frozenset[Need]] = frozenset({Need.ALTERNATIVE, Need.ALTERNATIVE_ONLY})
    role: Role = "forget"
    """Whose questions are to be declined."""
    per: Per = "token"
    """`token`: mean over the batch's tokens; `row`: length-normalised."""

    def __call__(self, view: View) -> Mean:
        """CE of the refusal given the question."""
        refusal = view.alternative.policy
        return Mean.average(refusal.nll_B, refusal.n_B, self.per)
