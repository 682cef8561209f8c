"""Saliency of weights for a loss: SNIP (arXiv 1810.02340) and the plain gradient of SalUn (arXiv 2310.12508).

SNIP's |theta * grad l| is the first-order change of the loss when the weight is removed; it is WAGLE's score without the
term that stands for retaining (gamma -> infinity). SalUn trains the weights whose |grad l_f| is above the median, which is
`keep: 0.5` with `score: gradient`. Both are ranked by size, so a mean or a sum over batches is the same.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from torch import Tensor

from amends.attribution.gradients import On, gradients, in_batches, rows_of
from amends.core.protocols import Params, Start
from amends.core.spec import Count, spec
from amends.core.types import Role


@spec
class Saliency:
    """SNIP's |weight x gradient| of the forget loss, or SalUn's |gradient|."""

    role: Role = "forget"
    """Which rows' loss."""
    score: Literal["weight_gradient", "gradient"] = "weight_gradient"
    """`weight_gradient`: SNIP; `gradient`: SalUn."""
    on: On = "answer"
    """What the loss is the cross-entropy of: the answer, or the alternative (a refusal, another label)."""
    rows: Count | None = None
    """Rows that are used, spread evenly; None for all."""
    batch: Count = 1
    """Rows of one forward: one takes the least memory, more are faster on a GPU; the scores are the same."""

    def scores(self, params: Params, start: Start) -> Iterator[tuple[str, Tensor]]:
        """The saliency of each parameter, in float32."""
        batches = in_batches(start, rows_of(start, self.role, self.rows, self.on), self.batch, self.role)
        found = gradients(start, batches, params, micro=self.batch)
        for name, p in params.items():
            gradient = found.pop(name)
            yield name, (gradient.mul_(p.detach()) if self.score == "weight_gradient" else gradient).abs_()
