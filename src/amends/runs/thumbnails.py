"""Small pictures of rows for the report: images as lines of colours, shrunk to at most so many pixels a side."""

from __future__ import annotations

from typing import Any

import numpy as np

from amends.subjects.images import pixels

SIDE = 16
"""Most pixels a side, unless it is said."""


def thumbnail(image: Any, side: int = SIDE) -> list[str]:
    """One text a line of the image, six hexadecimal digits a pixel; blocks of a larger image are averaged.

    >>> thumbnail(np.array([[[0, 255]]], dtype=np.uint8))
    ['000000ffffff']
    """
    found = pixels(image)
    values_CHW = found.double().numpy() / (255 if found.dtype.is_floating_point is False else 1)
    _, height, width = values_CHW.shape
    rows, columns = (np.array_split(np.arange(n), min(n, side)) for n in (height, width))
    small_CHW = np.array([[[c[np.ix_(r, k)].mean() for k in columns] for r in rows] for c in values_CHW])
    bytes_CHW = np.clip(np.round(255 * small_CHW), 0, 255).astype(int)
    colours_HWC = (np.repeat(bytes_CHW, 3, 0) if len(bytes_CHW) == 1 else bytes_CHW[:3]).transpose(1, 2, 0)
    return ["".join("".join(f"{v:02x}" for v in pixel) for pixel in line) for line in colours_HWC.tolist()]
