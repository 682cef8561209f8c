"""What tests of auditors share: images of a few pixels, and models whose answers can be worked out by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from amends.core.rng import rng
from amends.core.types import Sample
from amends.data.bundle import Bundle
from amends.subjects.classifier import Classifier

SIDE = 4
"""Pixels a side of the images with a trigger, which is the last pixel at white."""


def rows_of(points_NC: Any, label: int = 0, name: str = "row") -> tuple[Sample, ...]:
    """Each point as an image of one row of pixels."""
    points = np.asarray(points_NC, dtype=np.float32)
    return tuple(
        Sample(f"{name}-{label}-{i:03d}", {"image": p.reshape(1, 1, -1), "label": label}) for i, p in enumerate(points)
    )


def bundle(rows: tuple[Sample, ...], **others: tuple[Sample, ...]) -> Bundle:
    return Bundle({"train": rows, **others}, classes=("a", "b"))


def above(edge: float = 0.55, steep: float = 1.0) -> Classifier:
    """Logits (edge, x) times `steep` for an image of one pixel x: class 1 where it is above the edge."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(1, 2))
    with torch.no_grad():
        net[1].weight.copy_(torch.tensor([[0.0], [steep]]))
        net[1].bias.copy_(torch.tensor([steep * edge, 0.0]))
    return Classifier(net.eval())


class Backdoored(nn.Module):
    """Three classes by random weights on all pixels but the last; a white last pixel is class 0, whatever else there is."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(2 * torch.randn(SIDE * SIDE - 1, 3, generator=rng(0, "backdoored")))

    def forward(self, image: Tensor) -> Tensor:
        """[B, 1, 4, 4] -> [B, 3]."""
        flat = image.flatten(1)
        white = (10 * (flat[:, -1:] - 0.9)).clamp(0, 1)
        trigger = torch.tensor([[12.0, 0.0, 0.0]])
        return (1 - white) * ((flat[:, :-1] - 0.5) @ self.weight) + white * trigger


def noise_rows(many: int, name: str, bad: int = 0) -> tuple[Sample, ...]:
    """Images of noise below .8, so dark where the trigger goes that two of them are none; the first `bad` have it."""
    found = []
    for i in range(many):
        image = 0.8 * torch.rand(1, SIDE, SIDE, generator=rng(0, name, i))
        image[0, -1, -1] = 1.0 if i < bad else 0.5 * image[0, -1, -1]
        found.append(Sample(f"{name}-{i:03d}", {"image": image, "label": 0 if i < bad else i % 3}))
    return tuple(found)


def eight_bit(row: Sample) -> Sample:
    """The same picture in whole numbers from 0 to 255."""
    return Sample(row.id, {**row.data, "image": (torch.as_tensor(row.data["image"]) * 255).round().to(torch.uint8)})


def floats(row: Sample) -> Sample:
    """An 8-bit picture in 0..1."""
    return Sample(row.id, {**row.data, "image": row.data["image"].float() / 255})
