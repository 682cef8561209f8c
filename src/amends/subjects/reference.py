"""The frozen start model, in the cheapest form that serves: cached numbers, the adapter switched off, or a copy.

A reference answers `likelihood(batch)` without gradient. NPO and DPO need one number a row, which never changes, so
it is computed once before the first step; a divergence needs the full distribution and so a second forward.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from amends.core.errors import NeedsReference
from amends.core.types import Batch, Hidden, Likelihood


class Reference(Protocol):
    """Something that answers for the start model."""

    def likelihood(self, batch: Batch) -> Likelihood: ...
    def hidden(self, batch: Batch, at: float) -> Hidden: ...


@dataclass(frozen=True)
class Cached:
    """Log-likelihoods by row id; full distributions are not kept."""

    nll: Mapping[str, float]
    subject: Any

    def likelihood(self, batch: Batch) -> Likelihood:
        """Looks each row up; an unknown id is a defect of the caller."""
        count_B = self.subject.count(batch)
        nll_B = torch.tensor([self.nll[i] for i in batch.ids], dtype=torch.float32, device=count_B.device)
        return Likelihood(nll_B, count_B)

    def hidden(self, batch: Batch, at: float) -> Hidden:
        """Activations are not kept."""
        raise NeedsReference("this objective needs the reference model's activations, and only its log-likelihoods were kept")


@dataclass(frozen=True)
class AdapterOff:
    """The policy with its LoRA adapter switched off: no second copy of the weights."""

    subject: Any

    @torch.no_grad()
    def likelihood(self, batch: Batch) -> Likelihood:
        """One forward of the base weights."""
        with self._off():
            return self.subject.likelihood(batch)

    @torch.no_grad()
    def hidden(self, batch: Batch, at: float) -> Hidden:
        """One forward of the base weights up to a block."""
        with self._off():
            return self.subject.hidden(batch, at)

    @contextmanager
    def _off(self) -> Iterator[None]:
        was_training = self.subject.call.training
        self.subject.call.eval()  # the base weights may have a dropout of their own
        try:
            with self.subject.module.disable_adapter():
                yield
        finally:
            self.subject.call.train(was_training)


@dataclass(frozen=True)
class Frozen:
    """A copy of the weights, in evaluation mode; costs one model's memory."""

    subject: Any

    @torch.no_grad()
    def likelihood(self, batch: Batch) -> Likelihood:
        """One forward of the copy."""
        return self.subject.likelihood(batch)

    @torch.no_grad()
    def hidden(self, batch: Batch, at: float) -> Hidden:
        """One forward of the copy up to a block."""
        return self.subject.hidden(batch, at)


def frozen_copy(subject: Any) -> Frozen:
    """Copies a subject's weights as they are now."""
    twin = copy.copy(subject)
    twin.adopt(copy.deepcopy(subject.call).eval().requires_grad_(False))
    return Frozen(twin)
