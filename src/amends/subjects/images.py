"""What classifiers and denoisers of images share: rows are `{image: [C,H,W], label: int}`, one likelihood term each.

Pixels are 8-bit integers or floats. Rows stay as they are; a batch is float32, 8-bit values divided by 255, so that every
term, edit and attack sees images in 0..1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.functional import pad

from amends.core.errors import UserError
from amends.core.spec import Natural, spec
from amends.core.types import Batch, Encoded, Hidden, Sample

PIXELS = 256
"""Pixels that cost as much as one token: a batch for scoring holds fewer large images than small ones."""


def encode_image(sample: Sample) -> Encoded:
    """The image (8-bit, else float32) and its label (class, or concept) as tensors; raises UserError for another row."""
    if "image" not in sample.data or "label" not in sample.data:
        raise UserError(f"row {sample.id}: has no image with a label, and this model reads nothing else")
    image = pixels(sample.data["image"])
    size = max(1, image.shape[-1] * image.shape[-2] // PIXELS)
    return Encoded(sample.id, {"image": image, "label": torch.tensor(int(sample.data["label"]))}, size)


def pixels(image: Any) -> Tensor:
    """An array or tensor as a tensor: 8-bit integers as they are, everything else as float32."""
    if isinstance(image, np.ndarray) and not image.flags.writeable:
        image = image.copy()
    found = torch.as_tensor(image)
    return found if found.dtype == torch.uint8 else found.to(torch.float32)


def stack(rows: Sequence[Encoded]) -> Batch:
    """Rows of one size as one batch; 8-bit pixels become floats in 0..1. Raises UserError for rows of two sizes."""
    odd = next((r for r in rows if r.tensors["image"].shape != rows[0].tensors["image"].shape), None)
    if odd is not None:
        shapes = [tuple(r.tensors["image"].shape) for r in (rows[0], odd)]
        raise UserError(f"rows {rows[0].id} and {odd.id}: images of {shapes[0]} and {shapes[1]} do not fit into one batch")
    image = torch.stack([r.tensors["image"] for r in rows])
    image = image.to(torch.float32).div_(255) if image.dtype == torch.uint8 else image
    return Batch(tuple(r.id for r in rows), {"image": image, "label": torch.stack([r.tensors["label"] for r in rows])})


def one_each(batch: Batch) -> Tensor:
    """[B] ones: a row is one term."""
    return torch.ones(len(batch), dtype=torch.long, device=batch["label"].device)


def flat(output: Tensor) -> Hidden:
    """A block's output [B, ...] as one position a row."""
    return Hidden(output.flatten(1), torch.arange(len(output), device=output.device))


def save_module(module: nn.Module, folder: Path) -> None:
    """The weights and buffers as safetensors."""
    folder.mkdir(parents=True, exist_ok=True)
    state = {k: v.detach().clone(memory_format=torch.contiguous_format) for k, v in module.state_dict().items()}
    save_file(state, folder / "model.safetensors")  # clones, for a file holds no two names of one tensor


@spec
class Augment:
    """Random flips and shifts of training images, drawn into the batch: one step is one set of choices, whoever asks."""

    flip: bool = True
    """Mirror left and right, every other image on average."""
    crop: Natural = 4
    """Shift by up to so many pixels each way; what comes in from outside is black."""

    def draw(self, batch: Batch, rng: torch.Generator) -> Batch:
        """Adds `flip` [B] and `shift` [B, 2] from the step's own stream."""
        flip = torch.rand(len(batch), generator=rng) < 0.5 if self.flip else torch.zeros(len(batch), dtype=torch.bool)
        shift = torch.randint(0, 2 * self.crop + 1, (len(batch), 2), generator=rng)
        device = batch["image"].device
        return replace(batch, tensors={**batch.tensors, "flip": flip.to(device), "shift": shift.to(device)})


def augmented(batch: Batch, augment: Augment | None) -> Tensor:
    """The batch's images, flipped and shifted as was drawn; as they are where nothing was."""
    image = batch["image"]
    if augment is None or "flip" not in batch.tensors:
        return image
    image = torch.where(batch["flip"][:, None, None, None], image.flip(-1), image)
    if not augment.crop:
        return image
    (rows, channels, height, width), device = image.shape, image.device
    wide = pad(image, [augment.crop] * 4)
    y = batch["shift"][:, :1] + torch.arange(height, device=device)
    x = batch["shift"][:, 1:] + torch.arange(width, device=device)
    row, channel = torch.arange(rows, device=device)[:, None, None, None], torch.arange(channels, device=device)[:, None, None]
    return wide[row, channel, y[:, None, :, None], x[:, None, None, :]]
