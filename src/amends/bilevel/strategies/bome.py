"""BOME, a dynamic barrier (Ye et al., arXiv 2209.08709): first derivatives only, one step of both levels at a time.

With q(x, y) = g(x, y) - g(x, z_T), z_T the solver's T steps from y and a constant in q:

    d = grad f + lam grad q,    lam = max(0, (phi - <grad f, grad q>) / |grad q|^2),    phi = eta |grad q|^2,

over x and y together: the direction nearest to grad f along which q falls at the rate phi. No Hessian, and no single minimum.
The answer's `gradient` is d in x, and its `inner` is y moved along d; they are meant for many small steps.
"""

from __future__ import annotations

from amends.bilevel.problem import Answer, Point, Problem, Upper
from amends.bilevel.tree import add, filled, flat
from amends.core.spec import Positive, spec


@spec
class BOME:
    """A dynamic barrier on the lower level's value: both levels move together, by first derivatives only (BOME)."""

    lr: Positive
    """The step of the inner parameters."""
    eta: Positive = 0.5
    """How fast the lower level's gap must fall, in units of its squared slope."""

    def __call__(self, at: Point) -> Answer:
        """The direction in x, and y after its step."""
        z, lower = at.solved(), at.problem.lower
        upper = Upper.of(at.problem, at.outer, at.inner)
        here, there = (Upper.of(Problem(lower, lower), at.outer, point) for point in (at.inner, z))
        fx, fy = filled(upper.outer, at.outer), filled(upper.inner, at.inner)
        qx = add(filled(here.outer, at.outer), filled(there.outer, at.outer), -1.0)  # z is no function of x in q
        qy = filled(here.inner, at.inner)
        slope_f, slope_q = flat([*fx.values(), *fy.values()]), flat([*qx.values(), *qy.values()])
        squared = float(slope_q @ slope_q)
        lam = max(0.0, self.eta - float(slope_f @ slope_q) / squared) if squared > 0 else 0.0
        inner = add(at.inner, add(fy, qy, lam), -self.lr)
        return Answer(add(fx, qx, lam), inner, upper.value)
