"""Image classifiers (and any module that maps inputs to class logits): one categorical term a row."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from amends.core.types import Batch, Encoded, Likelihood, Sample
from amends.subjects.distributions import Categorical


class Classifier:
    """A module `inputs -> logits [B, K]`; a sample's data is `{image: [C,H,W] float, label: int}`."""

    stochastic: ClassVar[bool] = False

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self.call: nn.Module = module

    def adopt(self, call: nn.Module) -> None:
        """Takes over a replaced module."""
        self.call = self.module = call

    def encode(self, sample: Sample) -> Encoded:
        """The image and its label as tensors."""
        image = torch.as_tensor(sample.data["image"], dtype=torch.float32)
        return Encoded(sample.id, {"image": image, "label": torch.tensor(int(sample.data["label"]))}, 1)

    def collate(self, rows: Sequence[Encoded]) -> Batch:
        """Stacks the rows; images have one size."""
        return Batch(tuple(r.id for r in rows), {k: torch.stack([r.tensors[k] for r in rows]) for k in ("image", "label")})

    def count(self, batch: Batch) -> Tensor:
        """One term a row."""
        return torch.ones(len(batch), dtype=torch.long, device=batch["label"].device)

    def draw(self, batch: Batch, rng: torch.Generator) -> Batch:
        """Nothing is random here; augmentation belongs to the data."""
        return batch

    def likelihood(self, batch: Batch) -> Likelihood:
        """-log p(label | image)."""
        dist = Categorical(self.call(batch["image"]), batch["label"], torch.arange(len(batch), device=batch["label"].device))
        return Likelihood(dist.nll(), self.count(batch), dist)

    def save(self, folder: Path) -> None:
        """The weights as safetensors."""
        folder.mkdir(parents=True, exist_ok=True)
        save_file({k: v.contiguous() for k, v in self.module.state_dict().items()}, folder / "model.safetensors")
