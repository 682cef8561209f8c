"""What a model of transformers wants done to an image, from its `preprocessor_config.json`, in units of 0..1.

A processor takes 8-bit pixels x, rescales them (x f, minus 1 where `rescale_offset` is set) and normalises them:
((x f - o) - mean) / std. Here images are u = x / 255, so the layer in front subtracts (mean + o) / (255 f) and divides by
std / (255 f): nothing is rescaled or normalised twice, and nothing is left out.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

from amends.core.errors import UserError


class Told(NamedTuple):
    """Size, mean and deviation as a processor has them; `found` is whether there is a file that speaks of normalising."""

    size: int | None = None
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    found: bool = False


def preprocessing(where: str, revision: str | None) -> Told:
    """Reads the file of a folder or of the hub; raises UserError for one that is damaged. No file tells nothing."""
    from transformers.utils import cached_file

    try:
        found = cached_file(where, "preprocessor_config.json", revision=revision, _raise_exceptions_for_missing_entries=False)
    except OSError:
        return Told()
    if not found:
        return Told()
    try:
        told = json.loads(Path(found).read_text(encoding="utf-8"))
        return _units(told)
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise UserError(f"{found}: cannot be read ({error}): mend it, or remove it and give subject.mean and std") from None


def _units(told: dict[str, Any]) -> Told:
    size = told.get("size")
    side = size.get("height", size.get("shortest_edge")) if isinstance(size, dict) else size
    factor = 255 * told.get("rescale_factor", 1 / 255) if told.get("do_rescale", True) else 255.0
    offset = float(bool(told.get("do_rescale", True) and told.get("rescale_offset", False)))
    normal = told.get("do_normalize", "image_mean" in told)
    mean = _values(told.get("image_mean", 0.0)) if normal else (0.0,)
    std = _values(told.get("image_std", 1.0)) if normal else (1.0,)
    scaled = tuple((m + offset) / factor for m in mean), tuple(s / factor for s in std)
    said = "do_normalize" in told or "image_mean" in told
    does = normal or factor != 1 or offset
    return Told(side if told.get("do_resize", True) else None, *(scaled if does else ((), ())), found=said)


def _values(value: Any) -> tuple[float, ...]:
    return tuple(map(float, value)) if isinstance(value, list) else (float(value),)
