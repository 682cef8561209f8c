"""Magnitude of weights, the oldest pruning score (arXiv 1506.02626): one of WAGLE's baselines."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

from amends.core.protocols import Params, Start
from amends.core.spec import spec


@spec
class Magnitude:
    """|weight|: the large weights are trained, whatever the rows are."""

    def scores(self, params: Params, start: Start) -> Iterator[tuple[str, Tensor]]:
        """The size of every weight."""
        for name, p in params.items():
            yield name, p.detach().abs()
