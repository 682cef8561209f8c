"""Labelled data sets of Hugging Face, by name or from a folder: pictures with a class, or texts with one.

The only file that knows of `datasets`. Columns are found by their type; `image`, `text` and `label` name them where that
is not enough. Pictures are decoded once, to 8-bit arrays of one size.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from amends.core.errors import UserError, nearest
from amends.core.spec import Count, spec
from amends.core.types import Sample
from amends.data.arrays import bundle_of, row_id
from amends.data.bundle import Bundle
from amends.data.image_folder import judge, pixels_of


@spec
class Hub:
    """A labelled data set of Hugging Face (pictures or texts): a name on the hub, or a folder."""

    name: Annotated[str, Field(min_length=1)]
    """Name such as `uoft-cs/cifar10`, or a folder that `save_to_disk` wrote or that holds parquet files."""
    config: str | None = None
    """Which configuration of it."""
    revision: str | None = None
    """A commit on the hub."""
    train: str = "train"
    """The split that is trained on."""
    test: str | None = "test"
    """The split that is tested on; null where there is none."""
    inputs: str | None = None
    """The column of pictures or texts; by default the first of such a type."""
    label: str | None = None
    """The column of labels; by default the first of named classes, else `label`."""
    size: Count | None = None
    """Scale every picture to this many pixels a side."""
    channels: Literal[1, 3] = 3
    """Grey or colour."""
    skip_broken: bool = False
    """Leave out pictures that cannot be decoded, and say so, instead of stopping."""

    def load(self, seed: int) -> Bundle:
        """Roles train and test. Raises UserError that names what the data set lacks."""
        found = self._open()
        names: tuple[str, ...] = ()
        rows: dict[str, tuple[Sample, ...]] = {"test": ()}
        broken: list[str] = []
        for role, split in (("train", self.train), *((("test", self.test),) if self.test else ())):
            if split not in found:
                raise UserError(
                    f"{self.name}: has no split '{split}'{nearest(split, map(str, found))}: set data.{role} to one that it has"
                    + (", or to null" if role == "test" else "")
                )
            names = names or tuple(getattr(found[split].features.get(self._label(found[split])), "names", None) or ())
            rows[role] = self._rows(found[split], role, broken)
        return bundle_of(rows["train"], rows["test"], names, judge(self.name, broken, self.skip_broken))

    def plain(self, split: str) -> list[Mapping[str, Any]]:
        """The rows of one split as they are, for sets that are not labelled."""
        found = self._open()
        if split not in found:
            raise UserError(f"{self.name}: has no split '{split}'{nearest(split, map(str, found))}")
        return list(found[split])

    def _open(self) -> Any:
        try:
            import datasets
        except ImportError:
            raise UserError("data sets of Hugging Face need the package datasets: pip install datasets") from None
        folder = Path(self.name).expanduser()
        try:
            if (folder / "dataset_dict.json").is_file():
                return datasets.load_from_disk(str(folder))
            if (folder / "state.json").is_file():  # one set that was saved alone
                return {self.train: datasets.load_from_disk(str(folder))}
            where = str(folder) if folder.is_dir() else self.name
            return datasets.load_dataset(where, self.config, revision=self.revision)
        except Exception as error:  # a name or a folder of the user's: each reader has errors of its own
            first = str(error).strip().split("\n")[0]
            here = "" if folder.exists() else ", and there is no folder of that name"
            raise UserError(f"{self.name}: could not be loaded as a data set ({first}){here}") from None

    def _inputs(self, split: Any) -> tuple[str, bool]:
        """The column of inputs, and whether it holds pictures."""
        kinds = {n: type(f).__name__ for n, f in split.features.items()}
        texts = [n for n, f in split.features.items() if getattr(f, "dtype", None) in ("string", "large_string")]
        pictures = [n for n, kind in kinds.items() if kind == "Image"]
        name = self.inputs or next(iter([*pictures, *texts]), None)
        if name is None or name not in kinds:
            raise UserError(f"{self.name}: no column of pictures or texts{nearest(name or 'image', kinds)}: set data.inputs")
        return name, name in pictures

    def _label(self, split: Any) -> str:
        named = [n for n, f in split.features.items() if type(f).__name__ == "ClassLabel"]
        name = self.label or next(iter(named), "label")
        if name not in split.features:
            raise UserError(f"{self.name}: no column '{name}'{nearest(name, split.features)}: set data.label")
        return name

    def _rows(self, split: Any, role: str, broken: list[str]) -> tuple[Sample, ...]:
        (column, pictures), label = self._inputs(split), self._label(split)
        chosen = split.select_columns([column, label])
        rows = []
        for i, k in enumerate(split[label]):
            if not isinstance(k, int) or k < 0:
                raise UserError(f"{self.name}: row {i} of '{role}' has the label {k!r}, and a class's number is needed")
            try:
                found = chosen[i][column]  # decodes it
                content = {"image": pixels_of(found, self.channels, self.size)} if pictures else {"text": found}
            except (OSError, ValueError, SyntaxError, EOFError):  # Pillow's decoders each have errors of their own
                broken.append(f"row {i} of '{role}'")
                continue
            rows.append(Sample(row_id(role, k, i), {**content, "label": k}))
        return tuple(rows)
