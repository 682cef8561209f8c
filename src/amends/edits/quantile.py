"""The largest share of a model's scores, without sorting them and without holding them in full.

A 7B model has 7e9 scores; to put them in one tensor and sort it twice takes 16 bytes a weight and more. Here a score is
kept in 16 bits: the upper ones of its size as a float32 (8 bits of exponent, 8 of mantissa), whose order is that of the
numbers, and which tell apart what differs by 0.4 per cent. A histogram over these codes, filled tensor by tensor, gives
the code at which the wanted number is reached. What is above it is chosen, what is below it is not, and of the ties at it
as many as are still wanted, spread evenly over the model: so the number chosen is exact, whatever the scores are. Scores
of 0 have a code of their own, the lowest.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Literal, NamedTuple

import torch
from torch import Tensor

CODES = 1 << 16
_ZERO = -(1 << 15)
"""Codes are stored as int16, which every device compares; this one is the lowest."""
_NOT_FINITE = 0x7F800000 >> 15
_PIECE = 1 << 20
"""How many scores are looked at together: bounds what is needed beside the codes."""


class Cut(NamedTuple):
    """Everything above `code` is chosen, and `wanted` of the `tied` scores at it."""

    code: int
    wanted: int
    tied: int


def pack(score: Tensor) -> Tensor:
    """A score's size in 16 bits, flat; a smaller size never has the higher code, and only 0 has that of 0.

    >>> pack(torch.tensor([0.0, -1.0, 2.0])).tolist()
    [-32768, -256, 0]
    """
    codes = torch.empty(score.numel(), dtype=torch.int16, device=score.device)
    for code, piece in zip(codes.split(_PIECE), score.reshape(-1).split(_PIECE), strict=True):
        bits = piece.to(torch.float32, copy=True).abs_().view(torch.int32)
        code.copy_(torch.maximum(bits >> 15, bits > 0) + _ZERO)
    return codes


def live(codes: Tensor) -> Tensor:
    """Which scores are not 0."""
    return codes > _ZERO


def finite(codes: Tensor) -> bool:
    """Whether no score was infinite or not a number."""
    return not bool((codes >= _NOT_FINITE + _ZERO).any())


def tally(codes: Tensor) -> Tensor:
    """How often each code occurs, [CODES], on the CPU."""
    total = torch.zeros(CODES, dtype=torch.int64, device=codes.device)
    for piece in codes.split(_PIECE):
        total += torch.bincount(piece.long() - _ZERO, minlength=CODES)
    return total.cpu()


def largest(place: int) -> float:
    """The largest size that a score has whose code is the `place`-th, counted from 0.

    >>> largest(0), round(largest(int(pack(torch.tensor([1.0]))) - int(pack(torch.tensor([0.0])))), 3)
    (0.0, 1.004)
    """
    bits = ((place + 1) << 15) - 1 if place else 0
    return float(torch.tensor(bits, dtype=torch.int32).view(torch.float32))


def cut(counts: Tensor, keep: float) -> Cut:
    """Where the largest `keep` of the counted scores begin."""
    wanted = round(keep * int(counts.sum()))
    from_top = counts.flip(0).cumsum(0)
    index = int(torch.searchsorted(from_top, wanted).clamp_(max=CODES - 1))
    code = CODES - 1 - index
    tied = int(counts[code])
    return Cut(code + _ZERO, wanted - int(from_top[index]) + tied, tied)


def chosen(packed: Mapping[str, Tensor], keep: float, rank: Literal["global", "tensor"]) -> Iterator[tuple[str, Tensor]]:
    """(name, mask) of each tensor, flat: True for the largest `keep` of all scores, or of each tensor's own."""
    for names in [list(packed)] if rank == "global" else [[name] for name in packed]:
        at = cut(sum((tally(packed[name]) for name in names), torch.zeros(CODES, dtype=torch.int64)), keep)
        seen = 0
        for name in names:
            mask, seen = _above(packed[name], at, seen)
            yield name, mask


def _above(codes: Tensor, at: Cut, seen: int) -> tuple[Tensor, int]:
    """The mask of one tensor, and how many ties there were up to its end."""
    mask = torch.empty(codes.shape, dtype=torch.bool, device=codes.device)
    for out, piece in zip(mask.split(_PIECE), codes.split(_PIECE), strict=True):
        torch.gt(piece, at.code, out=out)
        ties = (piece == at.code).nonzero()[:, 0]
        if at.wanted and len(ties):
            number = torch.arange(seen, seen + len(ties), device=ties.device)
            out[ties] = (number + 1) * at.wanted // at.tied > number * at.wanted // at.tied
        seen += len(ties)
    return mask, seen
