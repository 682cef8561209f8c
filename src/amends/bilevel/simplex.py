"""The probability simplex {y >= 0, sum y = 1} as what a lower level is held to.

The projection is exact (Held, Wolfe and Crowder 1974): y_i = max(v_i - t, 0) with the one t for which they sum to 1. It is
differentiable where no y_i is about to change between 0 and not 0, and its derivative is the implicit one: with the n_a
coordinates above 0,

    dy = (I - 1 1' / n_a) dv    among them, and 0 elsewhere.

Clipping at 0 and adding the same number to all, which code in circulation calls a projection, leaves coordinates below 0 or
sums other than 1.
"""

from __future__ import annotations

import torch
from torch import Tensor

from amends.bilevel.problem import Linear


def onto_simplex(v_N: Tensor) -> Tensor:
    """The nearest point of the simplex.

    >>> onto_simplex(torch.tensor([0.5, 0.5, -9.0])).tolist(), onto_simplex(torch.tensor([3.0, 1.0])).tolist()
    ([0.5, 0.5, 0.0], [1.0, 0.0])
    """
    with torch.no_grad():
        down_N = v_N.sort(descending=True).values
        number_N = torch.arange(1, len(v_N) + 1, device=v_N.device)
        level_N = (down_N.cumsum(0) - 1) / number_N
        active_N = v_N >= down_N[int((down_N > level_N).sum()) - 1]
    level = (v_N[active_N].sum() - 1) / active_N.sum()
    return torch.relu(v_N - level)


def simplex(num: int, like: Tensor) -> Linear:
    """The same set as constraints: sum y = 1, and -y_i <= 0."""
    matrix_MD = torch.cat([like.new_ones(1, num), -torch.eye(num).to(like)])
    bound_M = torch.cat([like.new_ones(1), like.new_zeros(num)])
    return Linear(matrix_MD, bound_M, num_equal=1)
