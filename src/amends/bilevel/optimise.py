"""The outer loop: an optimiser of the library along hypergradients, warm starts, and a close look every so many steps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from amends.bilevel.problem import Answer, Point, Problem, Solver, Strategy, checked
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
    problem: Problem | Draws, outer: Params, inner: Params, *, strategy: Strategy, optim: Any, steps: int,
    solver: Solver | None = None, warm: bool = True, trust: Trust | None = None, look_every: int = 50, run: Context,
) -> Optimised:  # fmt: skip
    """min_x F(x) by `steps` steps of an optimiser of the library.

    Args:
        problem: the problem, or the problem on the rows of (step, draw).
        inner: where the lower level starts; with `warm` only the first time, and then where it was left.
        trust: what every answer must show; its `probe` is taken every `look_every` steps, the rest at each.

    Raises:
        NotTrusted: with the number of the step; `outer` is left as it was.
    """
    x = {n: v.detach().clone().requires_grad_() for n, v in outer.items()}
    optimiser, rules = optim.make(x), trust or Trust()
    y, memory, values = detached(inner), {}, []
    with run.progress("optimising", steps) as bar:
        for step in range(steps):
            draw = None if isinstance(problem, Problem) else _at(problem, step)
            here = problem if isinstance(problem, Problem) else problem(step, 0)
            close = replace(rules, probe=rules.probe if step % look_every == 0 else 0)
            point = Point(
                here, detached(x), y, solver or Given(), close, run.rng("bilevel", step), step, memory, draw
            )  # fmt: skip
            answer = _trusted(strategy, point)
            lr = optim.lr_at(step, steps)
            _move(optimiser, x, answer, lr)
            y, memory = (dict(answer.inner) if warm else y), answer.memory
            values.append(answer.value)
            run.log(step=step + 1, lr=lr, **_shown(answer))
            bar.advance(1, upper=answer.value)
    return Optimised(detached(x), y, tuple(values))


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
