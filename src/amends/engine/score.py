"""Likelihoods of many rows without gradient, in batches of similar length: for references, guards and metrics."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch

from amends.core.rng import rng
from amends.core.types import Batch, Likelihood, Sample

TOKENS = 4096
"""How many padded positions one forward may have."""


@torch.no_grad()
def likelihoods(
    subject: Any, samples: Sequence[Sample], *, seed: int = 0, device: Any = None
) -> Iterator[tuple[Batch, Likelihood]]:
    """Batches of rows sorted by length, with their likelihoods; a stochastic subject draws the same choices each time."""
    encoded = sorted((subject.encode(s) for s in samples), key=lambda e: (e.size, e.id))
    was_training = subject.call.training
    subject.call.eval()
    try:
        start = 0
        while start < len(encoded):
            stop = start + 1
            while stop < len(encoded) and (stop + 1 - start) * encoded[stop].size <= TOKENS:
                stop += 1
            rows = encoded[start:stop]
            batch = subject.draw(subject.collate(rows), rng(seed, "score", start))
            batch = batch.to(device) if device is not None else batch
            yield batch, subject.likelihood(batch)
            start = stop
    finally:
        subject.call.train(was_training)


def nll_by_id(subject: Any, samples: Sequence[Sample], **options: Any) -> dict[str, tuple[float, int]]:
    """For each row's id its negative log-likelihood in nats and its number of terms."""
    found: dict[str, tuple[float, int]] = {}
    for batch, like in likelihoods(subject, samples, **options):
        found.update(zip(batch.ids, zip(like.nll_B.tolist(), like.n_B.tolist(), strict=True), strict=True))
    return found
