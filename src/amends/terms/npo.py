"""Negative preference optimisation, NPO (arXiv 2404.05868, eq. 3).

L = -(2/beta) log sigma(-beta log(p / p_ref)) = (2/beta) log(1 + (p/p_ref)^beta) with log-probabilities SUMMED over the
answer, mean over rows. At the start its gradient equals gradient ascent's; as a row is forgotten its weight
2 p^beta / (p^beta + p_ref^beta) falls to 0, so the loss is bounded below where ascent's is not. beta -> 0 is ascent.

Released code that differs, under `inside`:

- `mean`: WAGLE and SOUL put the token MEAN inside the sigmoid, which at beta 0.1 leaves the weight near 1, close to plain
  ascent. Theirs is the mean over a batch's tokens, and their configurations have one row a batch, where it is the row's;
  with more rows that loss depends on how a batch is cut, so the row's mean is what is offered;
- `logits`: MUSE's baseline takes z - z_ref, the raw logits of every word of the vocabulary, in place of the log-ratio, and
  the mean over words and positions (there, padding too). The true words never enter. At the start every logit is
  pushed down alike, by 1/V, which leaves the softmax as it is: what is forgotten is a side effect of the weights that
  the logits share.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from amends.core.protocols import Need, View
from amends.core.spec import Positive, spec
from amends.core.types import Mean, Role
from amends.subjects.distributions import classes, row_sums


@spec
class NPO:
    """Negative preference optimisation: ascent that stops pushing what is already forgotten."""

    per: ClassVar = "row"
    role: Role = "forget"
    """Which rows are to go."""
    beta: Positive = 0.1
    """Inverse temperature: how soon a row's push fades; 0.1 in every paper, 0.05 to 0.5 in sweeps."""
    inside: Literal["sum", "mean", "logits"] = "sum"
    """In the sigmoid: the answer's summed log-ratio (the paper), its token mean (WAGLE, SOUL), or each logit's (MUSE)."""

    @property
    def needs(self) -> frozenset[Need]:  # type: ignore[override]
        """One number a row of the start model; of `logits` its whole prediction."""
        return frozenset({Need.REFERENCE_DIST, Need.CLASSES} if self.inside == "logits" else {Need.REFERENCE})

    def __call__(self, view: View) -> Mean:
        """Starts at (2/beta) ln 2 = 13.8629 for beta 0.1."""
        n_B = view.policy.n_B
        if self.inside == "logits":
            mine, start = classes(view.policy), classes(view.reference)
            loss_N = self._loss(mine.logits_NV - start.logits_NV).mean(1)
            total_B = row_sums(loss_N, mine.row_N, len(n_B)) / n_B
        else:
            log_ratio_B = view.reference.nll_B - view.policy.nll_B
            total_B = self._loss(log_ratio_B / n_B if self.inside == "mean" else log_ratio_B)
        return Mean(total_B, torch.ones_like(n_B))

    def _loss(self, ratio: Tensor) -> Tensor:
        return -(2 / self.beta) * logsigmoid(-self.beta * ratio)
