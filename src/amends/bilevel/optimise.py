"""The outer loop: an optimiser of the library along hypergradients, warm starts, and a close look every so many steps."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from amends.bilevel.nested import Nesting, named
from amends.bilevel.problem import Answer, Point, Problem, Solver, Strategy, checked
from amends.bilevel.resume import Keeper, State, worded
from amends.bilevel.solvers import Given
from amends.bilevel.tree import detached, flat
from amends.bilevel.trust import NotTrusted, Trust
from amends.core.protocols import Context, Params

Draws = Callable[[int, int], Problem]
"""(step, draw) -> the problem on those rows; a pure function of both."""


@dataclass(frozen=True)
class Optimised:
    """Where the outer loop ended."""

    outer: Params
    inner: Params
    values: tuple[float, ...]
    """F before each step."""


def optimise(
    problem: Problem | Draws, outer: Any, inner: Any, *, strategy: Strategy, optim: Any, steps: int,
    solver: Solver | None = None, warm: bool = True, trust: Trust | None = None, look_every: int = 50,
    checkpoint_every: int | None = None, run: Context,
    watch: Callable[[Any, Any], Mapping[str, float]] | None = None,
) -> Optimised:  # fmt: skip
    """min_x F(x) by `steps` steps of an optimiser of the library.

    Args:
        problem: the problem, or the problem on the rows of (step, draw).
        outer: a dict of tensors, or any nesting of them (`nested.py`), as `inner`; both come back as they were given.
        inner: where the lower level starts; with `warm` only the first time, and then where it was left.
        trust: what every answer must show; its `probe` is taken every `look_every` steps, the rest at each.
        checkpoint_every: steps between two exact checkpoints in the run's folder. A checkpoint that lies there is taken up,
            and on a CPU the end is that of a run in one piece, bit for bit.

        watch: (outer, inner) -> more to log at each step, of the outer parameters before it and the inner ones that answer.

    Raises:
        NotTrusted: with the number of the step; `outer` is left as it was.
        UserError: a checkpoint of other settings in the run's folder.
    """
    nesting = Nesting(outer, inner)
    x = {n: v.detach().clone().requires_grad_() for n, v in named(outer, "outer").items()}
    optimiser, rules, solves = optim.make(x), trust or Trust(), nesting.solver(solver or Given())
    here = _named(problem, nesting)
    parts = {"strategy": strategy, "optim": optim, "solver": solver or Given(), "steps": steps, "warm": warm}
    keeper = Keeper(run, x, optimiser, {k: worded(part) for k, part in parts.items()})
    state = keeper.resume(detached(named(inner, "inner")))
    with run.progress("optimising", steps) as bar:
        bar.advance(state.step)
        while state.step < steps:
            point = _point(here, x, state, solves, replace(rules, probe=0 if state.step % look_every else rules.probe), run)
            answer = _trusted(strategy, point)
            seen = {} if watch is None else watch(nesting.above(detached(x)), nesting.below(answer.inner))
            lr = optim.lr_at(state.step, steps)
            _move(optimiser, x, answer, lr)
            _follow(state, answer, warm=warm)
            run.log(step=state.step, lr=lr, **_shown(answer), **seen)
            bar.advance(1, upper=answer.value)
            if checkpoint_every and state.step % checkpoint_every == 0:
                keeper.save(state)
    return Optimised(nesting.above(detached(x)), nesting.below(state.inner), tuple(state.values))


def _named(problem: Problem | Draws, nesting: Nesting) -> Problem | Draws:
    """The problem, or that of each draw, as a function of named tensors."""
    if isinstance(problem, Problem):
        return nesting.problem(problem)
    return lambda step, draw: nesting.problem(problem(step, draw))


def _point(problem: Problem | Draws, x: Params, state: State, solver: Solver, trust: Trust, run: Context) -> Point:
    """Where the next hypergradient is taken. The outer parameters are copies: the optimiser moves `x` in place, and a
    strategy may remember the point that it was asked at."""
    step = state.step
    here, draws = (problem, None) if isinstance(problem, Problem) else (problem(step, 0), _at(problem, step))
    outer = {n: v.detach().clone() for n, v in x.items()}
    return Point(here, outer, state.inner, solver, trust, run.rng("bilevel", step), step, state.memory, draws)


def _follow(state: State, answer: Answer, *, warm: bool) -> None:
    """One step on."""
    state.inner = dict(answer.inner) if warm else state.inner
    state.memory = answer.memory
    state.values.append(answer.value)
    state.step += 1


def _at(problem: Draws, step: int) -> Callable[[int], Problem]:
    return lambda k: problem(step, k)


def _trusted(strategy: Strategy, point: Point) -> Answer:
    try:
        return checked(strategy, point)
    except NotTrusted as error:
        raise NotTrusted(f"step {point.step}: {error}", error.diagnosis) from None


def _move(optimiser: torch.optim.Optimizer, x: dict[str, Tensor], answer: Answer, lr: float) -> None:
    for group in optimiser.param_groups:
        group["lr"] = lr
    for name, value in x.items():
        value.grad = answer.gradient[name].to(value)
    optimiser.step()


def _shown(answer: Answer) -> dict[str, float]:
    d = answer.diagnosis
    seen = {key: getattr(d, key) for key in ("residual", "bias", "stationarity", "largest", "smallest", "radius")}
    norm = float(flat(answer.gradient.values()).norm())
    return {"loss": answer.value, "grad_norm": norm, **{k: v for k, v in seen.items() if v is not None}}
