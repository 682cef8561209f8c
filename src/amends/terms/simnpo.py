"""SimNPO (arXiv 2410.07163, eq. 4): NPO without a reference, length-normalised.

L = -(2/beta) log sigma(beta NLL/|y| - gamma), mean over rows; |y| counts the supervised tokens, EOS included. Both of the
authors' repositories write the margin inside, beta (NLL/|y| - delta), so gamma = beta * delta; either may be given here,
and both add up. The gradient weight of a row is 2 p^beta / (1 + p^beta) / |y| with p = exp(-NLL/|y|) without a margin:
short answers get a larger push a token, answers that are improbable already get less. beta -> 0 is length-normalised
ascent.

Released code that differs: for MUSE the authors put -z, each word's raw logit, in the place of NLL/|y|, with the mean over
words and positions (there, padding too), which is `inside: logits`. The true words never enter, and it lowers all
logits until they are far below 0, which says nothing about their softmax.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from amends.core.protocols import Need, View
from amends.core.spec import NonNegative, Positive, spec
from amends.core.types import Mean, Role
from amends.subjects.distributions import classes, row_sums


@spec
class SimNPO:
    """NPO without a reference model, length-normalised: easy rows are pushed more than hard ones."""

    per: ClassVar = "row"
    role: Role = "forget"
    """Which rows are to go."""
    beta: Positive = 4.5
    """Inverse temperature: 2.5 (forget05) and 4.5 (forget10) in the paper."""
    delta: NonNegative = 0.0
    """Margin in nats a token, multiplied by beta (released code): the paper's gamma divided by beta. 0 is its best on TOFU."""
    gamma: NonNegative = 0.0
    """The same margin as the paper writes it, not multiplied by beta."""
    inside: Literal["mean", "logits"] = "mean"
    """In the sigmoid: the answer's mean NLL (the paper), or each word's logit with the other sign (released for MUSE)."""

    @property
    def needs(self) -> frozenset[Need]:  # type: ignore[override]
        """Nothing; of `logits` a prediction that has some."""
        return frozenset({Need.CLASSES} if self.inside == "logits" else ())

    def __call__(self, view: View) -> Mean:
        """Bounded below by 0, reached when the answer is improbable."""
        n_B = view.policy.n_B
        if self.inside == "logits":
            dist = classes(view.policy)
            total_B = row_sums(self._loss(-dist.logits_NV).mean(1), dist.row_N, len(n_B)) / n_B
        else:
            total_B = self._loss(view.policy.nll_B / n_B)
        return Mean(total_B, torch.ones_like(n_B))

    def _loss(self, nats: Tensor) -> Tensor:
        return -(2 / self.beta) * logsigmoid(self.beta * (nats - self.delta) - self.gamma)
