"""What a model predicts at each likelihood term: a categorical over words or classes, or a Gaussian over a target.

Terms lie packed in [N, ...], row after row, so a language model's padding and prompt never exist here and no
sum can touch them by mistake.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


def row_sums(values_N: Tensor, row_N: Tensor, num_rows: int) -> Tensor:
    """Sums the terms of each row: [N] -> [num_rows]."""
    return values_N.new_zeros(num_rows).index_add(0, row_N, values_N)


def _precise(logits: Tensor) -> Tensor:
    """Half precision as float32; float32 and float64 as they are."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


@dataclass(frozen=True, slots=True, eq=False)
class Categorical:
    """softmax(logits) at each term, with the index that the data says came next."""

    logits_NV: Tensor
    target_N: Tensor
    row_N: Tensor

    def kl(self, other: Categorical) -> Tensor:
        """KL(self || other) for each term, in nats, [N]."""
        p = torch.log_softmax(_precise(self.logits_NV), -1)
        q = torch.log_softmax(_precise(other.logits_NV), -1)
        return (p.exp() * (p - q)).sum(-1)

    def nll(self) -> Tensor:
        """-log p(target) for each term, [N]."""
        return torch.nn.functional.cross_entropy(_precise(self.logits_NV), self.target_N, reduction="none")

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
