"""Labelled images in one `.npz` file of NumPy: train and test images with their labels, and the names of the classes.

The arrays are called `train_images`, `train_labels`, `test_images`, `test_labels` and, if there, `classes`; Keras's
`x_train`, `y_train`, `x_test`, `y_test` are understood as well. A file without test rows has the first two, or `images` and
`labels`. Arrays of Python objects are refused: reading them would
run code from the file.
"""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Annotated

import numpy as np
from pydantic import Field

from amends.core.errors import UserError
from amends.core.spec import spec
from amends.data.arrays import bundle_of, rows_of_arrays
from amends.data.bundle import Bundle

LAYOUTS = (("train_images", "train_labels", "test_images", "test_labels"), ("x_train", "y_train", "x_test", "y_test"))
ALONE = (("train_images", "train_labels"), ("x_train", "y_train"), ("images", "labels"))
"""The arrays of a file that has no test rows."""


@spec
class Npz:
    """Labelled images in one .npz file: train_images, train_labels, test_images, test_labels and perhaps classes."""

    file: Annotated[str, Field(min_length=1)]
    """The file."""
    classes: tuple[str, ...] = ()
    """Names of the classes, where the file has none."""

    def load(self, seed: int) -> Bundle:
        """Roles train and test. Raises UserError that names what the file lacks."""
        path = Path(self.file).expanduser()
        arrays = read_npz(path)
        layout = next((names for names in LAYOUTS if set(names) <= set(arrays)), None)
        layout = layout or next((names for names in ALONE if set(arrays) - {"classes"} == set(names)), None)
        if layout is None:
            raise UserError(f"{path}: holds {', '.join(sorted(arrays)) or 'no arrays'}, and {', '.join(LAYOUTS[0])} are needed")
        parts = [
            rows_of_arrays(arrays[images], arrays[labels], split, f"{path} ({images})")
            for split, images, labels in zip(("train", "test"), layout[::2], layout[1::2], strict=False)
        ]
        train, test = (*parts, ())[:2]
        return bundle_of(train, test, self.classes or tuple(map(str, arrays.get("classes", ()))))


def read_npz(path: Path) -> dict[str, np.ndarray]:
    """Every array of a file, by name."""
    try:
        with np.load(path, allow_pickle=False) as file:
            if isinstance(file, np.ndarray):
                raise UserError(f"{path}: is a single array, and a .npz file of several is needed")
            return {name: file[name] for name in file.files}
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except (OSError, EOFError, zipfile.BadZipFile, ValueError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{path}: cannot be read as .npz ({str(error).splitlines()[0]})") from None
