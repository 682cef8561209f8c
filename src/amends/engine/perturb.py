"""Changes of images within a box, and the steps that make a model's loss larger: what attacks and robust training share.

A change delta of an image x keeps |delta| <= eps in every pixel and x + delta in 0..1. The loss is a row's own negative
log-likelihood, so that what is done to a row does not depend on how many others are in its batch.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from amends.core.errors import UserError
from amends.core.types import Batch, Likelihood


class Box(NamedTuple):
    """The smallest and largest change of each pixel."""

    low: Tensor
    high: Tensor

    @staticmethod
    def around(image: Tensor, eps: float) -> Box:
        """Within eps of an image, and within 0..1."""
        return Box((-image).clamp(min=-eps), (1 - image).clamp(max=eps))

    def project(self, delta: Tensor) -> Tensor:
        """The nearest change inside."""
        return torch.minimum(torch.maximum(delta, self.low), self.high)

    def inside(self, delta: Tensor) -> Tensor:
        """Which pixels are strictly inside, where the projection has the derivative 1; on the edge it is 0."""
        return (delta > self.low) & (delta < self.high)


def image_of(batch: Batch) -> Tensor:
    """The images of a batch; raises UserError for rows that are none."""
    if "image" not in batch.tensors:
        raise UserError("these rows have no image, and only pixels can be changed a little: use a classifier of images")
    return batch["image"]


def seen(subject: Any, batch: Batch, delta: Tensor) -> Likelihood:
    """The likelihood of the rows with their images changed."""
    return subject.likelihood(replace(batch, tensors={**batch.tensors, "image": image_of(batch) + delta}))


def slope(subject: Any, batch: Batch, delta: Tensor, *, graph: bool = False) -> Tensor:
    """The gradient of each row's own loss in its change; `graph` for one to be differentiated in the weights."""
    at = delta.detach().requires_grad_()
    with torch.enable_grad():
        loss = seen(subject, batch, at).nll_B.sum()
        (found,) = torch.autograd.grad(loss, [at], create_graph=graph)
    return found


def climbed(subject: Any, batch: Batch, delta: Tensor, box: Box, lr: float, steps: int) -> Tensor:
    """Projected steps along the gradient's sign, each of `lr` a pixel."""
    for _ in range(steps):
        delta = box.project(delta + lr * slope(subject, batch, delta).sign()).detach()
    return delta


@contextmanager
def looking(subject: Any) -> Iterator[None]:
    """The model in evaluation mode: an attack is no row that running statistics should know."""
    was_training = subject.call.training
    subject.call.eval()
    try:
        yield
    finally:
        subject.call.train(was_training)


class Started:
    """A subject whose training batches carry where an attack starts: `start` in -1..1, drawn with the step's other choices."""

    stochastic = True

    def __init__(self, subject: Any) -> None:
        object.__setattr__(self, "_subject", subject)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._subject, name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._subject, name, value)

    def draw(self, batch: Batch, rng: torch.Generator) -> Batch:
        """What the subject draws, and the start."""
        drawn, image = self._subject.draw(batch, rng), image_of(batch)
        start = 2 * torch.rand(image.shape, generator=rng) - 1
        return replace(drawn, tensors={**drawn.tensors, "start": start.to(image)})
