"""What classifiers and denoisers of images share: rows are `{image: [C,H,W], label: int}`, one likelihood term each."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from amends.core.types import Batch, Encoded, Hidden, Sample


def encode_image(sample: Sample) -> Encoded:
    """The image as float32 and its label (class, or concept) as tensors."""
    image = torch.as_tensor(sample.data["image"], dtype=torch.float32)
    return Encoded(sample.id, {"image": image, "label": torch.tensor(int(sample.data["label"]))}, 1)


def stack(rows: Sequence[Encoded]) -> Batch:
    """Rows of one size as one batch."""
    return Batch(tuple(r.id for r in rows), {k: torch.stack([r.tensors[k] for r in rows]) for k in ("image", "label")})


def one_each(batch: Batch) -> Tensor:
    """[B] ones: a row is one term."""
    return torch.ones(len(batch), dtype=torch.long, device=batch["label"].device)


def flat(output: Tensor) -> Hidden:
    """A block's output [B, ...] as one position a row."""
    return Hidden(output.flatten(1), torch.arange(len(output), device=output.device))


def save_module(module: nn.Module, folder: Path) -> None:
    """The weights as safetensors."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file({k: v.contiguous() for k, v in module.state_dict().items()}, folder / "model.safetensors")
