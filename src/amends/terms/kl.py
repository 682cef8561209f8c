"""Divergence from the start model: the retain half of the "+KL" methods.

KL(p_ref || p_theta) at each supervised position, averaged over those positions (arXiv 2401.06121, the KL baseline).

Released code that differs, and is not offered. open-unlearning's and TOFU's average over prompt and padding as well: padding
dilutes the term by its share of the batch, which is chance. Prompt positions are no chance, but a row's likelihood holds
its answer alone; rows given as `text` are supervised from the second token on, which holds the prompt, too. MUSE's
puts raw logits where log-probabilities belong: exp(z_ref) (z_ref - z), which falls without limit as logits rise. SOUL's
is -sum p_theta log p_ref, least when everything is on the start model's best word, and not at the start model.

With `temperature` T both predictions are softened first and the result is multiplied by T^2, as in distillation: SCRUB's
and bad teaching's divergence on classifiers. Released code of the latter takes the mean over classes as well, which is
this one divided by their number.
"""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

from amends.core.protocols import Need, View
from amends.core.spec import Positive, spec
from amends.core.types import Mean, Role
from amends.subjects.distributions import Categorical, classes, row_sums


@spec
class KL:
    """Divergence from the start model on a role: keeps the whole distribution, not only the right answer."""

    needs: ClassVar[frozenset[Need]] = frozenset({Need.REFERENCE_DIST})
    per: ClassVar = "token"
    role: Role = "retain"
    """Where the model must stay what it was."""
    temperature: Positive = 1.0
    """Softens both predictions; 1 in language models, 4 in SCRUB."""

    def __call__(self, view: View) -> Mean:
        """T^2 sum_t KL(p_ref || p_theta) over supervised tokens."""
        if self.temperature != 1:
            mine, start = self._soft(classes(view.policy)), self._soft(classes(view.reference))
            kl_N = self.temperature**2 * start.kl(mine)
            return Mean(row_sums(kl_N, mine.row_N, len(view.policy.n_B)), view.policy.n_B)
        mine, start = view.policy.dist, view.reference.dist
        assert mine is not None and start is not None
        return Mean(row_sums(start.kl(mine), mine.row_N, len(view.policy.n_B)), view.policy.n_B)

    def _soft(self, dist: Categorical) -> Categorical:
        return replace(dist, logits_NV=dist.logits_NV / self.temperature)
