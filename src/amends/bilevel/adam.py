"""Adam (arXiv 1412.6980) as a lower level's solver that can be differentiated through: for `unroll` and `forward`.

    m <- b1 m + (1 - b1) g,    v <- b2 v + (1 - b2) g^2,    y <- y - lr m^ / (sqrt(v^) + eps),    m^, v^ = m, v / (1 - b^t)

The root has no derivative at 0: where a gradient was 0 in every step so far, automatic differentiation gives 0 * inf, and a
peer's hypergradient is not a number. The derivative of the whole step exists there, lr / eps at the first one for
each unit of g, and is what comes out when the root's own is taken as 0. It is large: give an `eps` that is no afterthought
where gradients vanish.
"""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from amends.bilevel.problem import Problem
from amends.bilevel.solvers import gradient
from amends.core.protocols import Params
from amends.core.spec import Count, Positive, spec


@spec
class Adam:
    """Adam's steps, differentiable, all of them as one: moments begin at 0 each time."""

    number: Count
    """How many of its steps."""
    lr: Positive
    """The step size."""
    betas: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]] = (0.9, 0.999)
    """Decay of the first and second moments."""
    eps: Positive = 1e-8
    """Added to the root of the second moment."""

    @property
    def steps(self) -> int:
        """One: the moments live within it, so that unrolling is through all of them or none."""
        return 1

    def step(self, problem: Problem, outer: Params, inner: Params) -> Params:
        """All steps, differentiable where gradients are on."""
        y, (b1, b2) = dict(inner), self.betas
        m, v = ({n: torch.zeros_like(w) for n, w in y.items()} for _ in range(2))
        for t in range(1, self.number + 1):
            g, y = gradient(problem.lower, outer, y)
            m = {n: b1 * m[n] + (1 - b1) * g[n] for n in y}
            v = {n: b2 * v[n] + (1 - b2) * g[n] ** 2 for n in y}
            y = {n: w - self.lr * (m[n] / (1 - b1**t)) / (_root(v[n] / (1 - b2**t)) + self.eps) for n, w in y.items()}
        return y


def _root(squares: Tensor) -> Tensor:
    """The square root, with a derivative of 0 at 0."""
    some = squares > 0
    return torch.where(some, torch.where(some, squares, 1.0).sqrt(), 0.0)
