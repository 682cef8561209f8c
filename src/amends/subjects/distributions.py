"""What a model predicts at each likelihood term: a categorical over words or classes, or a Gaussian over a target.

Terms lie packed in [N, ...], row after row, so a language model's padding and prompt never exist here and no
sum can touch them by mistake.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from amends.core.errors import UserError
from amends.core.types import Likelihood


def row_sums(values_N: Tensor, row_N: Tensor, num_rows: int) -> Tensor:
    """Sums the terms of each row: [N] -> [num_rows]."""
    return values_N.new_zeros(num_rows).index_add(0, row_N, values_N)


def precise(values: Tensor) -> Tensor:
    """Half precision as float32; float32 and float64 as they are."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


@dataclass(frozen=True, slots=True, eq=False)
class Categorical:
    """softmax(logits) at each term, with the index that the data says came next."""

    logits_NV: Tensor
    target_N: Tensor
    row_N: Tensor

    def kl(self, other: Categorical) -> Tensor:
        """KL(self || other) for each term, in nats, [N]."""
        p = torch.log_softmax(precise(self.logits_NV), -1)
        q = torch.log_softmax(precise(other.logits_NV), -1)
        return (p.exp() * (p - q)).sum(-1)

    def nll(self) -> Tensor:
        """-log p(target) for each term, [N]."""
        return torch.nn.functional.cross_entropy(precise(self.logits_NV), self.target_N, reduction="none")

    def rows(self, start: int, stop: int) -> Categorical:
        """The terms of rows start..stop."""
        keep = (self.row_N >= start) & (self.row_N < stop)
        return Categorical(self.logits_NV[keep], self.target_N[keep], self.row_N[keep] - start)


@dataclass(frozen=True, slots=True, eq=False)
class Gaussian:
    """N(mean, 1/weight) for each row: what a denoiser with a fixed variance predicts. One term a row."""

    mean_B: Tensor
    target_B: Tensor
    weight_B: Tensor

    @property
    def row_N(self) -> Tensor:
        """Row i owns term i."""
        return torch.arange(len(self.mean_B), device=self.mean_B.device)

    def nll(self) -> Tensor:
        """-log p(target) up to a constant, averaged over the target's elements, [B]."""
        return 0.5 * self.weight_B * (self.mean_B - self.target_B).square().flatten(1).mean(1)

    def kl(self, other: Gaussian) -> Tensor:
        """KL(self || other) for equal variances: half the weighted mean squared distance of the means, [B]."""
        return 0.5 * self.weight_B * (self.mean_B - other.mean_B).square().flatten(1).mean(1)

    def rows(self, start: int, stop: int) -> Gaussian:
        """A slice of the rows."""
        return Gaussian(self.mean_B[start:stop], self.target_B[start:stop], self.weight_B[start:stop])


def classes(likelihood: Likelihood) -> Categorical:
    """A likelihood's prediction over words or classes, in float32 or wider; raises UserError where there is none."""
    dist = likelihood.dist
    if not isinstance(dist, Categorical):
        raise UserError(
            "this objective has a term that needs a prediction over words or classes, and this model "
            f"gives a {type(dist).__name__}: use a term on likelihoods alone, such as `npo` or `wga`"
        )
    return replace(dist, logits_NV=precise(dist.logits_NV))
