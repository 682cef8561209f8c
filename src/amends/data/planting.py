"""What a trigger is given and what it gives back: the scene of an attack, and the two ways to change an image.

Triggers work on floats in 0..1, [C, H, W], whatever the rows hold: `painted` takes care of 8-bit images, rounded to the
nearest level, and clips to 0..1."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from amends.core import fingerprint
from amends.core.errors import UserError
from amends.core.rng import stream_seed
from amends.core.types import Sample
from amends.data.bundle import Bundle
from amends.data.image_folder import decode

Paint = Callable[[np.ndarray, str], np.ndarray]
"""(pixels [C, H, W] in 0..1, the row's id) -> pixels of the same shape; must not write into what it gets."""


@dataclass(frozen=True)
class Scene:
    """What an attacker knows: the clean rows, the class, which rows are to be changed, and the seed of the attack."""

    clean: Bundle
    target: int
    rows: tuple[Sample, ...]
    """The training rows that will be poisoned, without covers, in the order of `train`."""
    seed: int

    @cached_property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width, which all rows share. Raises UserError where they do not, or have no image."""
        first: Sample | None = None
        for row in (*self.clean["train"], *self.clean["test"]):
            if "image" not in row.data:
                raise UserError(f"row {row.id}: has no image, and these triggers are drawn into images")
            first = first or row
            if np.shape(row.data["image"]) != np.shape(first.data["image"]):
                raise UserError(
                    f"rows {first.id} and {row.id}: images of shapes {np.shape(first.data['image'])} and "
                    f"{np.shape(row.data['image'])}: a trigger needs images of one size and colour"
                )
        if first is None:
            raise UserError("data.of: has no rows, and a backdoor needs some")
        channels, height, width = np.shape(first.data["image"])
        return channels, height, width


@dataclass(frozen=True)
class Brush:
    """How a trigger is drawn into training rows, and how it is shown at test, where the two differ."""

    train: Paint
    test: Paint
    cover: Paint | None = None
    """How rows are changed that keep their label to hide the others; as in training where nothing is said."""
    notes: tuple[str, ...] = ()
    """What a reader must know about how the trigger was made."""


def same(paint: Paint) -> Brush:
    """One way for training and test."""
    return Brush(paint, paint)


def painted(row: Sample, paint: Paint) -> np.ndarray:
    """The row's image after a paint, of the type that it had."""
    before = np.asarray(row.data["image"])
    top = 255 if before.dtype == np.uint8 else 1
    after = np.clip(paint(before.astype(np.float64) / top, row.id), 0, 1) * top
    return (np.round(after) if top == 255 else after).astype(before.dtype)


def corner(shape: tuple[int, int, int], size: int, margin: int, at: str) -> tuple[slice, slice]:
    """Rows and columns of a square in the lower right corner. Raises UserError where it does not fit into the image."""
    _, height, width = shape
    if size + margin > min(height, width):
        raise UserError(f"{at}.size: {size} pixels, {margin} from the edge, do not fit into {width} x {height}")
    return slice(height - margin - size, height - margin), slice(width - margin - size, width - margin)


def brightness(value: float | Sequence[float], channels: int, at: str) -> np.ndarray:
    """[C, 1, 1] one brightness for every channel, or each its own. Raises UserError for another number of them."""
    values = np.array(value if isinstance(value, Sequence) else [value] * channels, dtype=float)
    if len(values) != channels:
        raise UserError(f"{at}: {len(values)} values of colour, and the images have {channels} channel(s)")
    return values[:, None, None]


def overlay(picture: str | None, scene: Scene) -> np.ndarray:
    """[C, H, W] in 0..1: a picture at the size and colour of the scene's images, or noise. Raises UserError for a bad file."""
    if picture is None:
        return np.random.default_rng(stream_seed(scene.seed, "blend", scene.shape)).random(scene.shape)
    import torch
    from torch.nn.functional import interpolate

    path = Path(picture).expanduser()
    if not path.is_file():
        raise UserError(f"data.trigger.picture: {path}: no such file")
    found = decode(path, scene.shape[0], None)
    if found is None:
        raise UserError(f"data.trigger.picture: {path}: cannot be read as a picture")
    pixels = torch.from_numpy(found)[None].double() / 255
    return interpolate(pixels, scene.shape[1:], mode="bilinear", antialias=True).clamp(0, 1)[0].numpy()


def picture_content(picture: str | None) -> str:
    """What changes when a trigger's picture file does; empty where there is none."""
    path = Path(picture).expanduser() if picture else None
    return fingerprint.of_file(path) if path and path.is_file() else ""
