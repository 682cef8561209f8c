"""The hinge on the margin: max(0, 1 - yF) of the one-layer analysis (arXiv 2406.17167), on any prediction over classes.

    L = mean over rows of max(0, delta - (z_y - max_{k != y} z_k))

With two classes whose logits differ by F, and y = +-1, this is max(0, delta - yF). With more it is the hinge of Crammer and
Singer (2001). It is exactly 0, and so is its gradient, once a row's own class leads by `delta`.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from amends.core.protocols import Need, Per, View
from amends.core.spec import Positive, spec
from amends.core.types import Mean, Role
from amends.subjects.distributions import classes, row_sums


@spec
class MarginHinge:
    """Learns rows until their own class leads by a margin, and not a step further."""

    needs: ClassVar[frozenset[Need]] = frozenset({Need.CLASSES})
    role: Role = "retain"
    """Which rows are learned."""
    per: Per = "row"
    """`row`: each row counts once; `token`: mean over all supervised tokens of the batch."""
    delta: Positive = 1.0
    """The lead at which a row costs nothing any more, in logits."""

    def __call__(self, view: View) -> Mean:
        """max(0, delta - margin) of each term."""
        dist, n_B = classes(view.policy), view.policy.n_B
        loss_N = torch.relu(self.delta - margin(dist.logits_NV, dist.target_N))
        return Mean.average(row_sums(loss_N, dist.row_N, len(n_B)), n_B, self.per)


def margin(logits_NV: Tensor, target_N: Tensor) -> Tensor:
    """z_y - max_{k != y} z_k, [N].

    >>> margin(torch.tensor([[1.0, 4.0, 3.0]] * 2), torch.tensor([1, 0])).tolist()
    [1.0, -3.0]
    """
    own_N = logits_NV.gather(-1, target_N[:, None])[:, 0]
    return own_N - logits_NV.scatter(-1, target_N[:, None], float("-inf")).amax(-1)
