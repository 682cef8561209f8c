"""Batches of one role, as a pure function of (seed, role, step): a resumed run needs no saved data position.

Rows are shuffled afresh each epoch, gathered in pools of about `POOL` batches, sorted by length inside the pool and
cut into batches of nearly equal size, whose order is shuffled again. Batches are GLOBAL: each of `world` processes
takes every world-th row of the same batch, so one process and eight see the same steps. Rows that are left out keep their
place in that order and are missing from their batches: the same training without them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice, pairwise
from typing import Any

import torch

from amends.core.errors import UserError
from amends.core.protocols import Need
from amends.core.rng import rng
from amends.core.types import Batch, Encoded, Role, Sample

POOL = 16


@dataclass(frozen=True)
class Micro:
    """What one forward sees: `num_rows` rows, followed by their alternatives; no rows where only alternatives are asked for."""

    batch: Batch
    num_rows: int


class Loader:
    """Encodes a role's rows once and deals them out by step."""

    def __init__(
        self, subject: Any, role: Role, samples: Sequence[Sample], alternatives: Mapping[str, Sample] | None,
        *, rows: int, seed: int, micro: int | None = None, rank: int = 0, world: int = 1, own: bool = True,
        without: frozenset[str] = frozenset(),
    ) -> None:  # fmt: skip
        """`own`: whether the rows' own answers are run, or their alternatives alone."""
        if not samples:
            raise UserError(f"role '{role}' is empty: there is nothing to train on")
        if without and world > 1:
            raise UserError(f"role '{role}': rows are left out of their batches in one process only: start one")
        self.without = without
        self.subject, self.role, self.seed, self.micro, self.rank, self.world = subject, role, seed, micro, rank, world
        self.encoded = [subject.encode(s) for s in samples]
        self.alternatives = self._pairs(samples, alternatives) if alternatives is not None else None
        self.own = own or alternatives is None
        self.num_batches = -(-len(samples) // rows)
        if len(samples) // self.num_batches < world:
            raise UserError(f"role '{role}': a batch of {rows} row(s) cannot be split over {world} processes")

    def _pairs(self, samples: Sequence[Sample], alternatives: Mapping[str, Sample]) -> dict[str, Encoded]:
        missing = [s.id for s in samples if s.id not in alternatives]
        if missing:
            raise UserError(
                f"role '{self.role}': {len(missing)} row(s) have no alternative answer ({missing[0]}, ...), "
                "which this objective needs: give the data a list of refusals"
            )
        pairs = {s.id: self.subject.encode(alternatives[s.id]) for s in samples}
        ids = {s.id for s in samples} | {p.id for p in pairs.values()}
        if len(ids) < 2 * len(samples):
            raise UserError(f"role '{self.role}': alternatives need ids of their own, as Sample.with_ gives them")
        return pairs

    @lru_cache(maxsize=2)  # noqa: B019 (a loader lives as long as its fit)
    def epoch(self, number: int) -> list[list[int]]:
        """The batches of one epoch as row indices."""
        generator = rng(self.seed, "order", self.role, number)
        order = torch.randperm(len(self.encoded), generator=generator).tolist()
        batches: list[list[int]] = []
        for pool in _even(_even(order, self.num_batches), -(-self.num_batches // POOL)):
            by_size = iter(sorted((j for piece in pool for j in piece), key=lambda j: self.encoded[j].size))
            batches += [list(islice(by_size, len(piece))) for piece in pool]
        shuffled = torch.randperm(len(batches), generator=generator).tolist()
        return [batches[i] for i in shuffled]

    def rows_at(self, step: int) -> list[Encoded]:
        """The rows of the global batch of a step; none where all of them are left out."""
        epoch, index = divmod(step, self.num_batches)
        return [row for i in self.epoch(epoch)[index] if (row := self.encoded[i]).id not in self.without]

    def count_at(self, step: int, term: Any) -> int:
        """What a term's total is divided by: the rows of the global batch, or their supervised tokens.

        A mean over tokens of a term that needs the alternatives is one over the alternatives' tokens.
        """
        rows = self.rows_at(step)
        if term.per == "row" or not rows:
            return len(rows)
        if Need.ALTERNATIVE in term.needs and self.alternatives is not None:
            rows = [self.alternatives[r.id] for r in rows]
        return int(self.subject.count(self.subject.collate(rows)).sum())

    def at(self, step: int) -> list[Micro]:
        """This process's share of the step's batch, in pieces of at most about `micro` rows."""
        rows = self.rows_at(step)
        if not rows:
            return []
        smallest = len(rows) // self.world
        pieces = 1 if self.micro is None else max(1, -(-smallest // self.micro))
        mine = _even(range(len(rows))[self.rank :: self.world], pieces)
        num = len if self.own else lambda _: 0
        if not self.subject.stochastic:
            return [Micro(self._collate([rows[i] for i in piece]), num(piece)) for piece in mine]
        whole = draw(self.subject, self._collate(rows), len(rows), rng(self.seed, "draw", self.role, step))
        halves = len(whole) // len(rows)  # drawn for the whole batch, so that a split changes nothing
        return [Micro(whole.take([i + h * len(rows) for h in range(halves) for i in piece]), num(piece)) for piece in mine]

    def whole(self, step: int) -> Batch:
        """All rows of the step's batch, over all processes, without alternatives; with the choices that `at` draws."""
        batch = self.subject.collate(self.rows_at(step))
        return draw(self.subject, batch, len(batch), rng(self.seed, "draw", self.role, step))

    def _collate(self, rows: list[Encoded]) -> Batch:
        if self.alternatives is None:
            return self.subject.collate(rows)
        return self.subject.collate([*(rows if self.own else ()), *(self.alternatives[r.id] for r in rows)])


def draw(subject: Any, batch: Batch, num_rows: int, generator: torch.Generator) -> Batch:
    """Draws the random choices of a batch; an alternative shares those of the row it belongs to."""
    drawn = subject.draw(batch.rows(0, num_rows), generator)
    fresh = {k: torch.cat([v] * (len(batch) // num_rows)) for k, v in drawn.tensors.items() if k not in batch.tensors}
    return Batch(batch.ids, {**batch.tensors, **fresh})


def _even(items: Sequence[Any], parts: int) -> list[Any]:
    """Cuts a list into `parts` pieces whose sizes differ by at most one."""
    size, extra = divmod(len(items), parts)
    ends = [size * i + min(i, extra) for i in range(parts + 1)]
    return [items[a:b] for a, b in pairwise(ends)]
