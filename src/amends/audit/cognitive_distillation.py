"""Cognitive distillation (Huang et al., arXiv 2301.10908): of an image with a trigger, a small piece says all there is to say.

For each row a mask of one channel, m = (tanh(theta) + 1) / 2, is learned, with theta = 1 at the start, that minimises

    (1/K) || f(x) - f(x m + (1 - m) d) ||_1 + l1 ||m||_1 + tv TV(m),
    TV(m) = (1/HW) sum over neighbours above and beside each other of (m_i - m_j)^2,

over the logits f, where d is a flat colour, drawn anew at each step, and Adam with both decays .1 takes 100 steps of .1. The
weights .01 and 1 are those of the authors' code. A trigger keeps the prediction by itself, so its mask is small: the score is
1 - ||m||_1 / HW.

With `clean`, a role of rows that are known to be so, a row is flagged whose mask is more than `deviations` deviations smaller
than theirs on average (the paper's rule, 1 deviation in its code); without it a declared share `rate` with the smallest masks.

Rows share a batch and nothing else: colours are drawn by the row's id, and Adam works on each pixel by itself. Rounding is not
harmless here, for Adam with such decays steps by little more than the sign of a gradient: the same rows in batches of another
size give masks that differ by more than rounding. It costs 100 forwards and backwards a row.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from amends.audit.images import below, check_clean, check_images, images_in_batches, logits_of, lowest
from amends.core.protocols import Context
from amends.core.spec import Count, Fraction, NonNegative, Positive, spec
from amends.core.types import Batch, Role, Sample, Scores
from amends.data.bundle import Bundle

WHY = "it masks pixels"
HELD = 2
"""A forward with gradients is taken to need so many times the memory of one without."""


@spec
class CognitiveDistillation:
    """How small a piece of an image gives the model's whole answer (cognitive distillation): 100 steps a row."""

    name: ClassVar[str] = "cognitive_distillation"
    steps: Count = 100
    """Steps of Adam for each mask."""
    lr: Positive = 0.1
    """Their size."""
    l1: NonNegative = 0.01
    """Weight of the mask's size, a sum over its pixels."""
    tv: NonNegative = 1.0
    """Weight of its total variation, a mean over its pixels."""
    clean: Role | None = None
    """Rows known to be clean, whose masks say how small is too small."""
    deviations: NonNegative = 1.0
    """With `clean`: flagged are masks smaller than the clean rows' mean by more than so many deviations."""
    rate: Fraction = 0.1
    """Without `clean`: the share of rows that is flagged."""
    role: Role = "train"
    """The rows that are audited."""

    def check(self, data: Bundle, subject: Any | None) -> None:
        """Images with classes, and a classifier."""
        check_images(data, self.role, subject, self.name, WHY)
        check_clean(data, self.clean, self.role, self.name, WHY)

    def scores(self, subject: Any, data: Bundle, run: Context) -> Scores:
        """How much of each image its mask leaves out, and the flags of the rule that applies."""
        rows = data[self.role]
        size = self.sizes(subject, rows, run)
        score = {row.id: 1 - size[row.id] for row in rows}
        if self.clean is None:
            return Scores(score, lowest(size, self.rate))
        least = below(list(self.sizes(subject, data[self.clean], run).values()), self.deviations)
        note = f"threshold {1 - least:.3f}" + ("" if least > 0 else ": no mask is so small, and nothing can be flagged")
        return Scores(score, frozenset(row for row, s in size.items() if s < least), note)

    def sizes(self, subject: Any, rows: Sequence[Sample], run: Context) -> dict[str, float]:
        """Row id -> ||m||_1 / HW, in 0..1."""
        found: dict[str, float] = {}
        with run.progress("distilling", len(rows)) as bar:
            for batch in images_in_batches(subject, rows, HELD):
                mask_B1HW = self.masks(subject, batch, run)
                found.update(zip(batch.ids, mask_B1HW.flatten(1).double().mean(1).clamp(0, 1).tolist(), strict=True))
                bar.advance(len(batch))
        return found

    def masks(self, subject: Any, batch: Batch, run: Context) -> Tensor:
        """[B, 1, H, W] the learned masks; the model's own gradients are never taken."""
        image = batch["image"]
        shape = (self.steps, image.shape[1], 1, 1)
        colour_SBC = torch.stack([torch.rand(shape, generator=run.rng(self.name, row)) for row in batch.ids], 1)
        with torch.no_grad():
            whole_BK = logits_of(subject, image)
        theta = torch.ones_like(image[:, :1]).requires_grad_()
        optimiser = torch.optim.Adam([theta], lr=self.lr, betas=(0.1, 0.1))
        for colour_BC in colour_SBC.to(image.device):
            with torch.enable_grad():
                mask = masked(theta)
                seen_BK = logits_of(subject, image * mask + (1 - mask) * colour_BC)
                (theta.grad,) = torch.autograd.grad(self.loss(mask, seen_BK, whole_BK).sum(), theta)
            optimiser.step()
        return masked(theta.detach())

    def loss(self, mask_B1HW: Tensor, seen_BK: Tensor, whole_BK: Tensor) -> Tensor:
        """[B] what each row's mask minimises."""
        away_B = (seen_BK - whole_BK).abs().mean(1)
        return away_B + self.l1 * mask_B1HW.abs().sum((1, 2, 3)) + self.tv * variation(mask_B1HW)


def masked(theta: Tensor) -> Tensor:
    """Any number as one in 0..1."""
    return (torch.tanh(theta) + 1) / 2


def variation(mask_B1HW: Tensor) -> Tensor:
    """[B] the sum of squared differences between neighbours, over the number of pixels.

    >>> variation(torch.tensor([[[[0.0, 1.0], [0.0, 1.0]]]])).tolist()
    [0.5]
    """
    down = mask_B1HW.diff(dim=2).square().sum((1, 2, 3))
    across = mask_B1HW.diff(dim=3).square().sum((1, 2, 3))
    return (down + across) / mask_B1HW[0].numel()
