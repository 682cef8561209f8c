"""A hypergradient held against finite differences of F itself, the lower level solved anew at each: on request, it is dear."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch

from amends.bilevel.nested import Nesting, named
from amends.bilevel.problem import Answer, Point, Problem, Solver
from amends.bilevel.strategies.zeroth import valued
from amends.bilevel.tree import add, angle, detached, flat, like
from amends.bilevel.trust import Trust
from amends.core.errors import UserError


class Comparison(NamedTuple):
    """What finite differences say of a hypergradient."""

    degrees: float
    """The angle between the two, in the directions that were looked at; 0 is agreement, above 90 it leads uphill."""
    ratio: float
    """The length of the hypergradient over that of the differences."""
    directions: int
    whole: bool
    """Whether the directions are all there are, or a random choice of them."""


def against_differences(
    answer: Answer, problem: Problem, outer: Any, inner: Any, *, solver: Solver, width: float = 1e-4,
    directions: int = 16, rng: torch.Generator | None = None,
) -> Comparison:  # fmt: skip
    """Central differences of F along each outer number, or along random directions where there are more than `directions`.

    Args:
        inner: where the solver starts, each of the two times a direction.
        width: the step; small against what F's slope changes over, large against the solver's error in F.

    Raises:
        UserError: a solver of no steps, which would leave the lower level where it is.
    """
    if solver.steps == 0:
        raise UserError("against_differences: the lower level has to be solved anew at each point: give a solver")
    nesting, claim = Nesting(outer, inner), named(answer.gradient, "outer")
    x, y = detached(named(outer, "outer")), detached(named(inner, "inner"))
    at = Point(nesting.problem(problem), x, y, nesting.solver(solver), Trust.blind(), torch.Generator().manual_seed(0))
    x_D = flat(at.outer.values())
    whole = len(x_D) <= directions
    generator = rng or torch.Generator().manual_seed(0)
    chosen = torch.eye(len(x_D), dtype=torch.float64)
    if not whole:
        chosen = torch.nn.functional.normalize(
            torch.randn(directions, len(x_D), generator=generator, dtype=torch.float64), dim=1
        )
    found, claimed = [], []
    slope_D = flat(claim[n] for n in at.outer).double()
    for u_D in chosen:
        u = like(u_D.to(x_D), at.outer)
        ahead, behind = (valued(at, add(at.outer, u, sign * width))[1] for sign in (1, -1))
        found.append((ahead - behind) / (2 * width))
        claimed.append(float(u_D.to(slope_D) @ slope_D))
    seen, said = torch.tensor(found, dtype=torch.float64), torch.tensor(claimed, dtype=torch.float64)
    return Comparison(angle({"d": said}, {"d": seen}), float(said.norm() / seen.norm()), len(chosen), whole)
