"""Wanda (arXiv 2306.11695, eq. 1): |W_ij| times the norm of input feature j, over the tokens of the forget rows.

Only linear layers inside the model's blocks have a score, as in the paper; embeddings, norms, biases and the output head
have none, and a mask treats them as it treats what it skips. The paper compares weights within one output row, since it
prunes each row by the same share; a mask compares them over the model or over a tensor, as WAGLE's baseline does.

Rows of one length go through the model together, so there is no padding that a norm could contain.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby
from typing import Any

import torch
from torch import Tensor, nn

from amends.attribution.gradients import rows_of
from amends.core.errors import UserError
from amends.core.protocols import Params, Start
from amends.core.spec import Count, spec
from amends.core.types import Batch, Role
from amends.subjects.blocks import blocks
from amends.subjects.prefix import unshared


@spec
class Wanda:
    """Weight times activation: |W| x norm of its input over the forget rows; linear layers only."""

    role: Role = "forget"
    """Whose activations."""
    rows: Count | None = None
    """Rows that are used, spread evenly; None for all."""
    batch: Count = 8
    """Rows of one forward."""

    def scores(self, params: Params, start: Start) -> Iterator[tuple[str, Tensor]]:
        """The score of each linear layer's weight, in float32. Raises UserError for a model that has no such layer."""
        names = {id(p): name for name, p in params.items()}
        inside = [m for b in blocks(start.subject.module) for m in b.modules() if isinstance(m, nn.Linear)]
        layers = {names[id(m.weight)]: m for m in inside if id(m.weight) in names}
        if not layers:
            raise UserError("wanda: none of the weights to score is a linear layer's inside a block: use another attribution")
        norms = _norms(start, self._batches(start), layers)
        for name, layer in layers.items():
            yield name, layer.weight.detach().abs().float().mul_(norms[name])

    def _batches(self, start: Start) -> Iterator[Batch]:
        subject = start.subject
        encoded = sorted((subject.encode(s) for s in rows_of(start, self.role, self.rows)), key=lambda e: (e.size, e.id))
        for size, group in groupby(encoded, key=lambda e: e.size):
            same = list(group)
            for i in range(0, len(same), self.batch):
                batch = subject.collate(same[i : i + self.batch])
                yield subject.draw(batch, start.run.rng("attribution", self.role, size, i))


@torch.no_grad()
def _norms(start: Start, batches: Iterator[Batch], layers: dict[str, nn.Linear]) -> dict[str, Tensor]:
    """The L2 norm of each input feature of each layer, over all positions of all batches."""
    squares = {name: torch.zeros(m.in_features, device=m.weight.device) for name, m in layers.items()}

    def watch(name: str) -> Any:
        def look(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            squares[name] += inputs[0].reshape(-1, inputs[0].shape[-1]).float().square().sum(0)

        return look

    call = start.subject.call
    was_training = call.training
    hooks = [m.register_forward_pre_hook(watch(name)) for name, m in layers.items()]
    try:
        call.eval()
        with unshared():
            for batch in batches:
                start.subject.likelihood(batch.to(next(iter(squares.values())).device))
    finally:
        call.train(was_training)
        for hook in hooks:
            hook.remove()
    return {name: total.sqrt() for name, total in squares.items()}
