"""stocBiO (arXiv 2010.07962): implicit differentiation from samples, each factor of the series on rows of its own.

The inner steps take a draw each. Then with r_0 = grad_y f on one draw,

    r_{q+1} = r_q - step H(draw q) r_q,    v = step sum_{q=0..Q} r_q,    dF/dx ~ grad_x f - d/dx <grad_y g, v>,

the last on another draw. In expectation it is Neumann's series of Q + 1 terms. What rows of one step say of convergence is
noise, so the answer is held to the series' growth, and where the point has a probe to the curvature of the draws' mean.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from amends.bilevel.curvature import Lower
from amends.bilevel.implicit import ends, probed
from amends.bilevel.problem import Answer, Point, Upper, combined
from amends.bilevel.tree import detached, filled, flat
from amends.bilevel.trust import Diagnosis
from amends.core.protocols import Params
from amends.core.spec import Count, Positive, spec


@spec
class StocBiO:
    """Stochastic implicit differentiation: Neumann's series with other rows in each factor (stocBiO)."""

    step: Positive
    """The series' step; below 2 over the largest curvature on any draw."""
    steps: Count = 10
    """Factors of the series: a Hessian-vector product each, on a draw of its own."""

    def __call__(self, at: Point) -> Answer:
        """The estimate at the inner parameters that the solver arrives at."""
        inner = at.solved()
        found = estimate(at, at.outer, inner, step=self.step, steps=self.steps, first=at.solver.steps)
        seen = looked(at, inner, found.radius, step=self.step, steps=self.steps, first=at.solver.steps)
        return Answer(found.gradient, inner, found.value, seen)


@dataclass(frozen=True)
class Estimate:
    """One stochastic hypergradient."""

    gradient: Params
    value: float
    radius: float
    """By how much the series' terms grew, per factor on average."""


def estimate(at: Point, outer: Params, inner: Params, *, step: float, steps: int, first: int) -> Estimate:
    """The series at a point, on draws `first`, `first + 1`, ...: equal draws, equal rows."""
    upper = Upper.of(at.draw(first), outer, inner)
    r_D = flat(filled(upper.inner, detached(inner)).values())
    began, sum_D = float(r_D.norm()), r_D.clone()
    taken = 0
    for q in range(steps):
        r_D = r_D - step * Lower(at.draw(first + 1 + q), outer, inner).product(r_D)
        sum_D, taken = sum_D + r_D, q + 1
        if not torch.isfinite(r_D).all():
            break
    cross, _ = Lower(at.draw(first + 1 + steps), outer, inner).both(step * sum_D)
    radius = (float(r_D.norm()) / began) ** (1 / taken) if began > 0 else 0.0
    return Estimate(combined(upper, cross, outer), upper.value, radius)


def looked(at: Point, inner: Params, radius: float, *, step: float, steps: int, first: int) -> Diagnosis:
    """What the series did, and the ends of the spectrum of the mean Hessian over its draws, by a probe from a random start."""
    if not at.trust.probe:
        return Diagnosis(radius=radius, step=step)
    problems = [at.problem] if at.draws is None else [at.draw(first + 1 + q) for q in range(steps)]
    lowers = [Lower(problem, at.outer, inner) for problem in problems]
    y_D = flat(detached(inner).values())
    start_D = torch.randn(len(y_D), generator=at.rng, dtype=torch.float64).to(y_D)
    seen, exact = probed(at, lambda v_D: torch.stack([lower.product(v_D) for lower in lowers]).mean(0), start_D)
    smallest, largest = ends(seen, y_D.dtype, at.trust)
    products = steps + 1 + sum(lower.products for lower in lowers)
    return Diagnosis(largest=largest, smallest=smallest, exact=exact, radius=radius, step=step, products=products)
