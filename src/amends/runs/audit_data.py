"""Which source reads a path that a user gave: a folder of images, a Hugging Face data set, an .npz file, a recipe's data."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from amends.core.catalog import normal
from amends.core.errors import UserError
from amends.runs.recipe import read

DATA = "DATA"
"""What the command's own argument is called."""
TESTS = ("test", "val", "valid", "validation")
"""What folders and splits of test rows are called, in the order in which they are looked for."""


@dataclass(frozen=True)
class Reading:
    """How pictures are read, whatever they come from."""

    size: int | None = None
    channels: int | None = None
    skip_broken: bool = False

    def keys(self) -> dict[str, Any]:
        """As keys of a source, where something is said."""
        said = {"size": self.size, "channels": self.channels, "skip_broken": self.skip_broken}
        return {key: value for key, value in said.items() if value}


@dataclass(frozen=True)
class Found:
    """A source as plain values, and which roles its rows have beside `train`."""

    source: Mapping[str, Any]
    test: bool = False
    triggered: bool = False
    seed: int | None = None
    """The seed that a recipe draws its rows with."""


def find(path: Path, at: str, reading: Reading) -> Found:
    """The source of a path; raises UserError with the option or argument `at` for one that is none.

    Args:
        at: what the path was given as, `DATA` or `--test`.
    """
    where = path.expanduser()
    if not where.exists():
        if at == DATA and _on_hub(path):
            return Found({"use": "hub", "name": str(path), **reading.keys()}, test=True)
        raise UserError(f"{at} {path}: no such file or folder")
    where = where.resolve()
    if where.is_dir():
        return _folder(where, at, reading)
    if where.suffix == ".npz":
        if reading.size or reading.skip_broken:
            raise UserError(
                f"{at} {path}: --size and --skip-broken are for pictures in files, and arrays are taken as they are"
            )
        return Found({"use": "npz", "file": str(where)}, _npz_has_test(where))
    if where.suffix in (".yaml", ".yml"):
        return _of_recipe(where, at)
    raise UserError(
        f"{at} {path}: give a folder of images (a sub-folder for each class), a folder of a Hugging Face data set, an .npz "
        "file or a recipe (.yaml) whose data is meant"
    )


def _on_hub(path: Path) -> bool:
    """Whether this may be a name on the hub, `owner/name`, and no slip in a path: there is no folder called as the owner."""
    return len(path.parts) == 2 and path.parts[0] not in (".", "..", "~", "/") and not path.parent.is_dir()


def _folder(where: Path, at: str, reading: Reading) -> Found:
    if not any(where.iterdir()):
        raise UserError(f"{at} {where}: is an empty folder: put the images of each class into a sub-folder of its name")
    if (where / "dataset_dict.json").is_file() or (where / "state.json").is_file() or any(where.rglob("*.parquet")):
        return _hub(where, reading)
    keys = {"use": "image_folder", "empty": True, **reading.keys()}  # `joined` judges the training rows, and those alone
    inside = {f.name for f in where.iterdir() if f.is_dir()}
    test = next((name for name in TESTS if name in inside), None)
    if "train" not in inside or test is None:
        return Found({**keys, "folder": str(where), "test": 0})
    if test == "test" and inside == {"train", "test"}:
        return Found({**keys, "folder": str(where)}, test=True)
    tests = {**keys, "folder": str(where / test), "test": 0}
    return Found({"use": "joined", "of": {**keys, "folder": str(where / "train"), "test": 0}, "test": tests}, test=True)


def _hub(where: Path, reading: Reading) -> Found:
    """Its splits are named by a file where `save_to_disk` wrote it, else by the names of its parquet files."""
    keys = {"use": "hub", "name": str(where), **reading.keys()}
    if (where / "state.json").is_file():
        return Found({**keys, "test": None})
    if (where / "dataset_dict.json").is_file():
        try:
            splits = [str(name) for name in json.loads((where / "dataset_dict.json").read_text(encoding="utf-8"))["splits"]]
        except (OSError, ValueError, KeyError, TypeError):
            raise UserError(
                f"{where / 'dataset_dict.json'}: cannot be read: save the data set again with save_to_disk"
            ) from None
    else:
        names = " ".join(f.relative_to(where).as_posix().lower() for f in where.rglob("*.parquet"))
        splits = [name for name in ("train", *TESTS) if name in names]
    test = next((name for name in TESTS if name in splits), None)
    train = splits[0] if len(splits) == 1 and test is not None else "train"
    test = None if train == test else test
    return Found({**keys, "train": train, "test": test}, test=test is not None)


def _npz_has_test(where: Path) -> bool:
    from amends.data.npz import LAYOUTS, read_npz

    return any(set(layout) <= set(read_npz(where)) for layout in LAYOUTS)


def _of_recipe(where: Path, at: str) -> Found:
    """The rows of a recipe before they are split into what is forgotten and what stays."""
    tree = read(where)
    data, seeds = tree.get("data"), tree.get("seeds")
    while isinstance(data, Mapping) and normal(str(data.get("use"))) == "labelled":
        data = data.get("of")
    if isinstance(data, str):
        data = {"use": data}
    if not isinstance(data, Mapping) or "use" not in data:
        raise UserError(f"{at} {where}: has no key `data` with a `use:`, so there are no rows to audit")
    seed = seeds[0] if isinstance(seeds, list) and seeds and isinstance(seeds[0], int) else 0
    return Found(dict(data), test=True, triggered=normal(str(data["use"])) == "poison", seed=seed)
