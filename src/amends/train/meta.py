"""Learns a start from which few rows' steps lead far: MAML and its relatives as one bi-level problem (arXiv 1703.03400).

    min_x sum over tasks of  L_payload(y*(x)),    y*(x) = steps from x on  L_pilots(y) + (proximal/2) |y - x|^2

A step takes one task (a row with many terms: a device with its symbols). How y* is differentiated makes the method:

- `unroll` through gradient descent from y_0 = x: MAML;
- `identity` with `start: true`: FOMAML, first order only;
- `unroll` with `lower: {signed: true}`: Sign-MAML (arXiv 2109.07497);
- `cg` with `proximal` above 0: iMAML (arXiv 1909.04630); the lower level has to be solved for its gradient to be one.

A network's lower level is not convex, so nothing is promised of it: the run's log has the residual of each linear system, and
only answers that are not finite end the stage. Released code for iMAML takes 5 steps of conjugate gradients with proximal 100.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import lru_cache
from typing import Annotated, Any, ClassVar

import torch
from pydantic import SkipValidation
from torch import Tensor

from amends.bilevel.optimise import optimise
from amends.bilevel.problem import Problem
from amends.bilevel.solvers import GD
from amends.bilevel.strategies.unroll import Unroll
from amends.bilevel.trust import Trust
from amends.bilevel.waist import Stateless
from amends.core.errors import UserError
from amends.core.protocols import Context, Params
from amends.core.spec import Count, NonNegative, Part, Positive, spec
from amends.core.types import Role
from amends.data.bundle import Bundle
from amends.engine.fit import Outcome
from amends.engine.loader import Loader
from amends.engine.optim import AdamW
from amends.engine.parallel import Parallel
from amends.subjects.demodulator import part

TRUST = Trust.blind()
"""See the module: a lower level that is not convex."""


@spec
class Meta:
    """Learns where to start from, so that a few steps on a new task's few pilots suffice: MAML, FOMAML, iMAML, Sign-MAML."""

    starts: ClassVar[str] = "any"
    keeps_weights: ClassVar[bool] = True
    on: tuple[Role, ...]
    """The roles whose rows are tasks."""
    pilots: Count
    """How many terms of a task the lower level learns from; the upper level asks for the others."""
    payload: Count | None = None
    """How many of the others; null for all."""
    strategy: Annotated[Any, Part("hypergradients"), SkipValidation] = Unroll()
    """How the adapted weights are differentiated."""
    lower_steps: Count = 5
    """Steps of gradient descent on the pilots."""
    lower_lr: Positive = 0.1
    """Their size."""
    signed: bool = False
    """Steps by the gradient's sign (Sign-MAML)."""
    proximal: NonNegative = 0.0
    """What holds the adapted weights to the start (iMAML)."""
    steps: Count
    """Optimiser steps, one task each."""
    optim: Annotated[Any, Part("optim"), SkipValidation] = AdamW(lr=1e-3)
    """The optimiser of the start."""
    checkpoint_every: Count = 100
    """Outer steps between two exact checkpoints."""

    def __call__(self, subject: Any, data: Bundle, run: Context) -> Outcome:
        """Trains the subject in place."""
        began = time.perf_counter()
        self.objective_on(data)
        subject.call.to(Parallel().device).train()
        own = {n: p for n, p in subject.module.named_parameters() if p.requires_grad}
        found = optimise(
            self.problems(subject, data, run.seed), own, own, strategy=self.strategy, optim=self.optim, steps=self.steps,
            solver=GD(steps=self.lower_steps, lr=self.lower_lr, signed=self.signed), warm=False, trust=TRUST,
            checkpoint_every=self.checkpoint_every, run=run,
        )  # fmt: skip
        with torch.no_grad():
            for name, value in found.outer.items():
                own[name].copy_(value)
        subject.call.eval()
        return Outcome(self.steps, None, time.perf_counter() - began)

    def problems(self, subject: Any, data: Bundle, seed: int) -> Callable[[int, int], Problem]:
        """The problem of the task of (step, draw): a pure function of the step, the same for each draw."""
        loader = Loader(subject, "train", data.together(self.on), None, rows=1, seed=seed)
        likelihood, device = Stateless(subject), next(subject.module.parameters()).device
        end = None if self.payload is None else self.pilots + self.payload

        @lru_cache(maxsize=1)
        def at(step: int) -> Problem:
            task = loader.at(step)[0].batch.to(device)
            pilots, payload = part(task, 0, self.pilots), part(task, self.pilots, end)

            def mean(params: Params, rows: Any) -> Tensor:
                found = likelihood(params, rows)
                return found.nll_B.sum() / found.n_B.sum()

            def lower(outer: Params, inner: Params) -> Tensor:
                loss = mean(inner, pilots)
                if not self.proximal:
                    return loss
                return loss + 0.5 * self.proximal * sum((inner[n] - outer[n]).square().sum() for n in inner)

            return Problem(lambda outer, inner: mean(inner, payload), lower, start=dict)

        return lambda step, draw: at(step)

    def objective_on(self, data: Bundle) -> tuple[()]:
        """No sum of terms; raises UserError for roles without rows, and for rows with no term beyond the pilots."""
        rows = data.together(self.on)
        if not rows:
            raise UserError("on: give at least one role with rows to train on")
        short = next((row.id for row in rows if len(row.data.get("symbol", ())) <= self.pilots), None)
        if short is not None:
            raise UserError(
                f"pilots: row {short} has no symbols beyond {self.pilots} pilots: use `devices` with more `symbols`"
            )
        return ()
