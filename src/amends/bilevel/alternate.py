"""Alternation, where the upper problem is solved exactly: x is no vector to descend along but a choice, such as a binary one.

    x_t = argmin_x f(x, y_t),    y_{t+1} = the solver's steps on g(x_t, .) from y_t,    t = 0, 1, ..., rounds

The way in which y* answers to x is not looked at, so that this is no descent of F(x) = f(x, y*(x)): where it comes to rest, x
is the best answer to y and y to x (BackdoorMSPC, arXiv 2403.10717: x says which rows are suspected). The inner parameters are
carried from round to round, what the solver keeps among them included.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from amends.bilevel.optimise import Draws
from amends.bilevel.problem import Point, Problem, Solver
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
    problem: Problem | Draws, inner: Params, *, best: Callable[[Params], Best], solver: Solver, rounds: int, run: Context
) -> Alternated:
    """`rounds` times the solver's steps under the best x so far, and the best x after them.

    Args:
        problem: the problem, or the problem on the rows of (round, draw); of its upper loss `best` gives the minimiser.
        best: the exact minimiser of the upper loss at given inner parameters.
    """
    y = detached(inner)
    first = found = best(y)
    values = [found.value]
    run.log(round=0, upper=found.value, **found.shown)
    with run.progress("alternating", rounds) as bar:
        for number in range(rounds):
            y = _answer(problem, found.outer, y, solver, number, run)
            found = best(y)
            values.append(found.value)
            run.log(round=number + 1, upper=found.value, **found.shown)
            bar.advance(1, upper=found.value)
    return Alternated(found, y, tuple(values), first)


def _answer(problem: Problem | Draws, x: Params, y: Params, solver: Solver, number: int, run: Context) -> dict[str, Any]:
    """The inner parameters after one round of the solver's steps."""
    draws = None if isinstance(problem, Problem) else (lambda k: problem(number, k))
    here = problem if isinstance(problem, Problem) else problem(number, 0)
    return Point(here, x, y, solver, Trust.blind(), run.rng("alternate", number), number, draws=draws).solved()
