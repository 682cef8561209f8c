"""Unrolling in forward mode (arXiv 1703.01785, RTHO): derivatives in x travel along with the steps.

For each outer number e: dy_{t+1} = (d step / dy) dy_t + (d step / dx) e, by dual numbers. Memory is that of one step, whatever
T is; time is that of the whole solution for EACH outer number. For a handful of hyper-parameters and many steps.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.autograd import forward_ad

from amends.bilevel.problem import Answer, Point, Upper, combined, scalar
from amends.bilevel.tree import detached, size
from amends.core.errors import UserError
from amends.core.spec import Count, spec


@spec
class Forward:
    """Forward differentiation through the solver's steps: memory of one step, time for each outer number."""

    at_most: Count = 64
    """The most outer numbers: each costs the whole solution once."""

    def __call__(self, at: Point) -> Answer:
        """The gradient of the upper loss after the solver's steps. Raises UserError for too many outer numbers."""
        if at.solver.steps == 0:
            raise UserError("forward: there are no steps to differentiate: give a solver, or use an implicit strategy")
        if size(at.outer) > self.at_most:
            raise UserError(f"forward: {size(at.outer)} outer numbers, each a whole solution: use unroll, or raise `at_most`")
        found: dict[str, Tensor | None] = {}
        last: tuple[float, dict[str, Tensor]] = (0.0, {})
        for name, value in at.outer.items():
            along = []
            for i in range(value.numel()):
                tangent = torch.zeros_like(value).reshape(-1)
                tangent[i] = 1
                slope, loss, inner = _along(at, name, tangent.view(value.shape))
                along.append(slope)
                last = loss, inner
            known = [a for a in along if a is not None]
            zero = value.new_zeros(())
            found[name] = torch.stack([zero if a is None else a for a in along]).view(value.shape) if known else None
        none = dict.fromkeys(at.outer)
        return Answer(combined(Upper(last[0], found, none), {}, at.outer), last[1], last[0])


def _along(at: Point, name: str, tangent: Tensor) -> tuple[Tensor | None, float, dict[str, Tensor]]:
    """The upper loss's derivative along one outer direction (None: there is none), the loss, the inner parameters."""
    with _duals():
        x = {n: forward_ad.make_dual(v, tangent) if n == name else v for n, v in at.outer.items()}
        y = _cut(dict(at.inner) if at.problem.start is None else dict(at.problem.start(x)))
        for k in range(at.solver.steps):
            y = _cut(dict(at.solver.step(at.draw(k), x, y)))
        loss = scalar(at.problem.upper(x, y), "upper")
        value, slope = forward_ad.unpack_dual(loss)
        inner = {n: forward_ad.unpack_dual(v).primal for n, v in y.items()}
    return None if slope is None else slope.detach(), float(value.detach()), detached(inner)


@contextmanager
def _duals() -> Iterator[None]:
    """A level of dual numbers; at the first one torch compiles formulas of its own, by a call that it warns of itself."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*torch.jit.script", category=DeprecationWarning)
        with forward_ad.dual_level():
            yield


def _cut(tree: dict[str, Tensor]) -> dict[str, Tensor]:
    """Without the graph of the steps before, with what travels along."""
    found = {}
    for name, value in tree.items():
        primal, tangent = forward_ad.unpack_dual(value)
        fresh = primal.detach().requires_grad_()
        found[name] = fresh if tangent is None else forward_ad.make_dual(fresh, tangent.detach())
    return found
