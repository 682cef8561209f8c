"""Weights of training rows, or of classes, learned from clean validation rows.

Data hyper-cleaning (arXiv 1703.01785, 1810.10667); one step at a time it is learning to reweight (arXiv 1803.09050).

    min_x mean CE(y*(x); valid),    y*(x) = argmin_y 1/N sum_i w_i(x) CE(y; row i) + ridge/2 |y|^2,

w_i = 2 sigmoid(x_i), between 0 and 2, one a row; or w = K softmax(x) over the K classes, whose mean over classes stays 1. All
begin at 1, which is plain training. A row with a wrong label pulls away from what clean rows say, and its weight falls; a rare
class that validation rows have as often as any gets more.

The lower level is solved by L-BFGS, or by gradient descent with `inner_lr` for strategies that unroll it. The model is in
evaluation mode all along. At the end the weights of the model are solved for once more. Whether rows are known to be wrong
(`noisy`, `data/noisy.py`) is logged beside their weights, and used for nothing.
"""

from __future__ import annotations

import json
import time
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import SkipValidation
from torch import Tensor

from amends.bilevel.optimise import optimise
from amends.bilevel.problem import Problem
from amends.bilevel.solvers import GD, LBFGS
from amends.bilevel.strategies.cg import CG
from amends.bilevel.trust import Trust
from amends.core.protocols import Context, Params
from amends.core.spec import Count, Part, Positive, Weighted, spec
from amends.core.types import Role
from amends.data.bundle import Bundle
from amends.engine.fit import Outcome
from amends.engine.optim import AdamW
from amends.engine.parallel import Parallel, is_main_process
from amends.train.learned_decay import LearnedDecay
from amends.train.levels import in_doubles, losses, put, watching, weights_of


@spec
class RowWeights:
    """Trains a model and learns how much each training row, or each class, counts, from clean validation rows."""

    starts: ClassVar[str] = "any"
    keeps_weights: ClassVar[bool] = True
    on: Role = "train"
    """The rows that are weighed."""
    valid: Role = "valid"
    """Clean rows that say how."""
    watch: tuple[Role, ...] = ("test",)
    """Rows whose loss and accuracy are logged at each step, and used for nothing."""
    per: Literal["row", "class"] = "row"
    """What has a weight of its own."""
    ridge: Positive = 1e-2
    """The lower level's penalty, without which it may have no minimum."""
    strategy: Annotated[Any, Part("hypergradients"), SkipValidation] = CG(steps=200)
    """How the lower level is differentiated through."""
    inner_steps: Count = 300
    """Iterations of L-BFGS, or steps of gradient descent, between two steps of the weights."""
    inner_lr: Positive | None = None
    """The rate of gradient descent, for strategies that differentiate through its steps; null for L-BFGS."""
    steps: Count = 30
    """Steps of the weights."""
    optim: Annotated[Any, Part("optim"), SkipValidation] = AdamW(lr=0.3)
    """The optimiser of what the weights are made of."""
    checkpoint_every: Count = 100
    """Outer steps between two exact checkpoints."""

    def __call__(self, subject: Any, data: Bundle, run: Context) -> Outcome:
        """Trains in place, and leaves `row_weights.json` in the run's folder."""
        began = time.perf_counter()
        subject.call.to(Parallel().device)
        rows = data[self.on]
        label_N = torch.tensor([int(row.data["label"]) for row in rows])
        with in_doubles(subject):
            train, valid = losses(subject, data, self.on), losses(subject, data, self.valid)
            watch = watching({"valid": valid, **{role: losses(subject, data, role) for role in self.watch}})
            wrong_N = torch.tensor([bool(row.data.get("noisy")) for row in rows])

            def lower(outer: Params, inner: Params) -> Tensor:
                ridge = torch.stack([w.square().sum() for w in inner.values()]).sum()
                return (row_weights(outer["x"], label_N, self.per) * train.at(inner)).mean() + self.ridge / 2 * ridge

            def seen(outer: Params, inner: Params) -> dict[str, float]:
                return {**watch(outer, inner), **_split(row_weights(outer["x"], label_N, self.per), wrong_N)}

            first = torch.zeros(len(rows) if self.per == "row" else int(label_N.max()) + 1, dtype=torch.float64)
            solver = (
                LBFGS(iterations=self.inner_steps) if self.inner_lr is None else GD(steps=self.inner_steps, lr=self.inner_lr)
            )
            problem = Problem(lambda x, y: valid.at(y).mean(), lower)
            found = optimise(
                problem, {"x": first}, weights_of(subject), strategy=self.strategy, optim=self.optim, steps=self.steps,
                solver=solver, trust=Trust(), run=run, watch=seen, checkpoint_every=self.checkpoint_every,
            )  # fmt: skip
            with torch.no_grad():
                put(subject, LBFGS(iterations=500).step(problem, found.outer, found.inner))
        weight_N = row_weights(found.outer["x"], label_N, self.per)
        _keep({row.id: float(w) for row, w in zip(rows, weight_N, strict=True)}, run)
        return Outcome(self.steps, None, time.perf_counter() - began)

    def objective_on(self, data: Bundle) -> tuple[Weighted, ...]:
        """No sum of terms; raises UserError for a role without rows, and for rows on both levels."""
        return LearnedDecay(on=self.on, valid=self.valid, watch=self.watch).objective_on(data)


def row_weights(x: Tensor, label_N: Tensor, per: Literal["row", "class"]) -> Tensor:
    """[N] what each row counts.

    >>> row_weights(torch.zeros(2), torch.tensor([0, 1, 1]), "class").tolist()
    [1.0, 1.0, 1.0]
    """
    if per == "row":
        return 2 * torch.sigmoid(x)
    return (len(x) * torch.softmax(x, 0))[label_N]


def _split(weight_N: Tensor, wrong_N: Tensor) -> dict[str, float]:
    """The mean weight of rows with a right and with a wrong label, where there are both, and how well weights tell them."""
    if not wrong_N.any() or wrong_N.all():
        return {}
    right, wrong = weight_N[~wrong_N], weight_N[wrong_N]
    below = (wrong[:, None] < right[None]).double() + 0.5 * (wrong[:, None] == right[None]).double()
    return {"weight_right": float(right.mean()), "weight_wrong": float(wrong.mean()), "wrong_auroc": float(below.mean())}


def _keep(weights: dict[str, float], run: Context) -> None:
    low, high = min(weights.values()), max(weights.values())
    run.say(f"{len(weights)} rows weigh between {low:.2g} and {high:.2g}, learned from validation rows")
    if run.folder is not None and is_main_process():
        (run.folder / "row_weights.json").write_text(json.dumps(weights), encoding="utf-8")
