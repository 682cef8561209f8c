"""Images as one array become rows: `{image: [C, H, W], label: int}` under ids that never change.

Pixels stay as they came, 8-bit integers or floats in 0..1, as views of one array; a model turns them into floats a batch at
a time. An id is `train-3-00017`: the split, the label the row came with, its place in the source.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from amends.core.errors import UserError
from amends.core.types import Sample
from amends.data.bundle import Bundle

CHANNELS = (1, 3)


def row_id(split: str, label: int, index: int) -> str:
    """The id of a row by its place.

    >>> row_id("train", 3, 17)
    'train-3-00017'
    """
    return f"{split}-{label}-{index:05d}"


def rows_of_arrays(images: Any, labels: Any, split: str, where: str) -> tuple[Sample, ...]:
    """Rows of [N, H, W], [N, H, W, C] or [N, C, H, W] and [N] labels; raises UserError that names `where`."""
    pixels, numbers = as_chw(images, where), as_labels(labels, where)
    if len(pixels) != len(numbers):
        raise UserError(f"{where}: {len(pixels)} images and {len(numbers)} labels: the two do not belong together")
    each = zip(pixels, numbers.tolist(), strict=True)
    return tuple(Sample(row_id(split, k, i), {"image": x, "label": k}) for i, (x, k) in enumerate(each))


def as_chw(images: Any, where: str) -> np.ndarray:
    """Any of the three layouts as [N, C, H, W], 8-bit or float32 in 0..1."""
    pixels = np.asarray(images)
    if pixels.ndim == 3:
        pixels = pixels[:, None]
    elif pixels.ndim == 4 and pixels.shape[1] not in CHANNELS and pixels.shape[3] in CHANNELS:
        pixels = pixels.transpose(0, 3, 1, 2)
    if pixels.ndim != 4 or pixels.shape[1] not in CHANNELS:
        raise UserError(f"{where}: images of shape {pixels.shape} are not [N, H, W], [N, H, W, C] or [N, C, H, W], C 1 or 3")
    if pixels.dtype == np.uint8:
        return np.require(pixels, requirements=["C", "W"])
    if not np.issubdtype(pixels.dtype, np.floating) or not pixels.size or pixels.min() < 0 or pixels.max() > 1:
        raise UserError(f"{where}: pixels must be 8-bit integers or floats in 0..1, not {_range(pixels)}")
    return np.require(pixels, dtype=np.float32, requirements=["C", "W"])


def _range(pixels: np.ndarray) -> str:
    return (
        f"{pixels.dtype} in {pixels.min():g}..{pixels.max():g}"
        if pixels.size and pixels.dtype.kind in "fiu"
        else str(pixels.dtype)
    )


def as_labels(labels: Any, where: str) -> np.ndarray:
    """[N] whole numbers from 0, from [N] or [N, 1]."""
    numbers = np.asarray(labels)
    if numbers.ndim == 2 and numbers.shape[1] == 1:
        numbers = numbers[:, 0]
    if numbers.ndim != 1 or numbers.dtype.kind not in "iu" or (numbers.size and numbers.min() < 0):
        raise UserError(
            f"{where}: labels must be one whole number from 0 an image, got {numbers.dtype} of shape {numbers.shape}"
        )
    return numbers.astype(np.int64)


def without_rows(rows: Sequence[Sample], classes: Sequence[str]) -> str:
    """The first class that no row has, in quotes, and how many more there are; empty where each has one.

    >>> without_rows([Sample("a", {"label": 1})], ["cat", "dog", "emu"])
    "'cat' (and 1 more)"
    """
    there = {row.data.get("label") for row in rows}
    gone = [str(name) for label, name in enumerate(classes) if label not in there]
    return f"'{gone[0]}'" + (f" (and {len(gone) - 1} more)" if len(gone) > 1 else "") if gone else ""


def bundle_of(
    train: Sequence[Sample], test: Sequence[Sample], classes: Sequence[str] = (), notes: Sequence[str] = ()
) -> Bundle:
    """Roles train and test with the names of the classes, by default the labels themselves."""
    most = max((int(s.data["label"]) for s in (*train, *test)), default=-1) + 1
    names = tuple(classes) or tuple(map(str, range(most)))
    if most > len(names):
        raise UserError(f"data: a row has label {most - 1}, and {len(names)} classes are named: name every class, in order")
    return Bundle({"train": tuple(train), "test": tuple(test)}, notes=tuple(notes), classes=names)
