"""Random scores: the control that every attribution has to beat."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from amends.core.protocols import Params, Start
from amends.core.spec import spec


@spec
class Random:
    """A random number for each weight, the same for the same seed and name."""

    def scores(self, params: Params, start: Start) -> Iterator[tuple[str, Tensor]]:
        """Uniform in (0, 1]: a weight with score 0 would count as dead."""
        for name, p in params.items():
            generator = start.run.rng("attribution", "random", name)
            yield name, (1 - torch.rand(p.shape, generator=generator)).to(p.device)
