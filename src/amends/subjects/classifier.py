"""Image classifiers (and any module that maps inputs to class logits): one categorical term a row."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from amends.core.types import Batch, Encoded, Hidden, Likelihood, Sample
from amends.subjects.blocks import Shell
from amends.subjects.distributions import Categorical
from amends.subjects.images import encode_image, flat, one_each, save_module, stack


class Classifier:
    """A module `inputs -> logits [B, K]`; a sample's data is `{image: [C,H,W] float, label: int}`."""

    stochastic: ClassVar[bool] = False

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self.call: nn.Module = Shell(module)

    def adopt(self, call: Any) -> None:
        """Takes over a replaced `call`, with the module inside it."""
        self.call, self.module = call, call.model

    def encode(self, sample: Sample) -> Encoded:
        """The image and its label as tensors."""
        return encode_image(sample)

    def collate(self, rows: Sequence[Encoded]) -> Batch:
        """Stacks the rows; images have one size."""
        return stack(rows)

    def count(self, batch: Batch) -> Tensor:
        """One term a row."""
        return one_each(batch)

    def draw(self, batch: Batch, rng: torch.Generator) -> Batch:
        """Nothing is random here; augmentation belongs to the data."""
        return batch

    def likelihood(self, batch: Batch) -> Likelihood:
        """-log p(label | image)."""
        dist = Categorical(self.call(batch["image"]), batch["label"], torch.arange(len(batch), device=batch["label"].device))
        return Likelihood(dist.nll(), self.count(batch), dist)

    def hidden(self, batch: Batch, at: float) -> Hidden:
        """What block `at` puts out, one flat row an image."""
        return flat(self.call(batch["image"], until=at))

    def save(self, folder: Path) -> None:
        """The weights as safetensors."""
        save_module(self.module, folder)
