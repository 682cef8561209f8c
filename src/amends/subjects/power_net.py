"""A network that allocates the power of interfering links: channels in, each link's power out (arXiv 2105.01696).

    pi(h) = sigmoid( W_4 relu( W_3 relu( W_2 relu( W_1 vec(h) ) ) ) ) in (0, 1)^K, biases left out in writing

It is a regression on the power p* that WMMSE gives, with a Gaussian likelihood of one term a row: the negative log-likelihood
is |pi(h) - p*|^2 up to a constant (variance 1/2 a link), so that `nll` is the papers' squared error.
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
from amends.data.wmmse import sum_rate
from amends.subjects.blocks import Shell
from amends.subjects.distributions import Gaussian
from amends.subjects.fresh import redraw
from amends.subjects.images import flat, save_module

FIELDS = ("channel", "power", "rate")


class Allocator:
    """A module `[B, K, K] channels -> [B, K] powers`; a row's data is `{channel, power, rate}`, the last two WMMSE's."""

    stochastic: ClassVar[bool] = False

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self.call: nn.Module = Shell(module)

    def adopt(self, call: Any) -> None:
        """Takes over a replaced `call`, with the module inside it."""
        self.call, self.module = call, call.model

    def encode(self, sample: Sample) -> Encoded:
        """Channels, power and rate as tensors; raises UserError for another row."""
        gone = next((f for f in FIELDS if f not in sample.data), None)
        if gone is not None:
            raise UserError(f"row {sample.id}: has no '{gone}': this model allocates power, use the data source `links`")
        return Encoded(sample.id, {f: torch.as_tensor(sample.data[f], dtype=torch.float32) for f in FIELDS}, 1)

    def collate(self, rows: Sequence[Encoded]) -> Batch:
        """Stacks rows of one number of links; raises UserError for rows of two."""
        odd = next((r for r in rows if r.tensors["channel"].shape != rows[0].tensors["channel"].shape), None)
        if odd is not None:
            raise UserError(f"rows {rows[0].id} and {odd.id}: two numbers of links do not fit into one batch")
        return Batch(tuple(r.id for r in rows), {f: torch.stack([r.tensors[f] for r in rows]) for f in FIELDS})

    def count(self, batch: Batch) -> Tensor:
        """One term a row."""
        return torch.ones(len(batch), dtype=torch.long, device=batch["channel"].device)

    def draw(self, batch: Batch, rng: torch.Generator) -> Batch:
        """Nothing is drawn."""
        return batch

    def likelihood(self, batch: Batch) -> Likelihood:
        """|pi(h) - p*|^2 of each row; the distribution's mean is the power."""
        power_BK = self.call(batch["channel"])
        weight_B = power_BK.new_full((len(batch),), 2.0 * power_BK.shape[-1])
        dist = Gaussian(power_BK, batch["power"], weight_B)
        return Likelihood(dist.nll(), self.count(batch), dist)

    def hidden(self, batch: Batch, at: float) -> Hidden:
        """What block `at` puts out, one position a row."""
        return flat(self.call(batch["channel"], until=at))

    def save(self, folder: Path) -> None:
        """The weights as safetensors."""
        save_module(self.module, folder)


def rate_ratio(likelihood: Likelihood, batch: Batch) -> Tensor:
    """[B] the sum rate of a model's power over that of WMMSE's; differentiable. Above 1 where WMMSE had stopped too early.

    Raises UserError for a likelihood that is of no power.
    """
    if not isinstance(likelihood.dist, Gaussian) or "channel" not in batch.tensors:
        raise UserError("this model allocates no power to links: use the subject `power_net`")
    return sum_rate(batch["channel"], likelihood.dist.mean_B) / batch["rate"]


@spec
class PowerNet:
    """A fully connected network from the channels of interfering links to their power."""

    hidden: Annotated[tuple[Count, ...], Field(min_length=1)] = (200, 80, 80)
    """Widths of the hidden layers."""

    def content(self) -> str:
        """Built from its fields and the seed alone."""
        return ""

    def load(self, data: Bundle, seed: int) -> Allocator:
        """Draws weights for as many links as the data has; raises UserError for rows without channels."""
        first = next((row for rows in data.roles.values() for row in rows), None)
        if first is None or "channel" not in first.data:
            raise UserError("subject: this network allocates power to links: use the data source `links`")
        num_links = len(first.data["power"])
        widths = (num_links**2, *self.hidden)
        layers: list[nn.Module] = [nn.Flatten()]
        for wide, narrow in pairwise(widths):
            layers += [nn.Linear(wide, narrow), nn.ReLU()]
        module = nn.Sequential(*layers, nn.Linear(widths[-1], num_links), nn.Sigmoid())
        redraw(module, seed, "init")
        return Allocator(module.eval())
