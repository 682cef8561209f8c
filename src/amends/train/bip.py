"""BiP: which weights are pruned is learned at two levels (Advancing Model Pruning via Bi-level Optimization, arXiv 2210.04092).

    min_{m in top-k} l(m o theta*(m)),    theta*(m) = argmin_theta l(m o theta) + (gamma / 2) |theta|^2

m and theta meet as a product, so with H ~ gamma I (`bilevel/strategies/hessian_free.py`, l taken as piecewise linear) implicit
differentiation needs first derivatives only, with z = m o theta:

    dtheta*/dm = -(1/gamma) diag(grad_z l),    m <- m - a (grad_m l - (1/gamma) grad_z l o grad_theta l).

grad_m l = theta o grad_z l and grad_theta l = m o grad_z l, the top-k taken as the identity on the way back (straight through).
The loop is `fit`: theta takes a step on the lower level's rows under the mask, then m takes one on other rows, whose order is
another; grad_z l inside the brackets is the lower level's, at its batch. Scores begin as a COPY of |theta| (released code lets
them share the weights' memory), over all kernels of convolutions, and are ranked as they are: one that falls below 0 is pruned,
where |m| would bring it back. Pruned weights keep their values, which the forward pass never sees, and may return; at the end
they are 0.

Differences. The upper level looks in evaluation mode (no dropout, running statistics, no augmentation), as all that scores
weights here does. m has plain gradient descent with a schedule. `form: released` is the authors' loop as it runs: its
correction is the square of ONE gradient, that of the scores on the upper rows, -(1/gamma) (grad_m l)^2, with 1/gamma = 1e-4 as
shipped; no lower batch has a part in it, and it always raises a score. The ridge of theta is the optimiser's `weight_decay`, as
there.
"""

from __future__ import annotations

import copy
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field, SkipValidation
from torch import Tensor

from amends.core import fingerprint
from amends.core.context import Inside
from amends.core.errors import UserError
from amends.core.protocols import Context, Params, Start, Step
from amends.core.rng import stream_seed
from amends.core.spec import Count, Part, Positive, Weighted, spec
from amends.core.types import Role
from amends.data.bundle import Bundle
from amends.edits import sparse
from amends.edits.mask_file import Mask
from amends.edits.sparse import Which
from amends.engine.check import check_edits, hollow
from amends.engine.fit import Outcome
from amends.engine.loader import Loader
from amends.engine.optim import Schedule, scheduled
from amends.engine.parallel import Parallel, from_main, is_main_process
from amends.train.plain import Train


@spec
class BiP:
    """Learns which weights to prune while it trains the others: one bi-level problem, no rewinding (BiP)."""

    starts: ClassVar[str] = "any"
    keeps_weights: ClassVar[bool] = True
    train: Annotated[Any, Part("stages"), SkipValidation]
    """The lower level: a stage `train`, whose every step is followed by one of the scores."""
    dense: Annotated[Any, Part("stages"), SkipValidation] = None
    """A stage `train` that comes first, without a mask; null where the start model is trained already."""
    sparsity: Annotated[float, Field(gt=0, lt=1)] = 0.95
    """The share of the prunable weights that ends as 0."""
    gamma: Positive = 1.0
    """The lower level's curvature: the correction of the scores' gradient has the factor 1/gamma."""
    form: Literal["paper", "released"] = "paper"
    """The paper's formula, or the correction of the authors' code."""
    score_lr: Positive = 0.1
    """The peak step size of the scores."""
    score_schedule: Schedule = "cosine"
    """What it does over the steps."""
    every: Count = 1
    """Steps of the lower level between two of the upper one."""
    upper: tuple[Role, ...] | None = None
    """The roles of the upper level; null: those of `train`, in another order."""
    which: Which = "convolutions"
    """What is pruned: kernels of convolutions, or all weights of layers."""

    def __call__(self, subject: Any, data: Bundle, run: Context) -> Outcome:
        """Trains in place; what is pruned is 0, and the mask lies in the run's folder."""
        self.objective_on(data)
        self.check_model(subject)
        subject.call.to(Parallel().device)
        outcomes = [] if self.dense is None else [self.dense(subject, data, Inside(run, "dense"))]
        upper = _Upper(self)
        stage = replace(self.train, edits=(_Dense(self.which), upper, *self.train.edits))
        outcomes.append(stage(subject, data, Inside(run, "sparse")))
        mask = _whole(subject, upper.masks)
        sparse.put_on(subject.module, mask)
        self._keep(mask, data, run)
        share = sparse.told(subject.module, self.which, run)
        stopped = next((o.stopped for o in outcomes if o.stopped), None)
        steps, seconds = sum(o.steps for o in outcomes), sum(o.seconds for o in outcomes)
        return Outcome(steps, stopped, seconds, sparsity=share)

    def objective_on(self, data: Bundle) -> tuple[Weighted, ...]:
        """The training's; raises UserError for stages that are no training, and for roles without rows."""
        for key in ("train", "dense"):
            stage = getattr(self, key)
            if not isinstance(stage, Train) and not (key == "dense" and stage is None):
                raise UserError(f"bip.{key}: expected a stage `train`, and this is {type(stage).__name__.lower()}")
        if self.train.parallel == "fsdp2":
            raise UserError("bip.train.parallel: scores are ranked over whole weights, which `fsdp2` spreads: use `ddp`")
        if self.upper is not None and not data.together(self.upper):
            raise UserError("bip.upper: give at least one role with rows, or leave it null")
        if self.dense is not None:
            self.dense.objective_on(data)
        return self.train.objective_on(data)

    def check_model(self, subject: Any) -> None:
        """Raises UserError where there is nothing to prune, where some of it is frozen, and for edits that do not fit."""
        twin = hollow(subject)
        check_edits(self.train.edits, subject=twin)
        still = [name for name, p in sparse.prunable(twin.module, self.which).items() if not p.requires_grad]
        if still:
            raise UserError(f"bip: {still[0]} is to be pruned and is frozen: leave the `freeze` edit out")

    def _keep(self, mask: Mask, data: Bundle, run: Context) -> None:
        """Leaves the mask, and no checkpoint of a part."""
        if run.folder is None or not is_main_process():
            return
        mask.save(run.folder, fingerprint.of(self, run.seed, data.fingerprint()))
        for part in ("dense", "sparse"):
            shutil.rmtree(run.folder / part, ignore_errors=True)


def direction(
    weight: Tensor, mask: Tensor, slope: Tensor, lower_slope: Tensor, gamma: float, form: Literal["paper", "released"]
) -> tuple[Tensor, Tensor]:
    """grad_m l, and the correction that is taken from it.

    Args:
        slope: grad_z l at z = mask o weight, on the upper level's rows.
        lower_slope: the same on the lower level's rows.
    """
    direct = weight * slope
    other = direct * direct if form == "released" else lower_slope * (mask * slope)
    return direct, other / gamma


def largest(scores: Params, keep: int) -> dict[str, Tensor]:
    """Booleans of the scores' shapes, True for exactly the `keep` largest of all."""
    every_D = torch.cat([s.flatten() for s in scores.values()])
    chosen_D = torch.zeros_like(every_D, dtype=torch.bool)
    chosen_D[torch.topk(every_D, keep).indices] = True
    pieces = chosen_D.split([s.numel() for s in scores.values()])
    return {name: piece.view(s.shape) for (name, s), piece in zip(scores.items(), pieces, strict=True)}


@dataclass(frozen=True)
class _Dense:
    """An edit that holds all weights, the pruned ones too, while the model shows those under the mask only."""

    which: Which

    def init(self, params: Params, start: Start) -> dict[str, Tensor]:
        """The start's weights."""
        return {name: p.detach().clone() for name, p in sparse.prunable(start.subject.module, self.which).items()}

    @torch.no_grad()
    def grads(self, params: Params, state: dict[str, Tensor], step: Step) -> dict[str, Tensor]:
        """The optimiser is to move the whole weights."""
        for name, weight in state.items():
            params[name].copy_(weight)
        return state

    def weights(self, params: Params, state: dict[str, Tensor], step: Step) -> dict[str, Tensor]:
        """Takes them back."""
        return {name: params[name].detach().clone() for name in state}


@dataclass(frozen=True)
class _Upper:
    """The upper level as an edit: its state is the scores, which move behind each step of the weights."""

    stage: BiP
    masks: dict[str, Tensor] = field(default_factory=dict)
    """The mask of now; what the scores say."""
    live: dict[str, Any] = field(default_factory=dict)
    """The model as it was before it was wrapped, its rows, and the lower level's slopes of this step."""

    def init(self, params: Params, start: Start) -> dict[str, Tensor]:
        """Scores: the weights' sizes, in memory of their own; the model shows the first mask."""
        stage, run = self.stage, start.run
        roles = stage.upper if stage.upper is not None else stage.train.on
        seed, rows = stream_seed(run.seed, "bip", "upper"), start.data.together(roles)
        self.live["loader"] = Loader(start.subject, "upper", rows, None, rows=stage.train.batch, seed=seed)
        self.live["subject"], self.live["run"] = copy.copy(start.subject), run
        scores = {n: p.detach().abs().clone() for n, p in sparse.prunable(start.subject.module, stage.which).items()}
        self._show({n: params[n].detach().clone() for n in scores}, scores, params)
        return scores

    def grads(self, params: Params, state: dict[str, Tensor], step: Step) -> dict[str, Tensor]:
        """Notes grad_z l and leaves grad_theta l = m o grad_z l."""
        masks = self._masks(state)
        slopes = self.live["slopes"] = {}
        for name in state:
            gradient = params[name].grad
            assert gradient is not None, name
            slopes[name] = gradient.clone()
            gradient.mul_(masks[name])
        return state

    def weights(self, params: Params, state: dict[str, Tensor], step: Step) -> dict[str, Tensor]:
        """A step of the scores, and the model under the mask that they now say."""
        before = self._masks(state)
        weights = {name: params[name].detach().clone() for name in state}
        if (step.number + 1) % self.stage.every == 0:
            state = self._moved(params, weights, state, before, step)
        self._show(weights, state, params)
        return state

    def _moved(
        self, params: Params, weights: Params, scores: dict[str, Tensor], masks: Mapping[str, Tensor], step: Step
    ) -> dict[str, Tensor]:
        self._put(params, {n: weights[n] * masks[n] for n in scores})
        loss, slopes = self._slopes(params, list(scores), step.number)
        rate = self.stage.score_lr * scheduled(step.number, step.of, 0.0, self.stage.score_schedule)
        moved, sizes = {}, torch.zeros(2, dtype=torch.float64)
        for n, slope in slopes.items():
            lower = self.live["slopes"][n]
            direct, other = direction(weights[n], masks[n], slope, lower, self.stage.gamma, self.stage.form)
            moved[n] = from_main(scores[n] - rate * (direct - other))
            sizes += torch.tensor([float(direct.norm()) ** 2, float(other.norm()) ** 2], dtype=torch.float64)
        after = largest(moved, self._kept(moved))
        entered = sum(int((after[n] & ~masks[n]).sum()) for n in masks)
        share = float((sizes[1] / sizes[0]) ** 0.5) if sizes[0] else 0.0
        Inside(self.live["run"], "mask").log(step=step.number + 1, upper_loss=loss, entered=entered, correction=share)
        return moved

    def _slopes(self, params: Params, names: list[str], number: int) -> tuple[float, dict[str, Tensor]]:
        """The upper loss and its grad_z, in evaluation mode, on the rows of this step."""
        subject = self.live["subject"]
        was_training = subject.call.training
        subject.call.eval()
        try:
            batch = self.live["loader"].at(number)[0].batch.to(params[names[0]].device)
            like = subject.likelihood(batch)
            loss = like.nll_B.sum() / like.n_B.sum()
            found = torch.autograd.grad(loss, [params[n] for n in names], materialize_grads=True)
        finally:
            subject.call.train(was_training)
        return float(loss.detach()), dict(zip(names, found, strict=True))

    def _show(self, weights: Params, scores: Params, params: Params) -> None:
        """The model has the weights under the scores' mask."""
        self._put(params, {n: weights[n] * mask for n, mask in self._masks(scores).items()})

    @staticmethod
    @torch.no_grad()
    def _put(params: Params, values: Params) -> None:
        for name, value in values.items():
            params[name].copy_(value)

    def _masks(self, scores: Params) -> dict[str, Tensor]:
        self.masks.update(largest(scores, self._kept(scores)))
        return self.masks

    def _kept(self, scores: Params) -> int:
        return max(1, round((1 - self.stage.sparsity) * sum(s.numel() for s in scores.values())))


def _whole(subject: Any, masks: Mapping[str, Tensor]) -> Mask:
    """The mask over every parameter."""
    named = subject.module.named_parameters()
    return Mask.of({n: masks.get(n, torch.ones_like(p, dtype=torch.bool)) for n, p in named}, "bip")
