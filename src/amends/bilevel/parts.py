"""A loss over more rows than one graph fits into memory: a sum of parts, of which one at a time has a graph.

sum_k g_k(x, y) is returned with its value and its slope in y, and without a graph behind the slope: memory is one part's. So it
has no second derivative, and none in x: for solvers without unrolling, and for `alternate`. An implicit strategy would see a
lower loss without curvature, which `Trust` refuses.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from amends.bilevel.problem import Loss, scalar
from amends.bilevel.tree import filled, leaves, slopes
from amends.core.errors import UserError
from amends.core.protocols import Params


def in_parts(parts: Iterable[Loss], outer: Params, inner: Params) -> Tensor:
    """The sum of the parts, as a number whose gradient in the inner parameters is right, and nothing else.

    Raises UserError where there are no parts, or one is no number.
    """
    total: Tensor | None = None
    wanted = torch.is_grad_enabled()
    slope = {name: torch.zeros_like(value) for name, value in inner.items()}
    for part in parts:
        y = leaves(inner)
        with torch.set_grad_enabled(wanted):
            value = scalar(part(outer, y), "lower")
            found = filled(slopes(value, y) if wanted else dict.fromkeys(y), y)
        slope = {name: slope[name] + found[name] for name in slope}
        total = value.detach() if total is None else total + value.detach()
    if total is None:
        raise UserError("in_parts: there are no parts to sum")
    # a straight line through the point: its value and its slope are the sum's
    return total + sum(((slope[name] * (value - value.detach())).sum() for name, value in inner.items()), total.new_zeros(()))
