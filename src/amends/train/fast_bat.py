"""Fast-BAT: robust training as a bi-level problem (Revisiting and Advancing Fast Adversarial Training, arXiv 2112.12376).

    min_theta CE(theta; x + delta*(theta)),
    delta*(theta) = argmin_{delta in C} <grad_z l(theta; x + z), delta - z> + (lam/2) |delta - z|^2,    l = -CE,

with C the changes of at most eps a pixel that keep the image in 0..1. The lower level is quadratic with the Hessian lam I, so
delta* = P_C(z - grad_z l / lam), and on a box the active coordinates are held (`bilevel/strategies/active_set.py`):

    dF/dtheta = d CE/d theta - d/d theta <grad_z l, u>,    u = M o (d CE/d delta) / lam,    M = 1 strictly inside the box.

Nothing is approximated: for a given z this is the derivative of F itself, wherever no coordinate is just at the edge. z is
where `steps` - 1 signed steps of `lr` from U(-eps, eps) end, of which a sign has no derivative.

Exact is not robust: the upper level learns to make the one linear step that it is up against a bad one (its gradient masks),
the more so the smaller lam is (docs/log.md). `last: sign` has delta* = P_C(z + lr sign(...)), as strong as PGD training's,
beside the cross term of the linear step from the same z: a regulariser, since a sign has no derivative. With `cross: false`
that is Fast-AT (one step of 1.25 eps) or PGD training. As in `train/adversarial.py` the attack looks in evaluation mode. lam is
of each row's own loss, so the size of a batch changes nothing; beside losses that are means over B rows it is B times as large.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import SkipValidation
from torch import Tensor

from amends.core.protocols import Context, Need, View
from amends.core.spec import Count, Part, Positive, Weighted, spec
from amends.core.types import Batch, Mean, Role
from amends.data.bundle import Bundle
from amends.engine.fit import Outcome
from amends.engine.perturb import Box, climbed, image_of, looking, seen, slope
from amends.train.adversarial import check_images, robustly


@spec
class FastBAT:
    """Robust training with the derivative of the attack itself: one bi-level problem a step (Fast-BAT)."""

    starts: ClassVar[str] = "any"
    keeps_weights: ClassVar[bool] = True
    train: Annotated[Any, Part("stages"), SkipValidation]
    """How the model is trained: a stage `train`, whose loss is the cross-entropy."""
    eps: Positive = 8 / 255
    """The largest change of a pixel, of 1."""
    lam: Positive = 10.0
    """The lower level's curvature: its last step is the gradient over this."""
    steps: Count = 2
    """Steps of the attack; all but the last are signed ones, which say where the lower level is linearised."""
    lr: Positive = 4 / 255
    """The size of a signed step."""
    last: Literal["linear", "sign"] = "linear"
    """The last step: the lower level's solution, whose derivative is exact; or a signed one of `lr`, too."""
    cross: bool = True
    """Whether the cross term is taken at all; without it and with `last: sign` this is Fast-AT or PGD training."""

    def __call__(self, subject: Any, data: Bundle, run: Context) -> Outcome:
        """Trains in place."""
        self.objective_on(data)
        return robustly(self.train, _Upper(self, copy.copy(subject)), subject, data, run)

    def objective_on(self, data: Bundle) -> tuple[Weighted, ...]:
        """The training's; raises UserError for a stage that is no training, and for rows without pixels."""
        return check_images("fast_bat", self.train, data)

    def check_model(self, subject: Any) -> None:
        """Raises UserError for edits that do not fit the model."""
        self.train.check_model(subject)

    def losses(self, subject: Any, batch: Batch) -> Tensor:
        """[B] the upper level of each row: its value is CE at delta*, its derivative in the weights that of F (`last: linear`).

        Args:
            batch: images with the `start` of the attack, in -1..1.
        """
        box = Box.around(image_of(batch), self.eps)
        with looking(subject):
            z = climbed(subject, batch, box.project(self.eps * batch["start"]), box, self.lr, self.steps - 1)
            slope_z = slope(subject, batch, z, graph=self.cross)
        step = self.lr * slope_z.sign() if self.last == "sign" else slope_z / self.lam
        delta = box.project(z + step.detach()).requires_grad_()
        loss_B = seen(subject, batch, delta).nll_B
        if not self.cross:
            return loss_B
        (upper,) = torch.autograd.grad(loss_B.sum(), [delta], retain_graph=True)
        u = torch.where(box.inside(delta), upper, 0.0) / self.lam
        cross_B = (slope_z * u).flatten(1).sum(1)
        return loss_B + cross_B - cross_B.detach()


@dataclass(frozen=True)
class _Upper:
    """The upper level as a term."""

    stage: FastBAT
    subject: Any
    role: Role = "train"
    needs: ClassVar[frozenset[Need]] = frozenset()
    per: ClassVar = "row"

    def __call__(self, view: View) -> Mean:
        loss_B = self.stage.losses(self.subject, view.batch)
        return Mean(loss_B, torch.ones_like(loss_B))
