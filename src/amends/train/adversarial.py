"""Adversarial training: the loss at images that were changed for the worse (arXiv 1706.06083; Fast-AT: arXiv 2001.03994).

    min_theta E CE(theta; x + delta),    delta = `steps` projected signed steps of `lr` from U(-eps, eps)

delta counts as a constant. `steps: 2` is PGD-2; one step of 1.25 eps is Fast-AT, which is Fast-BAT (`train/fast_bat.py`) with a
lower level that sees the gradient's sign alone. Attacks look in evaluation mode, so running statistics know the changed images
of the training step only; released code attacks in training mode.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar

import torch
from pydantic import SkipValidation

from amends.core.errors import UserError
from amends.core.protocols import Context, Need, View
from amends.core.spec import Count, Part, Positive, Weighted, spec
from amends.core.types import Mean, Role
from amends.data.bundle import Bundle
from amends.engine.fit import Outcome
from amends.engine.perturb import Box, Started, climbed, image_of, looking, seen
from amends.train.plain import Train


@spec
class Adversarial:
    """Training on images changed by projected signed gradient steps (PGD training; Fast-AT with one step)."""

    starts: ClassVar[str] = "any"
    keeps_weights: ClassVar[bool] = True
    train: Annotated[Any, Part("stages"), SkipValidation]
    """How the model is trained: a stage `train`, whose loss is the cross-entropy."""
    eps: Positive = 8 / 255
    """The largest change of a pixel, of 1."""
    steps: Count = 2
    """Steps of the attack."""
    lr: Positive = 4 / 255
    """The size of a step; 1.25 eps in Fast-AT."""

    def __call__(self, subject: Any, data: Bundle, run: Context) -> Outcome:
        """Trains in place."""
        self.objective_on(data)
        return robustly(self.train, _AtChanged(self, copy.copy(subject)), subject, data, run)

    def objective_on(self, data: Bundle) -> tuple[Weighted, ...]:
        """The training's; raises UserError for a stage that is no training, and for rows without pixels."""
        return check_images("adversarial", self.train, data)

    def check_model(self, subject: Any) -> None:
        """Raises UserError for edits that do not fit the model."""
        self.train.check_model(subject)


@dataclass(frozen=True)
class _AtChanged:
    """The cross-entropy of the rows, changed."""

    stage: Adversarial
    subject: Any
    role: Role = "train"
    needs: ClassVar[frozenset[Need]] = frozenset()
    per: ClassVar = "row"

    def __call__(self, view: View) -> Mean:
        batch, stage = view.batch, self.stage
        box = Box.around(image_of(batch), stage.eps)
        with looking(self.subject):
            delta = climbed(self.subject, batch, box.project(stage.eps * batch["start"]), box, stage.lr, stage.steps)
        like = seen(self.subject, batch, delta)
        return Mean(like.nll_B, torch.ones_like(like.nll_B))


def robustly(train: Train, term: Any, subject: Any, data: Bundle, run: Context) -> Outcome:
    """The training with a loss at changed images in the place of its own; where attacks start is drawn with each batch."""
    return replace(train, loss=Weighted(term=term))(Started(subject), data, run)


def check_images(name: str, train: Any, data: Bundle) -> tuple[Weighted, ...]:
    """The training's objective; raises UserError for a stage that is no training, several processes, or rows without pixels."""
    if not isinstance(train, Train):
        raise UserError(f"{name}.train: expected a stage `train`, and this is {type(train).__name__.lower()}")
    if train.parallel == "fsdp2":
        raise UserError(f"{name}.train.parallel: attacks look at whole weights, which `fsdp2` spreads: use `ddp`")
    objective = train.objective_on(data)
    row = next((row for row in data.together(train.on) if "image" not in row.data), None)
    if row is not None:
        raise UserError(f"{name}: row {row.id} has no image, and only pixels can be changed a little: use a source of images")
    return objective
