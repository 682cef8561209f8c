"""Real handwritten digits that scikit-learn carries: 1,797 grey images of 8 x 8 pixels, ten classes, no download."""

from __future__ import annotations

from typing import Annotated, Any

import numpy as np
from pydantic import Field

from amends.core.spec import spec
from amends.data.arrays import bundle_of, rows_of_arrays
from amends.data.bundle import Bundle
from amends.data.splits import split_off


@spec
class Digits:
    """scikit-learn's 1,797 handwritten digits, 8 x 8 grey pixels: real images with no download."""

    test: Annotated[float, Field(gt=0, lt=1)] = 0.25
    """The share of rows that is tested on."""

    def load(self, seed: int) -> Bundle:
        """Roles train and test; the pixels' 0..16 become 0..255."""
        from sklearn.datasets import load_digits

        found: Any = load_digits()
        pixels = np.round(found.images * (255 / 16)).astype(np.uint8)
        rows = rows_of_arrays(pixels, found.target, "digit", "scikit-learn's digits")
        train, test = split_off(rows, self.test, seed, "test")
        return bundle_of(train, test)
