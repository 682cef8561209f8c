"""A mask over a model's weights as a value: one bit a weight, with the counts that a reader wants, and its file."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from amends.core.errors import UserError, nearest
from amends.core.protocols import Params
from amends.engine import checkpoint

_SHIFTS = torch.arange(8, dtype=torch.uint8)


@dataclass(frozen=True)
class Mask:
    """Which weights may be trained."""

    bits: Mapping[str, Tensor]
    """By a parameter's name, eight weights a byte, the first in the lowest bit; 1 may be trained."""
    shapes: Mapping[str, tuple[int, ...]]
    """The parameters' shapes."""
    table: Mapping[str, Any]
    """What `mask.json` says: counts of each parameter and of all."""

    @staticmethod
    def of(chosen: Mapping[str, Tensor], by: str) -> Mask:
        """A mask from booleans of the parameters' shapes, True for what may be trained."""
        rows = [
            {"name": n, "size": c.numel(), "kept": int(c.count_nonzero()), "live": int(c.count_nonzero()), "live_frozen": 0}
            for n, c in chosen.items()
        ]
        total = {key: sum(row[key] for row in rows) for key in ("size", "kept", "live", "live_frozen")}
        keep = total["kept"] / max(1, total["size"])
        table = {"schema": 1, "keep": keep, "rank": "global", "by": by, "total": total, "parameters": rows}
        return Mask({n: packed(c) for n, c in chosen.items()}, {n: tuple(c.shape) for n, c in chosen.items()}, table)

    @staticmethod
    def load(path: Path) -> tuple[Mask, str]:
        """A saved mask and the key it was saved under; raises UserError for a file that is none."""
        try:
            bits, state = checkpoint.load(path)
            return Mask(bits, {n: tuple(s) for n, s in state["shapes"].items()}, state["table"]), state["key"]
        except FileNotFoundError:
            raise UserError(f"{path}: no such mask file") from None
        except Exception as error:  # safetensors has an error type of its own
            raise UserError(f"{path}: not the mask.safetensors that a weight_mask wrote ({error})") from None

    def save(self, folder: Path, key: str) -> None:
        """Writes `mask.safetensors` and, for readers, `mask.json`."""
        checkpoint.save(folder / "mask.safetensors", self.bits, shapes=self.shapes, table=self.table, key=key)
        temporary = folder / "mask.tmp"
        temporary.write_text(json.dumps(self.table, indent=1) + "\n", encoding="utf-8")
        temporary.replace(folder / "mask.json")

    def check(self, params: Params, path: Path, *, whole: bool = True) -> None:
        """Raises UserError unless the mask is one for these parameters: it has each that is trained, and no other.

        With `whole=False` only what it freezes has to be there: another layer may have come to the model, or gone.
        """
        frozen = {row["name"] for row in self.table["parameters"] if row["kept"] < row["size"]} if not whole else set()
        for name, p in params.items():
            if whole and name not in self.bits and p.requires_grad:
                raise UserError(
                    f"{path}: the mask is for another model: it has no weight {name!r}{nearest(name, self.bits)[:200]}"
                )
        for name, shape in self.shapes.items():
            if not whole and name not in frozen:
                continue
            if name not in params:
                raise UserError(f"{path}: the mask is for another model, which has a weight {name!r}")
            if shape != tuple(params[name].shape):
                has = tuple(params[name].shape)
                raise UserError(f"{path}: the mask is for another model: its {name} has the shape {shape}, this model's {has}")

    def frozen(self, name: str, device: torch.device) -> Tensor:
        """Which weights of a parameter stay as they are, as booleans of its shape."""
        return ~unpacked(self.bits[name].to(device), self.shapes[name])

    def sentence(self) -> str:
        """How many weights are frozen, and how many of those mattered."""
        total, still = self.table["total"], self.table["total"]["size"] - self.table["total"]["kept"]
        share = total["live_frozen"] / max(1, total["live"])
        return (
            f"weight mask by {self.table['by']}: freezes {still:,} of {total['size']:,} weights; {total['live_frozen']:,} of "
            f"them are live (their score is not 0), {share:.2%} of all live weights"
        )


def packed(mask: Tensor) -> Tensor:
    """Booleans as bytes, eight a byte, the first in the lowest bit.

    >>> packed(torch.tensor([True, True, False, False, False, False, False, False, True])).tolist()
    [3, 1]
    """
    flat = torch.nn.functional.pad(mask.reshape(-1).to(torch.uint8), (0, -mask.numel() % 8)).view(-1, 8)
    return (flat << _SHIFTS.to(mask.device)).sum(1, dtype=torch.uint8)


def unpacked(bits: Tensor, shape: tuple[int, ...]) -> Tensor:
    """The inverse of `packed`."""
    return ((bits[:, None] >> _SHIFTS.to(bits.device)) & 1).bool().view(-1)[: math.prod(shape)].view(shape)
