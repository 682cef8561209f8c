"""Your own images: a folder with a sub-folder for each class, `train/` and `test/` above them where the split is yours.

An image that cannot be decoded is an error that names the first ones and counts all; `skip_broken` leaves them out and
says so in the notes of every report. Labels follow the sub-folders' names in alphabetical order unless `classes` orders
them, as a model that was trained elsewhere may need.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field

from amends.core.errors import UserError, nearest
from amends.core.spec import Count, Fraction, spec
from amends.core.types import Sample
from amends.data.arrays import bundle_of, without_rows
from amends.data.bundle import Bundle
from amends.data.splits import split_off

ENDINGS = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm")
SPLITS = ("train", "test")


@spec
class ImageFolder:
    """Your own images: FOLDER/CLASS/*.png, or FOLDER/train/CLASS and FOLDER/test/CLASS."""

    folder: Annotated[str, Field(min_length=1)]
    """The folder."""
    size: Count | None = None
    """Scale every image to this many pixels a side; without it all must have one size."""
    channels: Literal[1, 3] = 3
    """Grey or colour."""
    test: Fraction = 0.2
    """The share that is tested on, where the folder has no train/ and test/; 0 for none."""
    classes: tuple[str, ...] = ()
    """The sub-folders in the order of their labels; alphabetical by default."""
    skip_broken: bool = False
    """Leave out images that cannot be decoded, and say so, instead of stopping."""
    empty: bool = False
    """Whether a class may have no images to learn from."""

    def load(self, seed: int) -> Bundle:
        """Roles train and test; ids are paths in the folder."""
        root = Path(self.folder).expanduser()
        if not root.is_dir():
            raise UserError(f"{root}: no such folder of images")
        divided = all((root / split).is_dir() for split in SPLITS)
        classes = self._classes(root, divided)
        broken: list[str] = []
        tops = {split: self._read(root, root / split if divided else root, classes, broken) for split in SPLITS[: 1 + divided]}
        notes = judge(root, broken, self.skip_broken)
        self._one_size(root, [row for rows in tops.values() for row in rows])
        self._none_empty(root / "train" if divided else root, tops["train"], classes)
        whole = divided or not self.test
        train, test = (tops["train"], tops.get("test", ())) if whole else split_off(tops["train"], self.test, seed, "test")
        return bundle_of(train, test, classes, notes)

    def _classes(self, root: Path, divided: bool) -> tuple[str, ...]:
        tops = [root / split for split in SPLITS] if divided else [root]
        there = sorted({f.name for top in tops for f in top.iterdir() if f.is_dir() and not f.name.startswith(".")})
        if not there:
            alone = next(_images(root), None)
            what = (
                f"holds images ({alone.name}) without labels and no sub-folders"
                if alone
                else "holds no images and no sub-folders"
            )
            raise UserError(f"{root}: {what}: put the images of each class into a sub-folder of its name")
        for name in self.classes:
            if name not in there:
                raise UserError(f"data.classes: {root} has no sub-folder '{name}'{nearest(name, there)}")
        missing = [name for name in there if self.classes and name not in self.classes]
        if missing:
            raise UserError(f"data.classes: leaves out the sub-folder '{missing[0]}' of {root}: name every class, in order")
        return self.classes or tuple(there)

    def _read(self, root: Path, top: Path, classes: Sequence[str], broken: list[str]) -> tuple[Sample, ...]:
        rows = []
        for label, name in enumerate(classes):
            for file in _images(top / name):
                pixels = decode(file, self.channels, self.size)
                if pixels is None:
                    broken.append(file.relative_to(root).as_posix())
                else:
                    rows.append(Sample(file.relative_to(root).as_posix(), {"image": pixels, "label": label}))
        return tuple(rows)

    def _none_empty(self, top: Path, rows: Sequence[Sample], classes: Sequence[str]) -> None:
        gone = without_rows(rows, classes)
        if gone and not self.empty:
            raise UserError(
                f"{top}: no image to learn from is of the class {gone}: give it some, remove its sub-folder, or set "
                "empty: true of the data's source if that is meant"
            )

    @staticmethod
    def _one_size(root: Path, rows: Sequence[Sample]) -> None:
        if not rows:
            raise UserError(f"{root}: holds no images ({', '.join(ENDINGS)})")
        first = rows[0]
        other = next((r for r in rows if r.data["image"].shape != first.data["image"].shape), None)
        if other is not None:
            (h, w), (a, b) = first.data["image"].shape[1:], other.data["image"].shape[1:]
            many = len({row.data["image"].shape for row in rows})
            raise UserError(
                f"{root}: its images have {many} sizes: {first.id} has {w} x {h} pixels and {other.id} {b} x {a}: set "
                "data.size to scale them all to one (amends audit: --size)"
            )


def judge(where: Any, broken: Sequence[str], skip: bool) -> list[str]:
    """The note on images that could not be decoded; raises UserError that names and counts them unless they may be skipped."""
    if not broken:
        return []
    said = f"{len(broken)} image(s) could not be decoded ({', '.join(broken[:3])}{', ...' if len(broken) > 3 else ''})"
    if not skip:
        raise UserError(f"{where}: {said}: mend or remove them, or set skip_broken: true of the data's source")
    return [f"{said} and were left out"]


def _images(folder: Path) -> Iterator[Path]:
    yield from (f for f in sorted(folder.rglob("*")) if f.suffix.lower() in ENDINGS and f.is_file())


def decode(file: Any, channels: int, size: int | None) -> np.ndarray | None:
    """A picture (a path, a stream) as [C, H, W] 8-bit; None where it cannot be decoded."""
    try:
        from PIL import Image
    except ImportError:
        raise UserError("reading pictures needs Pillow: pip install pillow") from None
    try:
        with Image.open(file) as picture:
            return pixels_of(picture, channels, size)
    except (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError):
        return None  # Pillow's decoders each have errors of their own


def pixels_of(picture: Any, channels: int, size: int | None) -> np.ndarray:
    """An opened picture as [C, H, W] 8-bit."""
    plain = picture.convert("L" if channels == 1 else "RGB")
    if size is not None:
        from PIL import Image

        plain = plain.resize((size, size), Image.Resampling.BILINEAR)
    pixels = np.array(plain, dtype=np.uint8)
    return np.ascontiguousarray(pixels[None] if channels == 1 else pixels.transpose(2, 0, 1))
