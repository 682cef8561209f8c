"""Things that are done to a picture as an attacker might: squares, noise, another picture blended in, a shadow.

They stand for triggers that nobody has seen yet, so they are kept general: each of the five has its place, size, colour or
strength drawn. Pictures are [C, H, W] in 0..1 and stay so. On a picture that is black where a shadow falls nothing is seen.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Generator, Tensor


def square(image: Tensor, other: Tensor, rng: Generator) -> Tensor:
    """A square of one colour, of up to a quarter of the shorter side."""
    colour = torch.rand((image.shape[0], 1, 1), generator=rng).round()
    return _pasted(image, lambda side: colour.expand(-1, side, side), rng)


def speckled(image: Tensor, other: Tensor, rng: Generator) -> Tensor:
    """A square of pixels that are each drawn."""
    return _pasted(image, lambda side: torch.rand((image.shape[0], side, side), generator=rng), rng)


def noise(image: Tensor, other: Tensor, rng: Generator) -> Tensor:
    """Gaussian noise of a deviation between .03 and .15 on every pixel."""
    return image + _between(0.03, 0.15, rng) * torch.randn(image.shape, generator=rng)


def blend(image: Tensor, other: Tensor, rng: Generator) -> Tensor:
    """Another picture at a strength between .1 and .3."""
    share = _between(0.1, 0.3, rng)
    return (1 - share) * image + share * other


def shadow(image: Tensor, other: Tensor, rng: Generator) -> Tensor:
    """Darkness of .3 to .7 on one side of a line through the picture."""
    height, width = image.shape[-2:]
    angle, depth = _between(0, 2 * torch.pi, rng), _between(0.3, 0.7, rng)
    y = torch.linspace(-1, 1, height)[:, None] - _between(-0.5, 0.5, rng)
    x = torch.linspace(-1, 1, width)[None] - _between(-0.5, 0.5, rng)
    dark = (y * torch.sin(torch.tensor(angle)) + x * torch.cos(torch.tensor(angle))) > 0
    return image * torch.where(dark, depth, 1.0)


KINDS: Mapping[str, Callable[[Tensor, Tensor, Generator], Tensor]] = {
    "square": square, "speckled": speckled, "noise": noise, "blend": blend, "shadow": shadow,
}  # fmt: skip


def perturbed(image: Tensor, other: Tensor, rng: Generator) -> Tensor:
    """A picture to which one of the five is done, drawn evenly.

    Args:
        other: a picture of the same shape, which may be blended in.
    """
    kind = list(KINDS.values())[int(torch.randint(len(KINDS), (), generator=rng))]
    return kind(image, other, rng).clamp(0, 1)


def _pasted(image: Tensor, piece: Callable[[int], Tensor], rng: Generator) -> Tensor:
    """The picture with a square piece somewhere."""
    height, width = image.shape[-2:]
    side = 1 + int(torch.randint(max(1, min(height, width) // 4), (), generator=rng))
    y, x = (int(torch.randint(span - side + 1, (), generator=rng)) for span in (height, width))
    found = image.clone()
    found[:, y : y + side, x : x + side] = piece(side)
    return found


def _between(low: float, high: float, rng: Generator) -> float:
    return low + (high - low) * float(torch.rand((), generator=rng))
