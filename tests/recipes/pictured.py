"""Folders of made pictures and a classifier's run over them, which tests of `amends audit` share; and the command itself."""

from __future__ import annotations

import csv
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from amends.cli.app import main
from amends.core.rng import stream_seed

CLASSES = ("cat", "dog", "ship")
EACH = 12


def command(*words: object) -> int:
    """The exit code of a command, through the console script's own function."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["amends", *map(str, words)])
        try:
            main()
        except SystemExit as stop:
            return int(stop.code or 0)
    return 0


def read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def read_yaml(path: Path) -> Any:
    import yaml

    return yaml.safe_load(path.read_text())


def lines(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as text:
        return list(csv.DictReader(text))


def picture(label: int, name: str, side: int = 8) -> np.ndarray:
    """Grey noise with a stripe whose place and colour are the class's."""
    draws = np.random.default_rng(stream_seed(0, "audit pictures", label, name))
    pixels = draws.integers(40, 90, (side, side, 3), dtype=np.uint8)
    pixels[2 * label : 2 * label + 2, :, label] = 160
    return pixels


def write(root: Path, each: int = EACH, names: tuple[str, ...] = CLASSES, side: int = 8) -> Path:
    """Made pictures in a folder for each class; the last of `cat` is a ship: the row that should be found."""
    for name in names:
        (root / name).mkdir(parents=True)
        for i in range(each):
            label = 2 if (name, i) == ("cat", EACH - 1) else CLASSES.index(name)
            Image.fromarray(picture(label, f"{root.name}{name}{i}", side)).save(root / name / f"{i:02d}.png")
    return root


@dataclass(frozen=True)
class World:
    """Folders of pictures, and the classifier that was trained on them, in the folder of its run."""

    home: Path
    data: Path
    test: Path
    triggered: Path
    model: Path
