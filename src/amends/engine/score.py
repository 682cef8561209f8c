"""Likelihoods of many rows without gradient, in batches of similar length: for references, guards and metrics.

Gradient norms, which membership inference asks for, are taken one row at a time.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch

from amends.core.rng import rng
from amends.core.types import Batch, Likelihood, Sample

TOKENS = 4096
"""How many padded positions one forward may have."""
CPU_TOKENS = 1024
"""The same on a processor, where a larger batch leaves the caches and is slower."""


@torch.no_grad()
def likelihoods(
    subject: Any, samples: Sequence[Sample], *, seed: int = 0, device: Any = None
) -> Iterator[tuple[Batch, Likelihood]]:
    """Batches of rows sorted by length, with their likelihoods; a stochastic subject draws the same choices each time."""
    for batch in batches(subject, samples, seed=seed, device=device):
        yield batch, subject.likelihood(batch)


def batches(
    subject: Any, samples: Sequence[Sample], *, seed: int = 0, device: Any = None, most: int | None = None, copies: int = 1
) -> Iterator[Batch]:
    """The rows in batches of similar length, on a device; the model is in evaluation mode while they are read.

    Args:
        most: padded positions of a batch; by default what suits the model's device.
        copies: how many times over each batch goes through the model at once; so many times fewer rows are in it.
    """
    encoded = sorted((subject.encode(s) for s in samples), key=lambda e: (e.size, e.id))
    on_cpu = next(subject.module.parameters()).device.type == "cpu"
    most = (most or (min(TOKENS, CPU_TOKENS) if on_cpu else TOKENS)) // copies
    was_training = subject.call.training
    subject.call.eval()
    try:
        start = 0
        while start < len(encoded):
            stop = start + 1
            while stop < len(encoded) and (stop + 1 - start) * encoded[stop].size <= most:
                stop += 1
            batch = subject.draw(subject.collate(encoded[start:stop]), rng(seed, "score", start))
            yield batch.to(device) if device is not None else batch
            start = stop
    finally:
        subject.call.train(was_training)


def nll_by_id(subject: Any, samples: Sequence[Sample], **options: Any) -> dict[str, tuple[float, int]]:
    """For each row's id its negative log-likelihood in nats and its number of terms."""
    found: dict[str, tuple[float, int]] = {}
    for batch, like in likelihoods(subject, samples, **options):
        found.update(zip(batch.ids, zip(like.nll_B.tolist(), like.n_B.tolist(), strict=True), strict=True))
    return found


def grad_norms(subject: Any, samples: Sequence[Sample], *, seed: int = 0, device: Any = None) -> Iterator[tuple[str, float]]:
    """(id, mean over parameter tensors of the L2 norm of the gradient of the row's mean loss), in evaluation mode.

    Every floating-point parameter that the loss depends on counts, whether it is frozen or not, so that a model gives the
    same numbers in memory and loaded again; a stochastic subject draws each row's choices by the row's id.
    """
    weights = [p for p in subject.module.parameters() if p.is_floating_point()]
    trained = [p.requires_grad for p in weights]
    was_training = subject.call.training
    subject.call.eval()
    try:
        for p in weights:
            p.requires_grad_(True)
        for sample in samples:
            batch = subject.draw(subject.collate([subject.encode(sample)]), rng(seed, "gradient", sample.id))
            with torch.enable_grad():
                like = subject.likelihood(batch.to(device) if device is not None else batch)
                loss = (like.nll_B / like.n_B).sum()
            found = [g.float() for g in torch.autograd.grad(loss, weights, allow_unused=True) if g is not None]
            yield sample.id, float(torch.stack([g.norm() for g in found]).mean())
    finally:
        for p, wanted in zip(weights, trained, strict=True):
            p.requires_grad_(wanted)
        subject.call.train(was_training)
