"""Divergence from the start model: the retain half of the "+KL" methods.

KL(p_ref || p_theta) at each supervised position, averaged over those positions (arXiv 2401.06121, the KL baseline).

Released code that differs, and is not offered. open-unlearning's and TOFU's average over prompt and padding as well: padding
dilutes the term by its share of the batch, which is chance. Prompt positions are no chance, but a row's likelihood holds
its answer alone; rows given as `text` are supervised from the second token on, which holds the prompt, too. MUSE's
puts raw logits where log-probabilities belong: exp(z_ref) (z_ref - z), which falls without limit as logits rise. SOUL's
is -sum p_theta log p_ref, least when everything is on the start model's best word, and not at the start model.
"""

from __future__ import annotations

from typing import ClassVar

from amends.core.protocols import Need, View
from amends.core.spec import spec
from amends.core.types import Mean, Role
from amends.subjects.distributions import row_sums


@spec
class KL:
    """Divergence from the start model on a role: keeps the whole distribution, not only the right answer."""

    needs: ClassVar[frozenset[Need]] = frozenset({Need.REFERENCE_DIST})
    per: ClassVar = "token"
    role: Role = "retain"
    """Where the model must stay what it was."""

    def __call__(self, view: View) -> Mean:
        """sum_t KL(p_ref || p_theta) over supervised tokens."""
        mine, start = view.policy.dist, view.reference.dist
        assert mine is not None and start is not None
        return Mean(row_sums(start.kl(mine), mine.row_N, len(view.policy.n_B)), view.policy.n_B)
