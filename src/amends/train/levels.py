"""A model as the inner parameters of a bi-level problem: losses of whole roles as functions of named weights.

The rows of a role go through the model as one batch, in evaluation mode, so that a loss is the same function each time it is
asked: no dropout, no augmentation, and running statistics stay as they are. That suits models without batch normalisation.
Inside `in_doubles` all of it is in double precision: a lower level solved to seven digits has no hypergradient to trust.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from amends.bilevel.waist import Stateless
from amends.core.errors import UserError
from amends.core.protocols import Params
from amends.core.rng import rng
from amends.core.types import Batch, Role
from amends.data.bundle import Bundle
from amends.subjects.distributions import classes


class Losses:
    """[N] negative log-likelihoods, in nats a term, of a role's rows, as a function of the weights to look with."""

    def __init__(self, subject: Any, batch: Batch) -> None:
        self._likelihood, self._batch = Stateless(subject), batch

    def at(self, weights: Params) -> Tensor:
        """[N] under these weights, differentiable in them."""
        like = self._likelihood(weights, self._batch)
        return like.nll_B / like.n_B

    @torch.no_grad()
    def seen(self, weights: Params) -> dict[str, float]:
        """Mean loss, and the share of rows whose label gets the largest logit."""
        like = self._likelihood(weights, self._batch)
        told = classes(like)
        hit_N = (told.logits_NV.argmax(-1) == told.target_N).float()
        return {"loss": float((like.nll_B / like.n_B).mean()), "accuracy": float(hit_N.mean())}


def losses(subject: Any, data: Bundle, role: Role) -> Losses:
    """The losses of a role's rows, in their order. Raises UserError for an empty or unknown role."""
    if not data[role]:
        raise UserError(f"role '{role}' is empty: a level of the problem needs rows")
    batch = subject.collate([subject.encode(row) for row in data[role]])
    drawn, weight = subject.draw(batch, rng(0, "levels", role)), next(subject.module.parameters())
    tensors = {n: t.to(weight.device, weight.dtype if t.is_floating_point() else t.dtype) for n, t in drawn.tensors.items()}
    return Losses(subject, Batch(drawn.ids, tensors))


def weights_of(subject: Any) -> dict[str, Tensor]:
    """The weights that train, cut from every graph."""
    return {n: p.detach().clone() for n, p in subject.module.named_parameters() if p.requires_grad}


@torch.no_grad()
def put(subject: Any, weights: Params) -> None:
    """Writes weights into the model."""
    named = dict(subject.module.named_parameters())
    for name, value in weights.items():
        named[name].copy_(value)


@contextmanager
def in_doubles(subject: Any) -> Iterator[None]:
    """The model in evaluation mode and double precision, in which lower levels are solved to the end; then as it was."""
    was_training, kinds = subject.call.training, {n: p.dtype for n, p in subject.module.state_dict().items()}
    subject.call.eval().double()
    try:
        yield
    finally:
        subject.call.train(was_training)
        for name, value in (*subject.module.named_parameters(), *subject.module.named_buffers()):
            value.data = value.data.to(kinds.get(name, value.dtype))


def watching(shown: dict[str, Losses]) -> Callable[[Params, Params], dict[str, float]]:
    """What an outer loop logs at each step: `<role>_loss` and `<role>_accuracy` of the inner parameters."""

    def watch(outer: Params, inner: Params) -> dict[str, float]:
        return {f"{role}_{what}": value for role, rows in shown.items() for what, value in rows.seen(inner).items()}

    return watch
