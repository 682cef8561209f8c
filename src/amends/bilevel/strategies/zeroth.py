"""A zeroth-order hypergradient: Gaussian directions, two values of F each, the lower level solved anew at both.

    dF/dx ~ (1/n) sum_i (F(x + width u_i) - F(x - width u_i)) / (2 width) u_i,    u_i ~ N(0, I).

Nothing is differentiated in x: the losses may be black boxes in it. The variance grows with the number d of outer numbers:
E |estimate - dF/dx|^2 = (d + 1) / n |dF/dx|^2 for a small width, which the answer's user should weigh.
"""

from __future__ import annotations

from dataclasses import replace

import torch

from amends.bilevel.problem import Answer, Point
from amends.bilevel.tree import add, detached, flat, like
from amends.core.protocols import Params
from amends.core.spec import Count, Positive, spec


@spec
class Zeroth:
    """Two values of F along random directions, no derivative in the outer parameters at all."""

    directions: Count = 32
    """How many directions; each costs two solutions of the lower level."""
    width: Positive = 1e-3
    """The step along a direction, whose length is about the root of the number of outer numbers."""

    def __call__(self, at: Point) -> Answer:
        """The estimate, and F where it was taken."""
        flat_D = flat(at.outer.values())
        total_D = torch.zeros_like(flat_D)
        inner, value = valued(at, at.outer)
        for _ in range(self.directions):
            u_D = torch.randn(len(flat_D), generator=at.rng, dtype=torch.float64).to(flat_D)
            u = like(u_D, at.outer)
            ahead, behind = (valued(at, add(at.outer, u, sign * self.width))[1] for sign in (1, -1))
            total_D += (ahead - behind) / (2 * self.width) * u_D
        return Answer(like(total_D / self.directions, at.outer), inner, value)


def valued(at: Point, outer: Params) -> tuple[Params, float]:
    """The inner parameters' solution at other outer parameters, and F there."""
    moved = replace(at, outer=detached(outer))
    inner = moved.solved()
    with torch.no_grad():
        return inner, float(at.problem.upper(moved.outer, inner))
