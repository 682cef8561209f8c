"""Interfering links in several surroundings, one task after another: fair continual power control (arXiv 2105.01696).

A row is one drawing of the channels h_jk between K senders and K receivers, with the power that WMMSE gives the links
(`data/wmmse.py`). The surroundings:

- `rayleigh`: h = |z|, z ~ CN(0, 1): no line of sight;
- `rice`: h = |sqrt(f / (1 + f)) + z / sqrt(1 + f)|: a line of sight with f times the power of the scattered rest;
- `geometryS`: senders and receivers evenly spread over a square of side S, h^2 = |z|^2 / (1 + d^2) at the distance d.

Beside the rows of each task there are `test_` rows of it, and for each task but the first `memory_<task>`: a reservoir
(algorithm R) of all rows of the tasks before it, what a method with so much memory may still have when the task begins.
"""

from __future__ import annotations

import re
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from amends.core.errors import UserError
from amends.core.rng import rng
from amends.core.spec import Count, NonNegative, Positive, spec
from amends.core.types import Sample
from amends.data.bundle import Bundle
from amends.data.wmmse import sum_rate, wmmse

_GEOMETRY = re.compile(r"geometry(\d+)")


@spec
class Links:
    """Generated channels of interfering links, labelled with the power that WMMSE gives them; one role a task."""

    links: Annotated[int, Field(ge=2)] = 10
    """K, pairs of a sender and a receiver."""
    tasks: Annotated[tuple[str, ...], Field(min_length=1)] = ("rayleigh", "rice", "geometry10", "geometry50")
    """The surroundings in the order in which they come: rayleigh, rice, or geometry with the square's side."""
    rows: Count = 2000
    """Training rows of each task."""
    test: Count = 1000
    """Test rows of each task."""
    memory: Count = 200
    """Rows of earlier tasks that are kept."""
    noise: Positive = 1.0
    """The noise's power, with 1 the most that a link may send."""
    line_of_sight: NonNegative = 1.0
    """f, the share of the direct path over that of the scattered rest in `rice`."""
    iterations: Count = 100
    """Of WMMSE, at most."""
    tolerance: Positive = 1e-3
    """WMMSE ends where an iteration gains less, in bits."""

    def load(self, seed: int) -> Bundle:
        """Roles: each task, `test_` and each task, and `memory_` and each task but the first."""
        self._check()
        roles = {task: self._rows("train", task, self.rows, seed) for task in self.tasks}
        roles |= {f"test_{task}": self._rows("test", task, self.test, seed) for task in self.tasks}
        seen: list[Sample] = []
        for task in self.tasks[:-1]:
            seen += roles[task]
            following = self.tasks[self.tasks.index(task) + 1]
            roles[f"memory_{following}"] = reservoir(seen, self.memory, rng(seed, "reservoir"))
        return Bundle(roles).check()

    def _check(self) -> None:
        for i, task in enumerate(self.tasks):
            if task not in ("rayleigh", "rice") and _GEOMETRY.fullmatch(task) is None:
                raise UserError(f"data.tasks.{i}: expected rayleigh, rice or geometry with a side (geometry10), got {task!r}")
            if task in self.tasks[:i]:
                raise UserError(f"data.tasks.{i}: {task} stands twice; roles are named after tasks")

    def _rows(self, split: str, task: str, n: int, seed: int) -> tuple[Sample, ...]:
        channel_NKK = self.channels(task, n, rng(seed, "channels", task, split)) / self.noise**0.5
        power_NK = wmmse(channel_NKK, iterations=self.iterations, tolerance=self.tolerance).power_BK
        rate_N = sum_rate(channel_NKK, power_NK)
        each = zip(channel_NKK, power_NK, rate_N.tolist(), strict=True)
        return tuple(
            Sample(f"{split}-{task}-{i:05d}", {"channel": h, "power": p, "rate": r}) for i, (h, p, r) in enumerate(each)
        )

    def channels(self, task: str, n: int, generator: torch.Generator) -> Tensor:
        """[n, K, K] sizes of channels, [sender, receiver]."""
        shape = (n, self.links, self.links)
        z = torch.complex(torch.randn(shape, generator=generator), torch.randn(shape, generator=generator)) / 2**0.5
        if task == "rayleigh":
            return z.abs()
        if task == "rice":
            f = self.line_of_sight
            return ((f / (1 + f)) ** 0.5 + z / (1 + f) ** 0.5).abs()
        side = int(task.removeprefix("geometry"))
        senders, receivers = (side * torch.rand(n, self.links, 2, generator=generator) for _ in range(2))
        return z.abs() / (1 + torch.cdist(senders, receivers).square()).sqrt()


def reservoir(rows: list[Sample], most: int, generator: torch.Generator) -> tuple[Sample, ...]:
    """`most` of the rows, each with the same chance, as they are kept when rows come one by one (algorithm R)."""
    kept = list(rows[:most])
    for i in range(most, len(rows)):
        place = int(torch.randint(i + 1, (), generator=generator))
        if place < most:
            kept[place] = rows[i]
    return tuple(kept)
