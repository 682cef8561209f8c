"""Implicit differentiation: what all its strategies share.

    dF/dx = grad_x f - d/dx <grad_y g(x, y), v>    with    H v = grad_y f,  H = grad^2_yy g,    at y = y*(x)

A strategy says how v comes about. The last backward pass gives the second term and H v together, so the true residual of v
costs nothing, also where a stand-in for H was inverted.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from amends.bilevel.curvature import Lower, Product, lanczos
from amends.bilevel.problem import Answer, Point, Upper, combined
from amends.bilevel.tree import filled, flat
from amends.bilevel.trust import Diagnosis, Trust


@dataclass(frozen=True)
class Solved:
    """A solution of H v = b and what was met on the way."""

    v_D: Tensor
    damping: float = 0.0
    """What was added to H's diagonal."""
    curvatures: tuple[float, ...] = ()
    """Curvatures of the undamped H that the solver met."""
    assumes_minimum: bool = True
    solves: bool = True
    """Whether v is meant as a solution with H; False for a declared stand-in."""
    radius: float | None = None
    step: float | None = None


Solve = Callable[[Lower, Tensor], Solved]


@dataclass(frozen=True)
class Free:
    """The directions that the inner parameters may move in; all of them where nothing holds them."""

    onto: Product = lambda v_D: v_D
    """The orthogonal projection onto them."""
    multiplier: float | None = None
    """The smallest multiplier of what holds them, as a share of the lower loss's slope."""


def implicit(at: Point, solve: Solve, free_at: Callable[[Lower], Free] = lambda lower: Free(), *, exact: bool = True) -> Answer:
    """The hypergradient by implicit differentiation, with `solve` for the linear system in the free directions.

    `solve` is given a right-hand side in those directions, and has to answer in them. Without `exact` the cross derivative
    and the residual are by a difference of two gradients.
    """
    inner = at.solved()
    upper = Upper.of(at.problem, at.outer, inner)
    lower = Lower(at.problem, at.outer, inner, exact)
    free = free_at(lower)
    b_D = _along(free, flat(filled(upper.inner, lower.inner).values()))
    solved = solve(lower, b_D) if b_D.any() else Solved(torch.zeros_like(b_D))
    cross, image_D = lower.both(solved.v_D)
    gradient = combined(upper, cross, at.outer)
    return Answer(gradient, inner, upper.value, _diagnosis(at, lower, free, b_D, solved, free.onto(image_D)))


def _along(free: Free, v_D: Tensor) -> Tensor:
    """The part of a vector in the free directions: 0 where what is left of it is rounding, as where there are none."""
    left_D = free.onto(v_D)
    return left_D if float(left_D.norm()) > 100 * torch.finfo(v_D.dtype).eps * float(v_D.norm()) else torch.zeros_like(v_D)


def _diagnosis(at: Point, lower: Lower, free: Free, b_D: Tensor, solved: Solved, image_D: Tensor) -> Diagnosis:
    size = float(b_D.norm()) or 1.0
    linear = not image_D.any() and lower.linear
    start_D = _along(free, torch.randn(len(b_D), generator=at.rng, dtype=torch.float64).to(b_D))
    seen, exact = ([], False) if linear else probed(at, lambda v_D: free.onto(lower.product(v_D)), start_D)
    smallest, largest = ends([*solved.curvatures, *seen], b_D.dtype, at.trust)
    return Diagnosis(
        residual=float((image_D + solved.damping * solved.v_D - b_D).norm()) / size, bias=float((image_D - b_D).norm()) / size,
        stationarity=None if linear else _stationarity(at, lower, free, smallest), largest=largest, smallest=smallest,
        exact=exact, lower_linear=linear, assumes_minimum=solved.assumes_minimum, solves=solved.solves, radius=solved.radius,
        step=solved.step, products=lower.products, multiplier=free.multiplier,
    )  # fmt: skip


def probed(at: Point, product: Product, start_D: Tensor) -> tuple[list[float], bool]:
    """Curvatures at the ends of what the point's probe looks at, and whether they are the spectrum's; none without a probe."""
    if not at.trust.probe or not start_D.any():
        return [], False
    probe = lanczos(product, start_D, at.trust.probe)
    return [*probe.ends], probe.rest == 0.0 and len(probe.basis_KD) == len(start_D)


def ends(curvatures: list[float], dtype: torch.dtype, trust: Trust) -> tuple[float | None, float | None]:
    """The smallest and the largest; what is 0 but for rounding is 0."""
    if not curvatures:
        return None, None
    smallest, largest = min(curvatures), max(curvatures)
    rounding = max(trust.singular, 100 * torch.finfo(dtype).eps) * max(abs(smallest), abs(largest))
    return (0.0 if abs(smallest) <= rounding else smallest), largest


def _stationarity(at: Point, lower: Lower, free: Free, smallest: float | None) -> float | None:
    """d / (|y| + d), d the length of the best step along the lower gradient: |grad|^3 / <grad, H grad>.

    Without a probe the smallest curvature that the solver met stands in for the one along the gradient; then no product is
    taken.
    """
    slope_D = free.onto(lower.slope_D)
    length, of = float(slope_D.norm()), float(flat(lower.inner.values()).detach().norm())
    if length <= torch.finfo(slope_D.dtype).eps * float(lower.slope_D.norm()):
        return 0.0
    along = smallest
    if at.trust.probe or smallest is None:
        along = float(slope_D @ lower.product(slope_D)) / length**2
    if along is None or along <= 0:
        return 1.0
    return length / along / (of + length / along)
