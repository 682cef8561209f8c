"""Tiny-ImageNet (Stanford's CS231n): 200 classes of ImageNet, 64 x 64 in colour, 500 images each to learn from and 50 to test.

Read from the folder that its archive, tiny-imagenet-200.zip, unpacks to: `wnids.txt` (the classes' WordNet ids), `words.txt`
(their names), `train/WNID/images/*.JPEG`, and `val/images/*.JPEG` with their classes in `val/val_annotations.txt`. The
archive's own test images have no labels, so its validation images are tested on, as everywhere. Labels follow the sorted ids,
as in models that were trained on the folders. About 2 % of the images are grey and are read as colour.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated

from pydantic import Field

from amends.core.errors import UserError, nearest
from amends.core.spec import Count, spec
from amends.core.types import Sample
from amends.data.arrays import bundle_of, without_rows
from amends.data.bundle import Bundle
from amends.data.image_folder import decode, judge

UNPACKED = "tiny-imagenet-200"
ANNOTATIONS = "val/val_annotations.txt"
REMEDY = (
    f"unpack {UNPACKED}.zip (cs231n.stanford.edu/{UNPACKED}.zip) and set data.folder to it, or take a copy on the hub by "
    "`use: hub`"
)


@spec
class TinyImageNet:
    """Tiny-ImageNet's 110,000 images of 200 classes, from the folder that its archive unpacks to."""

    folder: Annotated[str, Field(min_length=1)] = f"~/.cache/amends/{UNPACKED}"
    """The folder with wnids.txt, train/ and val/, or the one above it."""
    classes: tuple[str, ...] = ()
    """Only these, by WordNet id or name; their labels follow the sorted ids all the same."""
    per_class: Count | None = None
    """Only the first so many training images of each class."""
    skip_broken: bool = False
    """Leave out images that cannot be decoded, and say so, instead of stopping."""

    def load(self, seed: int) -> Bundle:
        """Roles train and test; ids are paths in the folder. Raises UserError that names what is missing."""
        root = self._root()
        names = _names(root)
        chosen = self._chosen(names)
        broken: list[str] = []
        train = tuple(_read(root, self._train(root, chosen), broken))
        test = tuple(_read(root, _test(root, chosen), broken))
        notes = judge(root, broken, self.skip_broken)
        for split, rows in (("train", train), ("val", test)):
            if gone := without_rows(rows, chosen):
                raise UserError(f"{root / split}: has no image of class {gone}: unpack the archive again")
        return bundle_of(train, test, [names[wnid] for wnid in chosen], notes)

    def _root(self) -> Path:
        folder = Path(self.folder).expanduser()
        for root in (folder, folder / UNPACKED):
            if (root / "wnids.txt").is_file():
                return root
        raise UserError(f"{folder}: holds no wnids.txt, so it is not Tiny-ImageNet: {REMEDY}")

    def _chosen(self, names: dict[str, str]) -> list[str]:
        """WordNet ids in the order of their labels."""
        by_name = {name: wnid for wnid, name in names.items()}
        wanted = {by_name.get(name, name) for name in self.classes} or set(names)
        for wnid in sorted(wanted - set(names)):
            raise UserError(f"data.classes: Tiny-ImageNet has no class '{wnid}'{nearest(wnid, [*names, *by_name])}")
        return sorted(wanted)

    def _train(self, root: Path, chosen: list[str]) -> Iterator[tuple[Path, int]]:
        for label, wnid in enumerate(chosen):
            files = sorted((root / "train" / wnid / "images").glob("*.JPEG"), key=lambda file: (len(file.name), file.name))
            yield from ((file, label) for file in files[: self.per_class])


def _names(root: Path) -> dict[str, str]:
    """Each class's first name by its WordNet id; with the id behind it where two classes share a name."""
    wnids = sorted((root / "wnids.txt").read_text(encoding="utf-8").split())
    words = root / "words.txt"
    lines = words.read_text(encoding="utf-8").splitlines() if words.is_file() else []
    said = {wnid: name.split(",")[0].strip() for wnid, _, name in (line.partition("\t") for line in lines)}
    first = [said.get(wnid) or wnid for wnid in wnids]
    return {w: name if first.count(name) == 1 else f"{name} ({w})" for w, name in zip(wnids, first, strict=True)}


def _test(root: Path, chosen: list[str]) -> Iterator[tuple[Path, int]]:
    """The validation images, of which a file says the classes."""
    file = root / ANNOTATIONS
    if not file.is_file():
        raise UserError(f"{file}: is missing, and it says the classes of the test images: unpack the archive again")
    label = {wnid: i for i, wnid in enumerate(chosen)}
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1):
        name, _, rest = line.partition("\t")
        wnid = rest.partition("\t")[0]
        if not wnid or Path(name).name != name:
            raise UserError(f"{file}, line {number}: expected a file, a tab and a WordNet id, got {line[:60]!r}")
        if wnid in label:
            yield root / "val" / "images" / name, label[wnid]


def _read(root: Path, files: Iterable[tuple[Path, int]], broken: list[str]) -> Iterator[Sample]:
    for file, label in files:
        pixels, name = decode(file, 3, None), file.relative_to(root).as_posix()
        if pixels is None:
            broken.append(name)
        else:
            yield Sample(name, {"image": pixels, "label": label})
