"""A network that tells which of sixteen points was sent from what was received (few-pilot demodulation, arXiv 1903.02184).

A row is a device, and each of its symbols is one term of its likelihood, as tokens are of a text's: -log p(symbol | received)
summed over the device. So `train` on many devices is joint training, and a part of a device's symbols, its pilots, is one, too.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from amends.core.errors import UserError
from amends.core.spec import Count, spec
from amends.core.types import Batch, Encoded, Hidden, Likelihood, Sample
from amends.data.bundle import Bundle
from amends.data.devices import ORDER
from amends.subjects.blocks import Shell
from amends.subjects.distributions import Categorical, row_sums
from amends.subjects.fresh import redraw
from amends.subjects.images import save_module


class Demodulator:
    """A module `[N, 2] received -> [N, 16] logits`; a row's data is `{received: [S, 2], symbol: [S]}`."""

    stochastic: ClassVar[bool] = False

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self.call: nn.Module = Shell(module)

    def adopt(self, call: Any) -> None:
        """Takes over a replaced `call`, with the module inside it."""
        self.call, self.module = call, call.model

    def encode(self, sample: Sample) -> Encoded:
        """Received and sent symbols as tensors; raises UserError for another row."""
        if "received" not in sample.data or "symbol" not in sample.data:
            raise UserError(f"row {sample.id}: has no received symbols: this model demodulates, use the data source `devices`")
        received = torch.as_tensor(sample.data["received"], dtype=torch.float32)
        return Encoded(sample.id, {"received": received, "symbol": torch.as_tensor(sample.data["symbol"])}, len(received))

    def collate(self, rows: Sequence[Encoded]) -> Batch:
        """Stacks devices of one number of symbols; raises UserError for devices of two."""
        odd = next((r for r in rows if r.size != rows[0].size), None)
        if odd is not None:
            raise UserError(f"rows {rows[0].id} and {odd.id}: {rows[0].size} and {odd.size} symbols do not fit into one batch")
        stacked = {name: torch.stack([r.tensors[name] for r in rows]) for name in ("received", "symbol")}
        return Batch(tuple(r.id for r in rows), stacked)

    def count(self, batch: Batch) -> Tensor:
        """One term a symbol."""
        return torch.full((len(batch),), batch["symbol"].shape[1], device=batch["symbol"].device)

    def draw(self, batch: Batch, rng: torch.Generator) -> Batch:
        """Nothing is drawn."""
        return batch

    def likelihood(self, batch: Batch) -> Likelihood:
        """-log p(symbol | received), summed over each device's symbols."""
        row_N = torch.arange(len(batch), device=batch["symbol"].device).repeat_interleave(batch["symbol"].shape[1])
        dist = Categorical(self.call(batch["received"].flatten(0, 1)), batch["symbol"].flatten(), row_N)
        return Likelihood(row_sums(dist.nll(), row_N, len(batch)), self.count(batch), dist)

    def hidden(self, batch: Batch, at: float) -> Hidden:
        """What block `at` puts out for every symbol."""
        state_NC = self.call(batch["received"].flatten(0, 1), until=at)
        row_N = torch.arange(len(batch), device=state_NC.device).repeat_interleave(batch["symbol"].shape[1])
        return Hidden(state_NC, row_N)

    def save(self, folder: Path) -> None:
        """The weights as safetensors."""
        save_module(self.module, folder)


def part(batch: Batch, start: int, stop: int | None) -> Batch:
    """Some of each device's symbols."""
    return Batch(batch.ids, {n: batch[n][:, start:stop] for n in ("received", "symbol")})


@spec
class DemodulatorNet:
    """A fully connected network from a received symbol to the sixteen that may have been sent."""

    hidden: Annotated[tuple[Count, ...], Field(min_length=1)] = (10, 30, 30)
    """Widths of the hidden layers."""

    def content(self) -> str:
        """Built from its fields and the seed alone."""
        return ""

    def load(self, data: Bundle, seed: int) -> Demodulator:
        """Draws weights; raises UserError for rows without received symbols."""
        first = next((row for rows in data.roles.values() for row in rows), None)
        if first is None or "received" not in first.data:
            raise UserError("subject: this network demodulates: use the data source `devices`")
        widths = (2, *self.hidden)
        layers: list[nn.Module] = []
        for wide, narrow in pairwise(widths):
            layers += [nn.Linear(wide, narrow), nn.ReLU()]
        module = nn.Sequential(*layers, nn.Linear(widths[-1], ORDER))
        redraw(module, seed, "init")
        return Demodulator(module.eval())
