"""What a model makes of brighter copies of images under one mask: clip(n (x - tau) o m, 0, 1), in pixel space.

All scalings n of a row go through the model in one forward, of so many rows that memory is bounded whatever the number of rows.
The model's answer to the rows as they are is read once. Rows are asked for anew each time, so that nothing but that answer
grows with their number. How rows are put together does not depend on their order or on the batches of others: they are
read in the order given, so many at a time as their size allows.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor

from amends.core.types import Batch, Sample
from amends.subjects.distributions import classes

PIXELS = 2**18
"""Pixels of a forward's images, over all their scalings: 256 images of 32 x 32."""
Divergence = Literal["kl", "jsd"]


@contextmanager
def still(subject: Any) -> Iterator[None]:
    """The model in evaluation mode, none of its weights asking for a gradient; then each part as it was found."""
    modes = [(module, module.training) for module in subject.call.modules()]
    asked = [(p, p.requires_grad) for p in subject.module.parameters()]
    try:
        subject.call.eval()
        for p, _ in asked:
            p.requires_grad_(False)
        yield
    finally:
        for p, wanted in asked:
            p.requires_grad_(wanted)
        for module, mode in modes:
            module.training = mode


@dataclass(frozen=True)
class Amplified:
    """Rows of images of one size, what a model says of them, and how they are made brighter."""

    subject: Any
    rows: tuple[Sample, ...]
    told_NK: Tensor
    """log-softmax of the rows as they are."""
    scales: tuple[float, ...]
    shift: float
    divergence: Divergence = "kl"
    together: int = 1
    """Rows that go through the model at once."""

    @staticmethod
    def of(
        subject: Any, rows: Sequence[Sample], scales: tuple[float, ...], shift: float, divergence: Divergence = "kl"
    ) -> Amplified:
        """Reads the model's answer to every row, once; without a gradient."""
        size = math.prod(batch_of(subject, rows[:1])["image"].shape[-2:])
        together = max(1, PIXELS // (size * len(scales)))
        wide, told = together * len(scales), []
        with torch.no_grad():
            for start in range(0, len(rows), wide):
                told.append(log_softmax(subject, batch_of(subject, rows[start : start + wide])))
        return Amplified(subject, tuple(rows), torch.cat(told), scales, shift, divergence, together)

    @property
    def told_N(self) -> Tensor:
        """The predicted class of every row as it is."""
        return self.told_NK.argmax(1)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the images."""
        height, width = batch_of(self.subject, self.rows[:1])["image"].shape[-2:]
        return height, width

    def first(self, many: int) -> Amplified:
        """The same of the first so many rows."""
        return replace(self, rows=self.rows[:many], told_NK=self.told_NK[:many])

    def copies(self, index: Sequence[int], mask_HW: Tensor) -> Tensor:
        """[S, B, K] log-softmax of the brighter copies of some rows under the mask."""
        return self._copies(batch_of(self.subject, [self.rows[i] for i in index]), mask_HW)

    def _copies(self, batch: Batch, mask_HW: Tensor) -> Tensor:
        image = brighter(batch["image"], mask_HW, self.scales, self.shift)
        label = batch["label"].repeat(len(self.scales))
        told = log_softmax(self.subject, Batch(batch.ids * len(self.scales), {"image": image, "label": label}))
        return told.view(len(self.scales), len(batch), -1)

    def drift(self, index: Sequence[int], mask_HW: Tensor) -> Tensor:
        """[B] the mean over scalings of KL(F(x) || F(copy)), in nats, or of the Jensen-Shannon divergence."""
        p_BK = self.told_NK[list(index)]
        q_SBK = self.copies([*index, *self._filling(index)], mask_HW)[:, : len(index)]
        if self.divergence == "kl":
            return kl(p_BK, q_SBK).mean(0)
        mean_SBK = torch.logaddexp(p_BK.expand_as(q_SBK), q_SBK) - math.log(2)
        return (0.5 * kl(p_BK, mean_SBK) + 0.5 * kl(q_SBK, mean_SBK)).mean(0)

    def _filling(self, index: Sequence[int]) -> list[int]:
        """Rows of no account that fill a forward up: on a CPU memory grows with the number of sizes that there are."""
        return [index[0]] * (self.together - len(index)) if len(self.rows) > self.together else []

    @torch.no_grad()
    def kept(self, mask_HW: Tensor) -> Tensor:
        """[N] for how many of the scalings a row's copy gets the row's own class."""
        told_N = self.told_N
        found = [
            (self.copies(index, mask_HW).argmax(2) == told_N[list(index)]).sum(0)
            for index in in_chunks(range(len(self.rows)), self.together)
        ]
        return torch.cat(found).cpu()

    @torch.no_grad()
    def pixels(self, scale: float) -> tuple[float, Tensor]:
        """The share of all pixels that a scaling changes, without mask and shift; and [H, W] the mean light above the shift."""
        changed, light_HW = 0, torch.zeros(self.size, dtype=torch.float64, device=self.told_NK.device)
        channels = 1
        for index in in_chunks(range(len(self.rows)), self.together):
            image = batch_of(self.subject, [self.rows[i] for i in index])["image"]
            changed += int(((scale * image).clamp(0, 1) != image).sum())
            light_HW += (image - self.shift).clamp(min=0).double().sum((0, 1))
            channels = image.shape[1]
        count = len(self.rows) * channels
        return changed / (count * light_HW.numel()), light_HW / count

    @torch.no_grad()
    def flat(self, brightness: float, mask_HW: Tensor) -> list[int]:
        """For each scaling the class of the copy of an image that has this brightness everywhere."""
        first = batch_of(self.subject, self.rows[:1])
        even = {**first.tensors, "image": torch.full_like(first["image"], brightness)}
        return self._copies(Batch(first.ids, even), mask_HW)[:, 0].argmax(1).tolist()


def brighter(image: Tensor, mask_HW: Tensor, scales: Sequence[float], shift: float) -> Tensor:
    """[S B, C, H, W] clip(n (x - shift) o m, 0, 1) for each n, all rows of one n after another."""
    masked = (image.to(mask_HW.dtype) - shift) * mask_HW
    return torch.cat([(n * masked).clamp(0, 1) for n in scales])


def kl(p: Tensor, q: Tensor) -> Tensor:
    """sum p (log p - log q) over the last axis, of logarithms."""
    return (p.exp() * (p - q)).sum(-1)


def batch_of(subject: Any, rows: Sequence[Sample]) -> Batch:
    """Some rows on the model's device."""
    return subject.collate([subject.encode(row) for row in rows]).to(next(subject.module.parameters()).device)


def log_softmax(subject: Any, batch: Batch) -> Tensor:
    """[B, K] in nats."""
    return torch.log_softmax(classes(subject.likelihood(batch)).logits_NV, -1)


def in_chunks(index: Sequence[int], many: int) -> Iterator[Sequence[int]]:
    """Runs of so many at most."""
    for start in range(0, len(index), many):
        yield index[start : start + many]
