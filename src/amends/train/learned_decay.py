"""Weight decay that is learned from validation rows while the model is trained: hyper-parameters as an upper level.

    min_x mean CE(y*(x); valid),    y*(x) = argmin_y mean CE(y; train) + 1/2 sum_i (floor + exp x_i) |y_i|^2,

i a group of weights with one penalty: all of them, a tensor, an input feature (a column of the first weight matrix), or a
single weight. Papers: Hyperparameter optimization with approximate gradient (arXiv 1602.02355); Optimizing Millions of
Hyperparameters by Implicit Differentiation (arXiv 1911.02590); unrolled: arXiv 1703.01785.

With an implicit strategy the lower level is solved by L-BFGS from where it was left; with `inner_lr` by gradient descent, which
`unroll` differentiates through. The model is in evaluation mode all along, so it should be one without batch normalisation. A
floor keeps the lower level's curvature above 0. At the end the weights are solved for once more under the last penalties.
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
from amends.core.errors import UserError
from amends.core.protocols import Context, Params
from amends.core.spec import Count, Part, Positive, Weighted, spec
from amends.core.types import Role
from amends.data.bundle import Bundle
from amends.engine.fit import Outcome
from amends.engine.optim import AdamW
from amends.engine.parallel import Parallel, is_main_process
from amends.train.levels import Losses, in_doubles, losses, put, watching, weights_of

Per = Literal["one", "tensor", "feature", "weight"]


@spec
class LearnedDecay:
    """Trains a model and learns its weight decay, one or thousands of penalties, from validation rows at the same time."""

    starts: ClassVar[str] = "any"
    keeps_weights: ClassVar[bool] = True
    on: Role = "train"
    """The rows that the weights are fitted to."""
    valid: Role = "valid"
    """The rows that the penalties are learned from."""
    watch: tuple[Role, ...] = ("test",)
    """Rows whose loss and accuracy are logged at each step, and used for nothing."""
    per: Per = "feature"
    """What has a penalty of its own."""
    strategy: Annotated[Any, Part("hypergradients"), SkipValidation] = CG(steps=200)
    """How the lower level is differentiated through."""
    inner_steps: Count = 300
    """Iterations of L-BFGS, or steps of gradient descent, between two steps of the penalties."""
    inner_lr: Positive | None = None
    """The rate of gradient descent, for strategies that differentiate through its steps; null for L-BFGS."""
    first: Positive = 1e-2
    """Every penalty at the start."""
    floor: Positive = 1e-3
    """The least a penalty can be."""
    steps: Count = 40
    """Steps of the penalties."""
    optim: Annotated[Any, Part("optim"), SkipValidation] = AdamW(lr=0.15)
    """The optimiser of their logarithms."""
    checkpoint_every: Count = 100
    """Outer steps between two exact checkpoints."""
    trust: Literal["checked", "blind"] = "checked"
    """Whether a hypergradient that its own diagnosis speaks against ends the stage."""

    def __call__(self, subject: Any, data: Bundle, run: Context) -> Outcome:
        """Trains in place, and leaves `decays.json` in the run's folder."""
        began = time.perf_counter()
        subject.call.to(Parallel().device)
        with in_doubles(subject):
            train, valid = losses(subject, data, self.on), losses(subject, data, self.valid)
            shown = {"train": train, "valid": valid, **{role: losses(subject, data, role) for role in self.watch}}
            weights = weights_of(subject)
            outer = log_penalties(weights, self.per, self.first)
            problem = Problem(lambda x, y: valid.at(y).mean(), lambda x, y: self.lower(train, x, y))
            solver = (
                LBFGS(iterations=self.inner_steps) if self.inner_lr is None else GD(steps=self.inner_steps, lr=self.inner_lr)
            )
            found = optimise(
                problem, outer, weights, strategy=self.strategy, optim=self.optim, steps=self.steps, solver=solver,
                trust=Trust() if self.trust == "checked" else Trust.blind(), run=run, watch=watching(shown),
                checkpoint_every=self.checkpoint_every,
            )  # fmt: skip
            with torch.no_grad():
                put(subject, LBFGS(iterations=500).step(problem, found.outer, found.inner))
        self._keep({n: self.floor + v.exp() for n, v in found.outer.items()}, run)
        return Outcome(self.steps, None, time.perf_counter() - began)

    def lower(self, train: Losses, outer: Params, inner: Params) -> Tensor:
        """The training loss with its penalties."""
        return train.at(inner).mean() + penalty({n: self.floor + v.exp() for n, v in outer.items()}, inner)

    def objective_on(self, data: Bundle) -> tuple[Weighted, ...]:
        """No sum of terms; raises UserError for a role without rows, and for rows on both levels."""
        for role in (self.on, self.valid, *self.watch):
            if not data[role]:
                raise UserError(f"learned_decay: the role '{role}' is empty")
        both = {row.id for row in data[self.on]} & {row.id for row in data[self.valid]}
        if both:
            raise UserError(f"learned_decay.valid: row {min(both)} is trained on as well: set rows aside (`use: noisy`)")
        return ()

    @staticmethod
    def _keep(decays: Params, run: Context) -> None:
        every_D = torch.cat([v.flatten() for v in decays.values()])
        low, high = float(every_D.min()), float(every_D.max())
        run.say(f"{len(every_D)} penalties between {low:.2g} and {high:.2g}, learned from validation rows")
        if run.folder is not None and is_main_process():
            told = {n: v.tolist() for n, v in decays.items()}
            (run.folder / "decays.json").write_text(json.dumps(told), encoding="utf-8")


def log_penalties(weights: Params, per: Per, first: float) -> dict[str, Tensor]:
    """Logarithms of equal penalties: a tensor that fits each weight's shape, or a single one for all.

    >>> {n: tuple(v.shape) for n, v in log_penalties({"w": torch.ones(3, 5), "b": torch.ones(3)}, "feature", 0.1).items()}
    {'w': (1, 5), 'b': ()}
    """
    if per == "one":
        return {"every": torch.full((), first, dtype=next(iter(weights.values())).dtype).log()}
    matrix = next((n for n, w in weights.items() if w.ndim == 2), None)
    shapes: dict[str, tuple[int, ...]] = dict.fromkeys(weights, ())
    if per == "weight":
        shapes = {n: tuple(w.shape) for n, w in weights.items()}
    elif per == "feature":
        if matrix is None:
            raise UserError("learned_decay.per: the model has no weight matrix, whose columns would be features: use `tensor`")
        shapes[matrix] = (1, weights[matrix].shape[1])
    return {n: torch.full(shape, first, device=weights[n].device, dtype=weights[n].dtype).log() for n, shape in shapes.items()}


def penalty(decays: Params, inner: Params) -> Tensor:
    """1/2 sum_i decay_i |y_i|^2, each penalty spread over the weights that share it."""
    one = decays.get("every")
    return 0.5 * torch.stack([((decays[n] if one is None else one) * w.square()).sum() for n, w in inner.items()]).sum()
