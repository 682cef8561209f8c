"""Grid search of one weight decay: what learned penalties (`train/learned_decay.py`) are held against.

For each decay mean CE(y; train) + decay/2 |y|^2 is solved by L-BFGS from the start model, all rows at once, in evaluation mode;
the weights whose loss on validation rows is least are kept. `decays: [0]` is no regularisation at all, which for rows that a
linear model can tell apart has no minimum: then it is where `iterations` end.
"""

from __future__ import annotations

import time
from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from amends.bilevel.problem import Problem
from amends.bilevel.solvers import LBFGS
from amends.core.protocols import Context, Params
from amends.core.spec import Count, NonNegative, Weighted, spec
from amends.core.types import Role
from amends.data.bundle import Bundle
from amends.engine.fit import Outcome
from amends.engine.parallel import Parallel
from amends.train.learned_decay import LearnedDecay
from amends.train.levels import Losses, in_doubles, losses, put, watching, weights_of


@spec
class GridDecay:
    """Trains a model under each of some weight decays, and keeps the one that validation rows like best: grid search."""

    starts: ClassVar[str] = "any"
    keeps_weights: ClassVar[bool] = True
    on: Role = "train"
    """The rows that the weights are fitted to."""
    valid: Role = "valid"
    """The rows that choose."""
    watch: tuple[Role, ...] = ("test",)
    """Rows whose loss and accuracy are logged for each, and used for nothing."""
    decays: Annotated[tuple[NonNegative, ...], Field(min_length=1)] = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1)
    """The penalties; a single one is no search, 0 none at all."""
    iterations: Count = 500
    """At most so many of L-BFGS for each."""

    def __call__(self, subject: Any, data: Bundle, run: Context) -> Outcome:
        """Trains in place: the best of them."""
        began, best = time.perf_counter(), None
        subject.call.to(Parallel().device)
        with in_doubles(subject), torch.no_grad():
            rows = {role: losses(subject, data, role) for role in dict.fromkeys((self.on, self.valid, *self.watch))}
            watch, weights = watching(rows), weights_of(subject)
            for place, decay in enumerate(self.decays):
                found = self._solved(rows[self.on], decay, weights)
                seen = watch({}, found)
                run.log(step=place + 1, decay=decay, **seen)
                if best is None or seen[f"{self.valid}_loss"] < best[0]:
                    best = seen[f"{self.valid}_loss"], decay, found
            assert best is not None
            put(subject, best[2])
        run.say(f"the best of {len(self.decays)} weight decays is {best[1]:g}")
        return Outcome(len(self.decays), None, time.perf_counter() - began)

    def _solved(self, train: Losses, decay: float, weights: Params) -> Params:
        def lower(outer: Params, inner: Params) -> Tensor:
            return train.at(inner).mean() + 0.5 * decay * sum(w.square().sum() for w in inner.values())

        return LBFGS(iterations=self.iterations).step(Problem(lower, lower), {}, weights)

    def objective_on(self, data: Bundle) -> tuple[Weighted, ...]:
        """No sum of terms; raises UserError for a role without rows, and for rows that train and choose."""
        return LearnedDecay(on=self.on, valid=self.valid, watch=self.watch).objective_on(data)
