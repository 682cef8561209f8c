"""Unrolling: the solver's steps are a function of the outer parameters, differentiated in reverse (arXiv 1703.01785).

y_{t+1} = y_t - eta grad_y g(x, y_t), t < T, and dF/dx through all T of them: exact for the T steps, whatever the lower level
is. Time and memory grow with T. `last: K` differentiates through the last K steps only (truncated back-propagation, arXiv
1810.10667); what is lost falls as (1 - eta mu)^K. `checkpoint` keeps the T points and no graph, and takes every step once more
on the way back. With a signed solver only the last point's direct dependence is left (Sign-MAML, arXiv 2109.07497).
"""

from __future__ import annotations

import torch
from torch import Tensor

from amends.bilevel.problem import Answer, Point, Upper, combined, scalar
from amends.bilevel.tree import detached, leaves, slopes
from amends.core.errors import UserError
from amends.core.protocols import Params
from amends.core.spec import Count, spec


@spec
class Unroll:
    """Reverse differentiation through the solver's steps: all of them, or the last ones."""

    last: Count | None = None
    """Through how many steps; null for all. What lies before counts as a constant."""
    checkpoint: bool = False
    """Keep the points and no graph: memory of one step's graph, for one more step each on the way back."""

    def __call__(self, at: Point) -> Answer:
        """The gradient of the upper loss after the solver's steps. Raises UserError where there is no step to differentiate."""
        if at.solver.steps == 0:
            raise UserError("unroll: there are no steps to differentiate: give a solver, or use an implicit strategy")
        through = min(self.last or at.solver.steps, at.solver.steps)
        return (_checkpointed if self.checkpoint else _kept)(at, at.solver.steps - through)


def _kept(at: Point, first: int) -> Answer:
    """All graphs at once."""
    x = leaves(at.outer)
    y: Params = at.inner if at.problem.start is None else at.problem.start(x)
    with torch.no_grad():
        for k in range(first):
            y = at.solver.step(at.draw(k), x, y)
    for k in range(first, at.solver.steps):
        y = at.solver.step(at.draw(k), x, y)
    loss = scalar(at.problem.upper(x, y), "upper")
    found = slopes(loss, x)
    value = float(loss.detach())
    none = dict.fromkeys(x)
    return Answer(combined(Upper(value, found, none), {}, at.outer), detached(y), value)


def _checkpointed(at: Point, first: int) -> Answer:
    """One step's graph at a time: adjoints a_t = a_{t+1} dy_{t+1}/dy_t, and dF/dx += a_{t+1} dy_{t+1}/dx."""
    steps, y = at.solver.steps, detached(at.begin())
    # one block: small tensors that outlive a step come to lie between its activations, and the holes stay with the process
    kept = {n: v.new_empty(steps + 1, *v.shape) for n, v in y.items()}
    for k in range(steps + 1):
        for n, v in y.items():
            kept[n][k].copy_(v)
        if k < steps:
            with torch.no_grad():
                y = detached(at.solver.step(at.draw(k), at.outer, y))
    upper = Upper.of(at.problem, at.outer, y)
    total, adjoint = dict(upper.outer), dict(upper.inner)
    for t in reversed(range(first, steps)):
        x, here = leaves(at.outer), leaves({n: points[t] for n, points in kept.items()})
        after = at.solver.step(at.draw(t), x, here)
        dx, adjoint = _pulled(after, adjoint, x, here)
        total = _plus(total, dx)
    if at.problem.start is not None and first == 0:
        x = leaves(at.outer)
        dx, _ = _pulled(at.problem.start(x), adjoint, x, {})
        total = _plus(total, dx)
    none = dict.fromkeys(at.outer)
    return Answer(combined(Upper(upper.value, total, none), {}, at.outer), y, upper.value)


Slopes = dict[str, "Tensor | None"]


def _pulled(after: Params, adjoint: Slopes, x: Params, y: Params) -> tuple[Slopes, Slopes]:
    """<adjoint, after> differentiated in x and y."""
    loss = sum((adjoint_n * after[n]).sum() for n, adjoint_n in adjoint.items() if adjoint_n is not None)
    if not isinstance(loss, Tensor):
        return dict.fromkeys(x), dict.fromkeys(y)
    found = slopes(loss, {**{f"x|{n}": v for n, v in x.items()}, **{f"y|{n}": v for n, v in y.items()}})
    return {n: found[f"x|{n}"] for n in x}, {n: found[f"y|{n}"] for n in y}


def _plus(one: Slopes, other: Slopes) -> Slopes:
    return {n: b if a is None else a if b is None else a + b for (n, a), b in zip(one.items(), other.values(), strict=True)}
