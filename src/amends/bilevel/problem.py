"""What a bi-level problem is, what a strategy is given, and what it gives back.

    min_x F(x) = f(x, y*(x))    with    y*(x) = argmin_y g(x, y)

x are the outer parameters, y the inner ones: named tensors of any shapes, a single number included; what is nested otherwise is
named by `nested.py`. f is the upper loss and g the lower one. Nothing is hidden in modules: a network takes part through
`torch.func.functional_call`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import torch
from torch import Tensor

from amends.bilevel.tree import detached, filled, leaves, slopes
from amends.bilevel.trust import Diagnosis, Trust
from amends.core.errors import UserError
from amends.core.protocols import Params

Loss = Callable[[Params, Params], Tensor]
"""(outer, inner) -> one number."""


@dataclass(frozen=True)
class Linear:
    """A y <= b over the inner parameters, flattened in their order: what a lower level may be held to."""

    matrix_MD: Tensor
    bound_M: Tensor
    num_equal: int = 0
    """The first so many rows hold with equality."""


@dataclass(frozen=True)
class Problem:
    """A bi-level problem, on the rows of one step where there are any."""

    upper: Loss
    """f(x, y), what is wanted."""
    lower: Loss
    """g(x, y), what the inner parameters minimise."""
    rows: Loss | None = None
    """[N] losses of single rows whose mean is the data's part of g: for curvature from gradients of single rows."""
    start: Callable[[Params], Params] | None = None
    """Where the inner parameters start, as a function of the outer ones (MAML: the same values); None: where they are."""
    constraints: Linear | None = None
    """What the inner parameters are held to; the solver has to keep it."""


class Solver(Protocol):
    """How the lower level is solved: a number of equal steps, each a function of the outer and the inner parameters."""

    @property
    def steps(self) -> int: ...
    def step(self, problem: Problem, outer: Params, inner: Params) -> Params:
        """The inner parameters after one step: in the graph where gradients are on, and cut from it where they are off."""
        ...


@dataclass(frozen=True)
class Point:
    """Where a hypergradient is taken, and with what."""

    problem: Problem
    outer: Params
    inner: Params
    solver: Solver
    trust: Trust
    rng: torch.Generator
    step: int = 0
    """The outer step, from 0."""
    memory: Mapping[str, Params] = field(default_factory=dict)
    """What the strategy asked to be given back: momenta, a second set of inner parameters."""
    draws: Callable[[int], Problem] | None = None
    """The problem on other rows, of this step's draw number k; None: on the same rows."""

    def draw(self, k: int) -> Problem:
        """The problem on the rows of draw k."""
        return self.problem if self.draws is None else self.draws(k)

    def begin(self) -> dict[str, Tensor]:
        """Where the lower level starts; in the outer parameters' graph where the problem says so."""
        return dict(self.inner) if self.problem.start is None else dict(self.problem.start(self.outer))

    def solved(self, done: int = 0, after: Callable[[int, Params], None] | None = None) -> dict[str, Tensor]:
        """The inner parameters after all steps of the solver, each on the rows of a draw of its own, without a graph.

        Args:
            done: steps that were taken before; `inner` is where they ended.
            after: told, after each step, how many there were and where the last one ended.
        """
        with torch.no_grad():
            inner = dict(self.inner) if done else self.begin()
            for k in range(done, self.solver.steps):
                inner = dict(self.solver.step(self.draw(k), self.outer, inner))
                if after is not None:
                    after(k + 1, inner)
        return detached(inner)


@dataclass(frozen=True)
class Answer:
    """A hypergradient with what speaks for and against it."""

    gradient: Params
    """dF/dx, or what the strategy has in its place."""
    inner: Params
    """The inner parameters it was taken at: where to start the next time."""
    value: float
    """f there."""
    diagnosis: Diagnosis = field(default_factory=Diagnosis)
    memory: Mapping[str, Params] = field(default_factory=dict)


class Strategy(Protocol):
    """A way to differentiate through the lower level."""

    def __call__(self, at: Point) -> Answer: ...


@dataclass(frozen=True)
class Upper:
    """The upper loss at a point and its two partial gradients; None for a tensor that it does not depend on."""

    value: float
    outer: Mapping[str, Tensor | None]
    inner: Mapping[str, Tensor | None]

    @staticmethod
    def of(problem: Problem, outer: Params, inner: Params) -> Upper:
        """Evaluates and differentiates once."""
        x, y = leaves(outer), leaves(inner)
        loss = scalar(problem.upper(x, y), "upper")
        both = slopes(loss, {**{f"x|{n}": v for n, v in x.items()}, **{f"y|{n}": v for n, v in y.items()}})
        return Upper(float(loss.detach()), {n: both[f"x|{n}"] for n in x}, {n: both[f"y|{n}"] for n in y})


def scalar(loss: Tensor, level: str) -> Tensor:
    """The loss, once it is known to be one number; raises UserError."""
    if not isinstance(loss, Tensor) or loss.numel() != 1:
        raise UserError(f"the {level} loss must be one number in a tensor, and this is {getattr(loss, 'shape', loss)!r}")
    return loss.reshape(())


def combined(upper: Upper, indirect: Mapping[str, Tensor | None], outer: Params) -> dict[str, Tensor]:
    """d f/dx - the indirect part. Raises UserError for an outer tensor that neither loss depends on."""
    for name in outer:
        if upper.outer[name] is None and indirect.get(name) is None:
            raise UserError(
                f"outer parameter '{name}' has no effect on the upper loss, nor on the lower one as a function of the inner "
                "parameters: its gradient would be 0 for want of a graph; look for .item(), .detach() or no_grad, and use "
                "unroll where it is the start of the inner parameters"
            )
    direct, other = filled(upper.outer, outer), filled({n: indirect.get(n) for n in outer}, outer)
    return {name: direct[name] - other[name] for name in outer}


def hypergradient(
    problem: Problem, outer: Any, inner: Any, *, strategy: Strategy, solver: Solver | None = None,
    trust: Trust | None = None, rng: torch.Generator | None = None,
) -> Answer:  # fmt: skip
    """dF/dx at `outer`, with the lower level solved from `inner`.

    Both are dicts of tensors, or any nesting of them (`nested.py`), and the losses are handed what was given.

    Args:
        inner: where the solver starts; without a `solver`, the solution itself.
        trust: what an answer must show; None for the defaults, `Trust.blind()` for none of it.
        rng: where random choices come from; the same ones each time by default.

    Raises:
        NotTrusted: the answer's own diagnosis speaks against it; says what to change.
        UserError: a loss that is no number, or does not depend on what it should.
    """
    from amends.bilevel.nested import Nesting, named
    from amends.bilevel.solvers import Given

    nesting = Nesting(outer, inner)
    x, y = detached(named(outer, "outer")), detached(named(inner, "inner"))
    generator = rng or torch.Generator().manual_seed(0)
    point = Point(nesting.problem(problem), x, y, nesting.solver(solver or Given()), trust or Trust(), generator)
    return nesting.answer(checked(strategy, point))


def checked(strategy: Strategy, point: Point) -> Answer:
    """The strategy's answer, once it holds up to the point's `trust`; raises NotTrusted."""
    answer = strategy(point)
    finite = all(bool(g.isfinite().all()) for g in [*answer.gradient.values(), *answer.inner.values()])
    point.trust.check(replace(answer.diagnosis, finite=finite))
    return answer
