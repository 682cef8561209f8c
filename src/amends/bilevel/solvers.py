"""Ways to solve the lower level: gradient descent of several kinds, an optimiser of the library, anything of your own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from pydantic import SkipValidation
from torch import Tensor

from amends.bilevel.problem import Loss, Problem, scalar
from amends.bilevel.tree import filled, slopes
from amends.core.errors import UserError
from amends.core.protocols import Params
from amends.core.spec import Count, Part, Positive, spec


@dataclass(frozen=True)
class Given:
    """The inner parameters are the solution already."""

    steps: int = 0

    def step(self, problem: Problem, outer: Params, inner: Params) -> Params:
        """Leaves them."""
        return inner


@spec
class GD:
    """Gradient descent, y <- y - lr grad_y g(x, y), or its sign in the place of the gradient (Sign-MAML)."""

    steps: Count
    """How many steps."""
    lr: Positive
    """The step size; below 2 over the largest curvature, or it diverges."""
    signed: bool = False
    """Step by the gradient's sign: nothing of the second order is left to differentiate."""

    def step(self, problem: Problem, outer: Params, inner: Params) -> Params:
        """One step, differentiable where gradients are on."""
        slope, y = gradient(problem.lower, outer, inner)
        return {n: v - self.lr * (slope[n].sign() if self.signed else slope[n]) for n, v in y.items()}


@dataclass(frozen=True)
class Projected:
    """Gradient descent, each step followed by a projection of your own onto what the inner parameters are held to."""

    steps: int
    lr: float
    project: Callable[[Params], Params]

    def step(self, problem: Problem, outer: Params, inner: Params) -> Params:
        """One step and the projection."""
        slope, y = gradient(problem.lower, outer, inner)
        return self.project({n: v - self.lr * slope[n] for n, v in y.items()})


@dataclass(frozen=True)
class Momentum:
    """Gradient descent with momentum and weight decay, each step followed by a projection; the optimiser SGD as a function.

    v <- momentum v + grad_y g(x, y) + decay y,    y <- project(y - lr v)

    The velocities v are inner parameters beside those that they move, under names of their own: so they are carried from one
    outer step to the next, and unrolled with the rest. Neither loss depends on them; implicit strategies have no use for them.
    """

    steps: int
    lr: float
    momentum: float = 0.0
    decay: float = 0.0
    project: Callable[[Params], Params] = dict
    """(y without velocities) -> y, onto what the inner parameters are held to."""

    def step(self, problem: Problem, outer: Params, inner: Params) -> Params:
        """One step; at rest where there are no velocities yet."""
        places = {n: v for n, v in inner.items() if not n.endswith(VELOCITY)}
        slope, y = gradient(problem.lower, outer, places)
        ran = {n: inner.get(n + VELOCITY, torch.zeros_like(v)) for n, v in y.items()}
        speed = {n: self.momentum * ran[n] + slope[n] + self.decay * v for n, v in y.items()}
        moved = self.project({n: v - self.lr * speed[n] for n, v in y.items()})
        return {**moved, **{n + VELOCITY: v for n, v in speed.items()}}


VELOCITY = "|velocity"
"""The ending of a velocity's name."""


def at_rest(inner: Params) -> dict[str, Tensor]:
    """Inner parameters with velocities of 0, for what keeps every step's numbers by name: unrolling with `checkpoint`."""
    return {**inner, **{name + VELOCITY: torch.zeros_like(value) for name, value in inner.items()}}


@dataclass(frozen=True)
class Closed:
    """A solution in closed form, or by a solver of your own: (outer, inner) -> inner; differentiable if it is unrolled."""

    solve: Callable[[Params, Params], Params]
    steps: int = 1

    def step(self, problem: Problem, outer: Params, inner: Params) -> Params:
        """The solution."""
        return self.solve(outer, inner)


@spec
class Fitted:
    """Any optimiser of the library, for strategies that do not differentiate through the steps."""

    optim: Annotated[Any, Part("optim"), SkipValidation]
    """The optimiser; begins without momentum each time."""
    number: Count
    """How many of its steps."""

    @property
    def steps(self) -> int:
        """One: all of the optimiser's at once."""
        return 1

    def step(self, problem: Problem, outer: Params, inner: Params) -> Params:
        """All steps. Raises UserError where they would have to be differentiated."""
        if torch.is_grad_enabled():
            raise UserError("fitted: an optimiser's steps cannot be unrolled: use `gd`, or a strategy that is not unrolling")
        y = {n: v.detach().clone().requires_grad_() for n, v in inner.items()}
        optimiser = self.optim.make(y)
        for step in range(self.number):
            for group in optimiser.param_groups:
                group["lr"] = self.optim.lr_at(step, self.number)
            found, _ = gradient(problem.lower, outer, y)
            for name, value in y.items():
                value.grad = found[name]
            optimiser.step()
        return {n: v.detach() for n, v in y.items()}


@spec
class LBFGS:
    """Limited-memory BFGS with a strong Wolfe line search, on all rows at once: exact solutions of smooth lower levels."""

    iterations: Count = 100
    """At most so many."""
    tolerance: Positive = 1e-7
    """Ends earlier where no entry of the gradient is larger."""

    @property
    def steps(self) -> int:
        """One: all iterations at once."""
        return 1

    def step(self, problem: Problem, outer: Params, inner: Params) -> Params:
        """The solution. Raises UserError where it would have to be differentiated."""
        if torch.is_grad_enabled():
            raise UserError("lbfgs: its iterations cannot be unrolled: use `gd`, or a strategy that is not unrolling")
        y = {n: v.detach().clone().requires_grad_() for n, v in inner.items()}
        search = torch.optim.LBFGS(
            list(y.values()), max_iter=self.iterations, tolerance_grad=self.tolerance, tolerance_change=0.0,
            line_search_fn="strong_wolfe",
        )  # fmt: skip

        def closure() -> Tensor:
            found, _ = gradient(problem.lower, outer, y)
            for name, value in y.items():
                value.grad = found[name]
            with torch.no_grad():
                return problem.lower(outer, y)

        search.step(closure)
        return {n: v.detach() for n, v in y.items()}


def gradient(loss: Loss, outer: Params, inner: Params) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """grad_y of a loss, in the graph where gradients are on; and y as what it was taken of."""
    differentiable = torch.is_grad_enabled()
    with torch.enable_grad():
        y = {n: v if differentiable and v.requires_grad else v.detach().requires_grad_() for n, v in inner.items()}
        found = slopes(scalar(loss(outer, y), "lower"), y, graph=differentiable)
    y = y if differentiable else {n: v.detach() for n, v in y.items()}
    return filled(found, y), y
