"""First order only: no derivative of the lower level's curvature (FOMAML, arXiv 1803.02999).

Without `start` the inner parameters count as constants: dF/dx ~ grad_x f. With it the outer parameters are where the inner ones
start, and y moves as they do, dy/dx ~ I: dF/dx ~ grad_x f + grad_y f. Both are biased, and need no second derivative.
"""

from __future__ import annotations

from amends.bilevel.problem import Answer, Point, Upper, combined
from amends.core.errors import UserError
from amends.core.spec import spec


@spec
class Identity:
    """First order only: the lower level's reaction is dropped, or taken as the identity for a learned start (FOMAML)."""

    start: bool = False
    """Whether the outer parameters are the inner ones' start, and share names and shapes with them."""

    def __call__(self, at: Point) -> Answer:
        """The upper loss's slope at the solver's solution."""
        inner = at.solved()
        if self.start and {n: v.shape for n, v in at.outer.items()} != {n: v.shape for n, v in inner.items()}:
            raise UserError("identity.start: outer and inner parameters need the same names and shapes")
        upper = Upper.of(at.problem, at.outer, inner)
        if not self.start and all(slope is None for slope in upper.outer.values()):
            raise UserError(
                "identity: the upper loss depends on the outer parameters through the inner ones alone, of which the first "
                "order sees nothing: use `start: true` for a learned start, or an implicit strategy"
            )
        reaction = {n: None if g is None else -g for n, g in upper.inner.items()} if self.start else {}
        return Answer(combined(upper, reaction, at.outer), inner, upper.value)
