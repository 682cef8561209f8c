"""Alternation, where the upper problem is solved exactly: x is no vector to descend along but a choice, such as a binary one.

    x_t = argmin_x f(x, y_t),    y_{t+1} = the solver's steps on g(x_t, .) from y_t,    t = 0, 1, ..., rounds

The way in which y* answers to x is not looked at, so that this is no descent of F(x) = f(x, y*(x)): where it comes to rest, x
is the best answer to y and y to x (BackdoorMSPC, arXiv 2403.10717: x says which rows are suspected). The inner parameters are
carried from round to round, what the solver keeps among them included.

A checkpoint holds the choice that a round began with and the inner parameters after so many of its steps. What was chosen at
the start, and at the end of a round that is whole, is asked for again: it is a function of the inner parameters.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from amends.bilevel.optimise import Draws
from amends.bilevel.problem import Point, Problem, Solver
from amends.bilevel.resume import Keeper, State, worded
from amends.bilevel.tree import detached
from amends.bilevel.trust import Trust
from amends.core.protocols import Context, Params


@dataclass(frozen=True)
class Best:
    """The upper problem's minimiser at some inner parameters."""

    outer: Params
    value: float
    """f there."""
    shown: Mapping[str, float] = field(default_factory=dict)
    """What the log says of it."""
    seen: Any = None
    """What it was told from, for whoever asks at the end."""


@dataclass(frozen=True)
class Alternated:
    """Where the alternation ended."""

    best: Best
    inner: Params
    values: tuple[float, ...]
    """f after each choice of x, the one at the start included."""
    first: Best
    """The choice at the start, before any step."""


def alternate(
    problem: Problem | Draws, inner: Params, *, best: Callable[[Params], Best], solver: Solver, rounds: int, run: Context,
    checkpoint_every: int | None = None,
) -> Alternated:  # fmt: skip
    """`rounds` times the solver's steps under the best x so far, and the best x after them.

    Args:
        problem: the problem, or the problem on the rows of (round, draw); of its upper loss `best` gives the minimiser.
        best: the exact minimiser of the upper loss at given inner parameters, of one shape at all of them.
        checkpoint_every: steps of the solver between two exact checkpoints in the run's folder. A checkpoint that lies there is
            taken up, and on a CPU the end is that of a run in one piece, bit for bit.

    Raises:
        UserError: a checkpoint of other settings in the run's folder.
    """
    y = detached(inner)
    first = found = best(y)
    x = {name: value.clone() for name, value in first.outer.items()}
    keeper = Keeper(run, x, None, {"solver": worded(solver), "rounds": worded(rounds)})
    state = keeper.resume(y)
    y, values = state.memory.get("y", y), state.values or [found.value]
    begun, done = _place(state.step, solver.steps)
    if not state.step:
        run.log(round=0, upper=found.value, **found.shown)
    with run.progress("alternating", rounds * solver.steps) as bar:
        bar.advance(state.step)
        for number in range(begun, rounds):
            after = _saving(keeper, tuple(inner), values, number * solver.steps, checkpoint_every, bar)
            y = _point(problem, x, y, solver, number, run).solved(done if number == begun else 0, after)
            found = best(y)
            values.append(found.value)
            for name, value in found.outer.items():
                x[name].copy_(value)
            run.log(round=number + 1, upper=found.value, **found.shown)
    return Alternated(found, y, tuple(values), first)


def _place(steps: int, each: int) -> tuple[int, int]:
    """The round that these steps end in, and how many of its own they are: a round is whole when its x was chosen.

    >>> _place(0, 5), _place(3, 5), _place(5, 5), _place(6, 5)
    ((0, 0), (0, 3), (0, 5), (1, 1))
    """
    number = max(0, steps - 1) // each
    return number, steps - number * each


def _saving(
    keeper: Keeper, names: Sequence[str], values: list[float], before: int, every: int | None, bar: Any
) -> Callable[[int, Params], None]:
    """What is done after each step of a round: the bar moves, and every so many steps all is saved, velocities included."""

    def after(steps: int, y: Params) -> None:
        bar.advance(1, upper=values[-1])
        if every and (before + steps) % every == 0:
            keeper.save(State(before + steps, {name: y[name] for name in names}, {"y": y}, values))

    return after


def _point(problem: Problem | Draws, x: Params, y: Params, solver: Solver, number: int, run: Context) -> Point:
    """Where a round is solved."""
    draws = None if isinstance(problem, Problem) else (lambda k: problem(number, k))
    here = problem if isinstance(problem, Problem) else problem(number, 0)
    return Point(here, x, y, solver, Trust.blind(), run.rng("alternate", number), number, draws=draws)
