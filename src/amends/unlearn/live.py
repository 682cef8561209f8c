"""The weights that a method of one step may move, as one vector: all that are trained, or those that a mask leaves open."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from amends.core.errors import UserError
from amends.core.protocols import Context, Params, Start
from amends.data.bundle import Bundle
from amends.edits.weight_mask import Held, WeightMask
from amends.engine.parallel import Parallel


@dataclass(frozen=True)
class Live:
    """Named parameters and, where there is a mask, which of their entries are frozen."""

    params: Params
    frozen: Mapping[str, Tensor]

    @staticmethod
    def of(subject: Any, data: Bundle, mask: Any | None, run: Context) -> Live:
        """The trained parameters of a subject on this process's device. Raises UserError for a mask that is none."""
        subject.call.to(Parallel().device)
        params = dict(subject.module.named_parameters())
        if mask is None:
            return Live({n: p for n, p in params.items() if p.requires_grad}, {})
        if not isinstance(mask, (WeightMask, Held)):
            raise UserError(f"mask: expected weight_mask, and this is {type(mask).__name__.lower()}: it has nothing to hold")
        before = {n: p.requires_grad for n, p in params.items()}
        try:
            frozen = mask.init(params, Start(subject, data, run))
            open_ = {n: p for n, p in params.items() if p.requires_grad}
        finally:
            for n, p in params.items():
                p.requires_grad_(before[n])
        return Live(open_, {n: f for n, f in frozen.items() if n in open_})

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(iter(self.params.values())).device

    def flat(self, tensors: Mapping[str, Tensor]) -> Tensor:
        """[..., P] in float32: tensors of the parameters' shapes, behind any number of leading axes; 0 where frozen."""
        pieces = []
        for name, p in self.params.items():
            value = tensors[name].float()
            value = value.masked_fill(self.frozen[name], 0) if name in self.frozen else value
            pieces.append(value.reshape(*value.shape[: value.ndim - p.ndim], -1))
        return torch.cat(pieces, -1)

    @torch.no_grad()
    def move(self, by: Tensor) -> float:
        """Adds a flat vector to the weights; returns its length as a share of theirs."""
        before = float(torch.linalg.vector_norm(torch.stack([p.detach().float().norm() for p in self.params.values()])))
        for p, piece in zip(self.params.values(), by.split([p.numel() for p in self.params.values()]), strict=True):
            p.add_(piece.view(p.shape))
        return float(by.norm()) / before
