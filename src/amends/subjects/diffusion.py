"""Denoisers: the likelihood of a row is its weighted denoising error at ONE drawn noise level and noise.

The level and the noise are drawn into the batch, never inside the model: a ratio of two models' likelihoods means
something only when both saw the same ones. (Released diffusion-unlearning code draws them inside the model.)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from amends.core.types import Batch, Encoded, Hidden, Likelihood, Sample
from amends.subjects.blocks import Shell
from amends.subjects.distributions import Gaussian
from amends.subjects.images import encode_image, flat, one_each, save_module, stack


class Denoiser:
    """A module `(noisy [B,...], level [B] in (0,1), concept [B]) -> predicted noise`.

    A sample's data is `{image: [C,H,W], label: int}`; the label is the concept it is conditioned on. The process is
    variance preserving with a cosine schedule: noisy = cos(pi t/2) x + sin(pi t/2) noise.
    """

    stochastic: ClassVar[bool] = True

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self.call: nn.Module = Shell(module)

    def adopt(self, call: Any) -> None:
        """Takes over a replaced `call`, with the module inside it."""
        self.call, self.module = call, call.model

    def encode(self, sample: Sample) -> Encoded:
        """The clean image and its concept."""
        return encode_image(sample)

    def collate(self, rows: Sequence[Encoded]) -> Batch:
        """Stacks the rows; `draw` adds level and noise."""
        return stack(rows)

    def count(self, batch: Batch) -> Tensor:
        """One term a row."""
        return one_each(batch)

    def draw(self, batch: Batch, rng: torch.Generator) -> Batch:
        """Adds `level` [B] in (0.02, 0.98) and `noise`."""
        level = torch.rand(len(batch), generator=rng).mul(0.96).add(0.02).to(batch["image"].device)
        noise = torch.randn(batch["image"].shape, generator=rng).to(batch["image"].device)
        return replace(batch, tensors={**batch.tensors, "level": level, "noise": noise})

    def likelihood(self, batch: Batch) -> Likelihood:
        """Mean squared error of the predicted noise at the batch's level and noise, weight 1 (Ho et al.'s simple loss)."""
        level = batch["level"]
        predicted = self.call(self._noisy(batch), level, batch["label"])
        dist = Gaussian(predicted, batch["noise"], 2 * torch.ones_like(level))
        return Likelihood(dist.nll(), self.count(batch), dist)

    def hidden(self, batch: Batch, at: float) -> Hidden:
        """What block `at` puts out at the batch's level and noise, one flat row an image."""
        return flat(self.call(self._noisy(batch), batch["level"], batch["label"], until=at))

    def _noisy(self, batch: Batch) -> Tensor:
        angle = (batch["level"] * torch.pi / 2).reshape(-1, *[1] * (batch["image"].ndim - 1))
        return angle.cos() * batch["image"] + angle.sin() * batch["noise"]

    def save(self, folder: Path) -> None:
        """The weights as safetensors."""
        save_module(self.module, folder)
