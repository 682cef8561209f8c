"""A new task is learned beside kept rows of old ones, the worst served rows first: two levels (arXiv 2105.01696).

    min_theta sum_i lambda_i*(theta) l_i(theta),
    lambda*(theta) = argmin_{lambda in simplex} -<lambda, u(theta)> + (gamma/2) |lambda|^2

over the rows of a step; l_i is the row's negative log-likelihood and u_i how badly it is served: with `score: rate` minus its
sum rate over WMMSE's, with `score: loss` l_i itself. The lower level is the projection of u / gamma onto the simplex, exact in
one projected gradient step of size 1 / gamma. With the n_a rows of weight above 0

    dlambda*/dtheta = (1/gamma) (I - 1 1'/n_a) du/dtheta among them,

which unrolling that one step gives as it stands (the default), and `active_set` with `steps: 1` by
solving for it. With `identity` the weights count as constants: for `score: loss` this is the gradient of min-max.

Differences. Released code takes 20 projected steps of 0.1, after which 0.9^20 = 12 % of the way is left, multiplies with
-I + 1 1'/n, the opposite sign, also where a weight is 0, and its projection leaves weights below 0. Here the kept rows are a
reservoir that does not depend on the weights, the same for every method, where the paper keeps the rows of the largest
weights; so methods differ in how rows are weighed and in nothing else.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import lru_cache
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import SkipValidation
from torch import Tensor

from amends.bilevel.optimise import optimise
from amends.bilevel.problem import Problem
from amends.bilevel.simplex import onto_simplex, simplex
from amends.bilevel.solvers import Projected
from amends.bilevel.strategies.unroll import Unroll
from amends.bilevel.trust import Trust
from amends.bilevel.waist import Stateless
from amends.core.errors import UserError
from amends.core.protocols import Context, Params
from amends.core.spec import Count, Part, Positive, spec
from amends.core.types import Batch, Likelihood, Role
from amends.data.bundle import Bundle
from amends.engine.fit import Outcome
from amends.engine.loader import Loader
from amends.engine.optim import AdamW
from amends.engine.parallel import Parallel
from amends.subjects.power_net import rate_ratio

Score = Literal["rate", "loss"]
WEIGHT = "weight"
TRUST = Trust(multiplier=None, probe=0)
"""A weight that is just leaving 0 has a one-sided derivative, which serves as well. The lower Hessian is gamma I, so that there
is no end of a spectrum to look for."""


@spec
class Fair:
    """Learns a task beside kept rows of earlier ones, weighing up the rows that are served worst (bi-level, or min-max)."""

    starts: ClassVar[str] = "from"
    keeps_weights: ClassVar[bool] = True
    on: tuple[Role, ...]
    """The roles whose rows are learned: those of a new task, and those kept of earlier ones."""
    score: Score = "rate"
    """What says that a row is served badly: its sum rate beside WMMSE's, or its loss."""
    strategy: Annotated[Any, Part("hypergradients"), SkipValidation] = Unroll()
    """How the weights' dependence on the model is differentiated; `identity` leaves it out."""
    gamma: Positive = 1.0
    """How evenly weight is spread: over the worst row alone near 0, over all rows for a large one."""
    steps: Count
    """Optimiser steps."""
    batch: Count = 16
    """Rows a step, among which weight is shared out."""
    optim: Annotated[Any, Part("optim"), SkipValidation] = AdamW(lr=1e-3)
    """The optimiser."""
    checkpoint_every: Count = 100
    """Outer steps between two exact checkpoints."""

    def __call__(self, subject: Any, data: Bundle, run: Context) -> Outcome:
        """Trains the subject in place."""
        began = time.perf_counter()
        subject.call.to(Parallel().device).train()
        own = {n: p for n, p in subject.module.named_parameters() if p.requires_grad}
        found = optimise(
            self.problems(subject, data, run.seed), own, {WEIGHT: torch.zeros(1)}, strategy=self.strategy, optim=self.optim,
            steps=self.steps, solver=self.solver, warm=False, trust=TRUST, checkpoint_every=self.checkpoint_every,
            run=run,
        )  # fmt: skip
        with torch.no_grad():
            for name, value in found.outer.items():
                own[name].copy_(value)
        subject.call.eval()
        return Outcome(self.steps, None, time.perf_counter() - began)

    @property
    def solver(self) -> Projected:
        """The lower level's exact solution: the projection of u / gamma."""
        return Projected(1, 1 / self.gamma, lambda y: {n: onto_simplex(v) for n, v in y.items()})

    def problems(self, subject: Any, data: Bundle, seed: int) -> Callable[[int, int], Problem]:
        """The problem on the rows of (step, draw): a pure function of the step, the same for each draw."""
        loader = Loader(subject, "train", data.together(self.on), None, rows=self.batch, seed=seed)
        device, likelihood = next(subject.module.parameters()).device, Stateless(subject)

        @lru_cache(maxsize=1)
        def at(step: int) -> Problem:
            return weighed(likelihood, loader.at(step)[0].batch.to(device), self.score, self.gamma)

        return lambda step, draw: at(step)

    def objective_on(self, data: Bundle) -> tuple[()]:
        """No sum of terms; raises UserError for a role without rows."""
        if not data.together(self.on):
            raise UserError("on: give at least one role with rows to train on")
        return ()


def weighed(likelihood: Callable[[Params, Batch], Likelihood], batch: Batch, score: Score, gamma: float) -> Problem:
    """Both levels on the rows of a batch; the lower one starts at equal weights and is held to the simplex."""
    num, like = len(batch), next(iter(batch.tensors.values()))

    def upper(outer: Params, inner: Params) -> Tensor:
        return inner[WEIGHT] @ likelihood(outer, batch).nll_B

    def lower(outer: Params, inner: Params) -> Tensor:
        found = likelihood(outer, batch)
        served_B = -found.nll_B if score == "loss" else rate_ratio(found, batch)
        return inner[WEIGHT] @ served_B + 0.5 * gamma * inner[WEIGHT].square().sum()

    def start(outer: Params) -> Params:
        return {WEIGHT: like.new_full((num,), 1 / num)}

    return Problem(upper, lower, start=start, constraints=simplex(num, like))
