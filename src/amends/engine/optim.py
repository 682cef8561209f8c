"""Optimisers as specs, with their learning-rate schedule."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from amends.core.spec import Fraction, NonNegative, Positive, spec

Schedule = Literal["constant", "linear", "cosine"]


@spec
class AdamW:
    """AdamW (arXiv 1711.05101), torch's own, with warm-up and a schedule."""

    lr: Positive = 1e-5
    """Peak learning rate."""
    weight_decay: NonNegative = 0.0
    """Decoupled decay per unit of learning rate; 0.01 in the unlearning papers, 0 keeps untouched weights untouched."""
    betas: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]] = (0.9, 0.999)
    """Decay of the first and second moments."""
    eps: Positive = 1e-8
    """Added to the root of the second moment."""
    warmup: Fraction = 0.0
    """Share of the steps over which the rate rises linearly from 0."""
    schedule: Schedule = "constant"
    """What the rate does after warm-up: stays, or falls to 0 linearly or as a half cosine."""

    def make(self, params: Mapping[str, Tensor]) -> torch.optim.Optimizer:
        """The optimiser over named parameters."""
        return torch.optim.AdamW(
            list(params.values()), lr=self.lr, betas=self.betas, eps=self.eps, weight_decay=self.weight_decay, fused=True
        )

    def lr_at(self, step: int, steps: int) -> float:
        """The learning rate of step `step` (from 0) of `steps`."""
        return self.lr * scheduled(step, steps, self.warmup, self.schedule)


@spec
class SGD:
    """Plain stochastic gradient descent with momentum."""

    lr: Positive = 1e-2
    """Peak learning rate."""
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Decay of the running sum of gradients."""
    weight_decay: NonNegative = 0.0
    """L2 penalty added to the gradient."""
    warmup: Fraction = 0.0
    """Share of the steps over which the rate rises linearly from 0."""
    schedule: Schedule = "constant"
    """What the rate does after warm-up."""

    def make(self, params: Mapping[str, Tensor]) -> torch.optim.Optimizer:
        """The optimiser over named parameters."""
        return torch.optim.SGD(list(params.values()), lr=self.lr, momentum=self.momentum, weight_decay=self.weight_decay)

    def lr_at(self, step: int, steps: int) -> float:
        """The learning rate of step `step` (from 0) of `steps`."""
        return self.lr * scheduled(step, steps, self.warmup, self.schedule)


def scheduled(step: int, steps: int, warmup: float, schedule: Schedule) -> float:
    """The factor on the peak rate. The first step of a warm-up of w steps has 1/w, never 0.

    >>> [round(scheduled(s, 4, 0.5, "linear"), 2) for s in range(4)]
    [0.5, 1.0, 1.0, 0.5]
    """
    rising = math.ceil(round(warmup * steps, 6))  # 0.07 * 100 is 7.000000000000001
    if step < rising:
        return (step + 1) / rising
    done = (step - rising) / max(1, steps - rising)
    return {"constant": 1.0, "linear": 1.0 - done, "cosine": 0.5 * (1 + math.cos(math.pi * done))}[schedule]
