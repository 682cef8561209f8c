"""Accuracy under attack: the share of rows that no projected gradient descent turns (PGD, arXiv 1706.06083).

`restarts` attacks of `steps` signed steps each, from uniform starts within eps; a row counts when it is told as it is and at
the end of every attack. PGD-50-10, the default, is what papers on robust training report. It is an upper bound: a stronger
attack, or one that does not follow gradients, may find more. Rows that one attack has turned are not attacked again.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch

from amends.core.errors import UserError
from amends.core.rng import rng
from amends.core.spec import Count, Positive, spec
from amends.core.types import Batch, Better, Measurement, Role
from amends.engine.perturb import Box, climbed, image_of, seen
from amends.engine.score import batches
from amends.metrics.evaluation import Evaluation
from amends.metrics.rows import rows_of
from amends.metrics.stats import share_measurement


@spec
class RobustAccuracy:
    """Share of images that are told their class whatever small change projected gradient descent makes (PGD-50-10)."""

    version: ClassVar[int] = 1
    better: ClassVar[Better] = "higher"
    needs_reference: ClassVar[bool] = False
    role: Role = "test"
    """Whose images are attacked."""
    eps: Positive = 8 / 255
    """The largest change of a pixel, of 1."""
    steps: Count = 50
    """Steps of each attack."""
    restarts: Count = 10
    """Attacks on each image."""
    lr: Positive | None = None
    """The size of a step; a quarter of eps by default."""

    @property
    def name(self) -> str:
        """`robust_accuracy.test`."""
        return f"robust_accuracy.{self.role}"

    def roles(self) -> frozenset[Role]:
        """The one role."""
        return frozenset({self.role})

    def measure(self, evaluation: Evaluation, against: Evaluation | None = None) -> Measurement:
        """The share, with Wilson's interval. Raises UserError for rows that have no pixels or no class."""
        rows = rows_of(evaluation, self.role)
        if any("image" not in row.data or "label" not in row.data for row in rows):
            raise UserError(f"{self.name}: its rows are no labelled images, and only pixels can be changed a little")
        key = f"robust/{self.role}/{self.eps}/{self.steps}/{self.restarts}/{self.lr}"
        found: Mapping[str, float] = evaluation.once(key, lambda: self._held(evaluation, rows))
        scores = {row.id: found[row.id] for row in rows}
        note = f"PGD-{self.steps}-{self.restarts}, changes of at most {self.eps:.3g} a pixel"
        return share_measurement(self.name, scores, self.better, version=self.version, note=note)

    def _held(self, evaluation: Evaluation, rows: Any) -> dict[str, float]:
        device = next(evaluation.subject.module.parameters()).device
        held: dict[str, float] = {}
        for at, batch in enumerate(batches(evaluation.subject, rows, seed=evaluation.seed, device=device)):
            held |= dict.fromkeys(batch.ids, 0.0) | dict.fromkeys(self._left(evaluation, batch, at), 1.0)
        return held

    def _left(self, evaluation: Evaluation, batch: Batch, at: int) -> tuple[str, ...]:
        """The rows of a batch that no attack turns."""
        subject = evaluation.subject
        batch = _told(subject, batch, torch.zeros_like(image_of(batch)))
        for restart in range(self.restarts):
            if not len(batch):
                break
            image = image_of(batch)
            box = Box.around(image, self.eps)
            start = 2 * torch.rand(image.shape, generator=rng(evaluation.seed, "robust", at, restart)) - 1
            begin = box.project(self.eps * start.to(image))
            batch = _told(subject, batch, climbed(subject, batch, begin, box, self.lr or self.eps / 4, self.steps))
        return batch.ids


@torch.no_grad()
def _told(subject: Any, batch: Batch, delta: torch.Tensor) -> Batch:
    """The rows whose class the model still tells."""
    dist: Any = seen(subject, batch, delta).dist
    if not hasattr(dist, "logits_NV"):
        raise UserError("robust_accuracy: the model tells no class: measure a classifier of images")
    return batch.take((dist.logits_NV.argmax(-1) == dist.target_N).nonzero()[:, 0].tolist())
