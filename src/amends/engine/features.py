"""The inner features that a classifier makes of many rows, without gradient and in evaluation mode.

Rows go through in an order of their own (`engine/score.py`), so that results do not depend on the order they came in.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from amends.core.errors import UserError
from amends.core.types import Sample
from amends.engine.score import batches
from amends.subjects.head import head, num_classes


@torch.no_grad()
def features(subject: Any, samples: Sequence[Sample], layer: float | None = None) -> dict[str, np.ndarray]:
    """Row id -> [C] float64, in the order given.

    Args:
        layer: the block whose output is read, averaged over a row's positions; None for what the last linear layer reads.

    Raises:
        UserError: the model has no such block, or no last linear layer that reads one vector a row.
    """
    found: dict[str, np.ndarray] = {}
    last = None if layer is not None else head(subject.module, num_classes(subject, samples[0]))[1]
    for batch in batches(subject, samples, device=_device(subject)):
        state_BC = read_features(subject, batch, last) if last is not None else _mean(subject, batch, layer)
        found.update(zip(batch.ids, state_BC.double().cpu().numpy(), strict=True))
    return {s.id: found[s.id] for s in samples}


def read_features(subject: Any, batch: Any, last: nn.Module) -> Tensor:
    """[B, C] what the last layer is called with. Raises UserError unless that is one vector a row."""
    seen: list[Tensor] = []
    hook = last.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    try:
        subject.likelihood(batch)
    finally:
        hook.remove()
    if len(seen) != 1 or seen[0].ndim != 2:
        raise UserError("layer: the model's last linear layer does not read one vector a row: name a block")
    return seen[0]


def _mean(subject: Any, batch: Any, layer: float | None) -> Tensor:
    """[B, C] the mean over a row's positions of what a block puts out."""
    hidden = subject.hidden(batch, layer)
    sums_BC = hidden.state_NC.new_zeros(len(batch), hidden.state_NC.shape[1]).index_add(0, hidden.row_N, hidden.state_NC)
    return sums_BC / torch.bincount(hidden.row_N, minlength=len(batch))[:, None]


def _device(subject: Any) -> torch.device:
    return next(subject.module.parameters()).device
