"""Training for the worst group: weights of groups that follow their losses (group DRO, arXiv 1911.08731; DoReMi, 2305.10429).

    min_theta max_{a in simplex} sum_k a_k l_k(theta) - strength D(a, q),    l_k the mean loss of group k (less a reference's)

by turns: after each step of theta `a_k <- a_k exp(eta l_k)` and normalised (`follow`), mixed with a little of q; or a is the
maximum itself at running means of l_k (`worst`), for D the Kullback-Leibler divergence a_k ~ q_k exp(l_k / strength), and for
chi^2, D = 1/2 sum (a_k - q_k)^2 / q_k, the projection q_k (1 + (l_k - mu) / strength)_+ with mu such that they sum to 1.

q is uniform over the groups. It is a group's MEAN loss that a_k weighs, so the weight of a row of group k is a_k over the share
of all rows that its group has. The averages of a over the steps are left in `group_weights.json`: what DoReMi-style training
takes as fixed weights afterwards (`then`), from fresh weights. With `excess` l_k is max(0, mean excess over the model as it
came in), which a stage `from` another gives: same batches and the same drawn choices for both.

The weights live beside the fit, in the memory of a guard, so that they go into its checkpoints: a stage that was interrupted
goes on where it was.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field, SkipValidation
from torch import Tensor

from amends.core.context import Inside
from amends.core.errors import UserError
from amends.core.protocols import Context, Need, View
from amends.core.spec import Fraction, Part, Positive, Weighted, spec
from amends.core.types import Mean, Role
from amends.data.bundle import Bundle
from amends.engine.fit import Outcome, fit
from amends.engine.guards import Probe, Verdict
from amends.engine.parallel import Parallel, is_main_process
from amends.subjects.fresh import redraw
from amends.subjects.reference import frozen_copy
from amends.train.plain import Train


@spec
class DRO:
    """Trains for the worst group: weights of classes (or other groups) follow their losses; leaves the averaged weights."""

    starts: ClassVar[str] = "any"
    keeps_weights: ClassVar[bool] = True
    train: Annotated[Any, Part("stages"), SkipValidation]
    """How the model is trained: a stage `train`, whose loss is the rows' own likelihood."""
    group: str = "label"
    """The field of a row that says its group; `label` for its class, or a concept of a denoiser."""
    weights: Literal["follow", "kl", "chi2"] = "follow"
    """Multiplicative steps, or the maximum in closed form with a penalty."""
    eta: Positive = 0.01
    """The step of `follow`."""
    smooth: Fraction = 1e-3
    """How much of equal weights is mixed in at each step of `follow`."""
    strength: Positive = 1.0
    """The penalty of `kl` and `chi2`, in nats: the larger, the nearer to equal weights."""
    memory: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """How much of a group's running mean loss stays at each step that it has rows in."""
    excess: bool = False
    """Losses less those of the model as it came in, cut at 0."""
    then: Annotated[Any, Part("stages"), SkipValidation] = None
    """A stage `train` from fresh weights with the averaged group weights; null: the model is what was trained for the worst."""

    def __call__(self, subject: Any, data: Bundle, run: Context) -> Outcome:
        """Trains in place, and leaves `group_weights.json` in the run's folder."""
        self.objective_on(data)
        groups = Groups.of(data, self.train.on, self.group)
        weights = _Weights(self, groups, torch.full((len(groups.names),), 1 / len(groups.names), dtype=torch.float64))
        weights.reference = frozen_copy(subject) if self.excess else None
        outcome = _fitted(self.train, weights, subject, data, Inside(run, "worst"), (_Following(weights, run),))
        average = weights.sum_K / max(1, weights.steps)
        self._keep(dict(zip(groups.names, average.tolist(), strict=True)), run)
        if self.then is None:
            _tidy(run)
            return outcome
        device = next(subject.module.parameters()).device
        redraw(subject.call.cpu(), run.seed, "then")
        subject.call.to(device)
        fixed = _Weights(self, groups, average)
        after = _fitted(self.then, fixed, subject, data, Inside(run, "then"))
        _tidy(run)
        return Outcome(outcome.steps + after.steps, outcome.stopped or after.stopped, outcome.seconds + after.seconds)

    def objective_on(self, data: Bundle) -> tuple[Weighted, ...]:
        """The training's; raises UserError for stages that are no training, and for rows without a group."""
        for key in ("train", "then"):
            stage = getattr(self, key)
            if not isinstance(stage, Train) and not (key == "then" and stage is None):
                raise UserError(f"dro.{key}: expected a stage `train`, and this is {type(stage).__name__.lower()}")
        Groups.of(data, self.train.on, self.group)
        return self.train.objective_on(data)

    def check_model(self, subject: Any) -> None:
        """Raises UserError for edits that do not fit the model."""
        self.train.check_model(subject)

    @staticmethod
    def _keep(average: dict[str, float], run: Context) -> None:
        top = max(average, key=lambda name: average[name])
        run.say(
            f"the heaviest of {len(average)} groups is '{top}' with {average[top]:.2f} of the weight, averaged over the steps"
        )
        if run.folder is not None and is_main_process():
            (run.folder / "group_weights.json").write_text(json.dumps(average, indent=1), encoding="utf-8")


@dataclass(frozen=True)
class Groups:
    """Which group each row is of, by its id."""

    names: tuple[str, ...]
    of_row: dict[str, int]
    shares_K: Tensor
    """The share of the rows that each group has."""

    @staticmethod
    def of(data: Bundle, roles: tuple[Role, ...], key: str) -> Groups:
        """The groups of some roles' rows. Raises UserError for a row that has none, or where there is only one group."""
        rows = data.together(roles)
        for row in rows:
            if key not in row.data:
                raise UserError(f"dro.group: row {row.id} has no '{key}': name a field that every row has")
        found = sorted({row.data[key] for row in rows}, key=lambda v: (str(type(v)), v))
        if len(found) < 2:
            raise UserError(f"dro.group: all rows have the same '{key}', so there is nothing to weigh")
        place = {value: k for k, value in enumerate(found)}
        of_row = {row.id: place[row.data[key]] for row in rows}
        counts_K = torch.bincount(torch.tensor(list(of_row.values())), minlength=len(found)).double()
        named = [data.classes[v] if key == "label" and v < len(data.classes) else str(v) for v in found]
        return Groups(tuple(named), of_row, counts_K / counts_K.sum())


@dataclass
class _Weights:
    """The weights of a fit's groups, and what moves them."""

    stage: DRO
    groups: Groups
    now_K: Tensor
    reference: Any = None
    sum_K: Tensor = field(default_factory=lambda: torch.zeros(()))
    steps: int = 0
    mean_K: Tensor | None = None
    """Running mean losses."""
    totals_2K: Tensor | None = None
    """Losses and rows of each group in this step so far."""

    def rows(self, ids: tuple[str, ...], like: Tensor) -> tuple[Tensor, Tensor]:
        """[B] each row's group and its weight: a_k over the share of rows that its group has."""
        group_B = torch.tensor([self.groups.of_row[i] for i in ids])
        return group_B, (self.now_K / self.groups.shares_K)[group_B].to(like)

    def note(self, group_B: Tensor, loss_B: Tensor) -> None:
        """Adds the rows of a piece of the step's batch."""
        k = len(self.groups.names)
        added = torch.stack([
            torch.bincount(group_B, loss_B.double().cpu(), minlength=k), torch.bincount(group_B, minlength=k).double()
        ])  # fmt: skip
        self.totals_2K = added if self.totals_2K is None else self.totals_2K + added

    def move(self) -> None:
        """The step's losses become running means, and the weights follow them."""
        assert self.totals_2K is not None
        sums_K, counts_K = Parallel().sum(self.totals_2K.float()).double()
        here = counts_K > 0
        loss_K = torch.where(here, sums_K / counts_K.clamp_min(1), 0.0)
        loss_K = loss_K.clamp_min(0) if self.stage.excess else loss_K
        before = loss_K if self.mean_K is None else self.mean_K
        self.mean_K = torch.where(here, self.stage.memory * before + (1 - self.stage.memory) * loss_K, before)
        if self.stage.weights == "follow":
            self.now_K = follow(self.now_K, self.mean_K, self.stage.eta, self.stage.smooth)
        else:
            self.now_K = worst(self.mean_K, self.stage.strength, self.stage.weights)
        self.sum_K, self.steps, self.totals_2K = self.sum_K + self.now_K, self.steps + 1, None

    def told(self) -> dict[str, Any]:
        """What a checkpoint holds of it: numbers that JSON gives back bit for bit."""
        assert self.mean_K is not None
        kept = {"now": self.now_K, "sum": self.sum_K, "mean": self.mean_K}
        return {"steps": self.steps, **{key: value.tolist() for key, value in kept.items()}}

    def take(self, told: Mapping[str, Any]) -> None:
        """Goes on from there."""
        self.now_K, self.sum_K, self.mean_K = (torch.tensor(told[k], dtype=torch.float64) for k in ("now", "sum", "mean"))
        self.steps = told["steps"]


def follow(weights_K: Tensor, loss_K: Tensor, eta: float, smooth: float = 0.0) -> Tensor:
    """One multiplicative step: a_k exp(eta l_k), normalised, with `smooth` of equal weights mixed in.

    >>> follow(torch.tensor([0.5, 0.5]), torch.tensor([0.0, 0.6931]), 1.0).round(decimals=3).tolist()
    [0.3330000042915344, 0.6669999957084656]
    """
    moved_K = torch.softmax(weights_K.log() + eta * loss_K, 0)
    return (1 - smooth) * moved_K + smooth / len(moved_K)


def worst(loss_K: Tensor, strength: float, penalty: Literal["kl", "chi2"], prior_K: Tensor | None = None) -> Tensor:
    """The weights a on the simplex that maximise <a, l> - strength D(a, q), in closed form.

    Args:
        prior_K: q; None for equal weights.
    """
    q_K = torch.full_like(loss_K, 1 / len(loss_K)) if prior_K is None else prior_K
    if penalty == "kl":
        return torch.softmax(q_K.log() + loss_K / strength, 0)
    order = loss_K.argsort(descending=True)
    q_S, l_S = q_K[order], loss_K[order]
    mu_S = (torch.cumsum(q_S * (1 + l_S / strength), 0) - 1) * strength / torch.cumsum(q_S, 0)
    last = int(((1 + (l_S - mu_S) / strength) > 0).nonzero().max())  # groups whose weight is above 0 come first
    return q_K * (1 + (loss_K - mu_S[last]) / strength).clamp_min(0)


@dataclass(frozen=True)
class _ByGroup:
    """The rows' likelihood, weighed by group."""

    weights: _Weights
    role: Role = "train"
    needs: ClassVar[frozenset[Need]] = frozenset()
    per: ClassVar = "row"

    def __call__(self, view: View) -> Mean:
        like = view.policy
        loss_B = like.nll_B / like.n_B
        group_B, weight_B = self.weights.rows(view.batch.ids, loss_B)
        seen_B = loss_B.detach()
        if self.weights.reference is not None:
            with torch.no_grad():
                other = self.weights.reference.likelihood(view.batch)
            seen_B = seen_B - other.nll_B / other.n_B
        self.weights.note(group_B, seen_B)
        return Mean(weight_B * loss_B, torch.ones_like(loss_B))


@dataclass(frozen=True)
class _Following:
    """A guard that stops nothing: it moves the weights of groups behind each step, logs the largest, and remembers them."""

    of: _Weights
    run: Context
    every: int = 1

    def look(self, step: int, probe: Probe, memory: dict[str, Any]) -> Verdict:
        """Behind a step, of which the losses are known."""
        if step == 0:
            return Verdict()
        self.of.move()
        memory |= self.of.told()
        told = {f"weight_{n}": float(a) for n, a in zip(self.of.groups.names, self.of.now_K, strict=True)}
        Inside(self.run, "groups").log(step=step, worst_loss=max(memory["mean"]), heaviest=max(told.values()), **told)
        return Verdict()

    def resumed(self, memory: Mapping[str, Any]) -> None:
        """The weights of a checkpoint."""
        self.of.take(memory)


def _fitted(train: Train, weights: _Weights, subject: Any, data: Bundle, run: Context, guards: tuple[Any, ...] = ()) -> Outcome:
    rows = data.with_role("train", data.together(train.on))
    return fit(
        subject, (Weighted(term=_ByGroup(weights)),), rows, steps=train.steps, optim=train.optim, batch=train.batch,
        micro=train.micro, edits=train.edits, guards=guards, parallel=Parallel(train.parallel, train.precision),
        checkpoint_every=train.checkpoint_every, run=run,
    )  # fmt: skip


def _tidy(run: Context) -> None:
    """Leaves no checkpoint of a part."""
    if run.folder is not None and is_main_process():
        for part in ("worst", "then"):
            shutil.rmtree(run.folder / part, ignore_errors=True)
