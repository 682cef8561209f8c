"""Boundary shrink (Boundary Unlearning, arXiv 2303.11570): each forget row moves to the nearest class that is not its own.

One step of FGSM, x' = x + eps sign(d CE(x, y) / dx), with the model as it is at the start; the class that it predicts for x' is
the row's other answer. Training on it with `idk` on the role gives the decision region of the forgotten class to its
neighbours; the paper has no retain half.

Released code rounds x' to 256 levels and clips it to [0, 1] (`low`, `high`, `levels`), so it takes images whose
normalisation is inside the model; for others set the range that they have, or null. Where one step does not change the
class, it keeps the TRUE class as the target, and such rows are learnt instead of forgotten (`unmoved: true_class`); here
the runner-up on x' is the target.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

import torch
from torch import Tensor

from amends.augment.rows import labelled, with_alternatives
from amends.core.errors import UserError
from amends.core.protocols import Context
from amends.core.spec import Count, Positive, spec
from amends.core.types import Batch, Role, Sample
from amends.data.bundle import Bundle
from amends.subjects.distributions import classes


@spec
class BoundaryShrink:
    """Gives each row the nearest wrong class, found by one adversarial step, as its other answer (boundary shrink)."""

    role: Role = "forget"
    """Whose rows move to a neighbouring class."""
    eps: Positive = 0.1
    """The length of the step, in units of the image."""
    low: float | None = 0.0
    """The darkest value that an image may have after the step; None for no bound."""
    high: float | None = 1.0
    """The brightest."""
    levels: Count | None = 255
    """Values are rounded to one part in so many; None for no rounding."""
    unmoved: Literal["runner_up", "true_class"] = "runner_up"
    """The target where the step does not change the class: the second choice, or the true class (released code)."""
    batch: Count = 128
    """Rows of one forward."""

    def __call__(self, subject: Any, data: Bundle, run: Context) -> Bundle:
        """The bundle with the nearest classes as alternatives. Raises UserError for rows without an image."""
        rows = labelled(data, self.role, "boundary_shrink")
        found: dict[str, list[int]] = {}
        moved = 0
        was_training = subject.call.training
        subject.call.eval()
        try:
            for batch in self._batches(subject, rows):
                first_B, second_B = self._choices(subject, batch)
                stayed_B = first_B == batch["label"]
                moved += int((~stayed_B).sum())
                other_B = second_B if self.unmoved == "runner_up" else batch["label"]
                found |= {i: [c] for i, c in zip(batch.ids, torch.where(stayed_B, other_B, first_B).tolist(), strict=True)}
        finally:
            subject.call.train(was_training)
        run.say(f"one step of {self.eps:g} takes {moved} of {len(rows)} rows of '{self.role}' across a decision boundary")
        return with_alternatives(data, self.role, found, key="label")

    def objective_on(self, data: Bundle) -> Bundle:
        """Stand-ins: the rows' own labels, since the nearest class depends on the model."""
        rows = labelled(data, self.role, "boundary_shrink")
        return with_alternatives(data, self.role, {row.id: [int(row.data["label"])] for row in rows}, key="label")

    def _batches(self, subject: Any, rows: tuple[Sample, ...]) -> Iterator[Batch]:
        device = next(subject.module.parameters()).device
        for i in range(0, len(rows), self.batch):
            batch = subject.collate([subject.encode(row) for row in rows[i : i + self.batch]])
            if "image" not in batch.tensors:
                raise UserError("boundary_shrink: rows need an image, which the adversarial step can move")
            image = batch["image"]
            if (self.low is not None and image.min() < self.low) or (self.high is not None and image.max() > self.high):
                raise UserError(
                    f"boundary_shrink: images go from {image.min():.3g} to {image.max():.3g}, beyond `low` and `high`: set "
                    "these to the range that images have, or to null"
                )
            yield batch.to(device)

    def _choices(self, subject: Any, batch: Batch) -> tuple[Tensor, Tensor]:
        """The first and second choice of the model after the step; the second of the classes that are not the true one."""
        image = batch["image"].clone().requires_grad_()
        with torch.enable_grad():
            loss = subject.likelihood(_with_image(batch, image)).nll_B.sum()
        (gradient,) = torch.autograd.grad(loss, image)
        with torch.no_grad():
            logits_BK = classes(subject.likelihood(_with_image(batch, self._stepped(image, gradient)))).logits_NV
        wrong_BK = logits_BK.scatter(1, batch["label"][:, None], -torch.inf)
        return logits_BK.argmax(1), wrong_BK.argmax(1)

    def _stepped(self, image: Tensor, gradient: Tensor) -> Tensor:
        moved = image.detach() + self.eps * gradient.sign()
        if self.levels is not None:
            moved = (moved * self.levels).round() / self.levels
        return moved if self.low is None and self.high is None else moved.clamp(self.low, self.high)


def _with_image(batch: Batch, image: Tensor) -> Batch:
    return Batch(batch.ids, {**batch.tensors, "image": image})
