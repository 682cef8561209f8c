"""Gradient clipping by global norm."""

from __future__ import annotations

import torch

from amends.core.protocols import Params, Start, Step
from amends.core.spec import Positive, spec


@spec
class Clip:
    """Scales all gradients together so that their global L2 norm is at most `norm`."""

    norm: Positive = 1.0
    """The largest norm an update's gradient may have."""

    def init(self, params: Params, start: Start) -> None:
        """Keeps nothing."""

    def grads(self, params: Params, state: None, step: Step) -> None:
        """Rescales in place."""
        torch.nn.utils.clip_grad_norm_(list(params.values()), self.norm)

    def weights(self, params: Params, state: None, step: Step) -> None:
        """Leaves the weights alone."""
