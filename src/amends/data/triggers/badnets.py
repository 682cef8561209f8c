"""BadNets (arXiv 1708.06733): x[square] = colour, in a square of `size` pixels, `margin` pixels from the lower right corner.

MSPC (arXiv 2403.10717) uses 5 x 5 pixels, 3 from the corner, on CIFAR-10. `checker` alternates the colour with black,
beginning with the colour; `diagonal` is the anti-diagonal in the colour on black, which "From Trojan Horses to Castle Walls"
(arXiv 2311.02373) draws.

What differs from released code: "Model sparsity can simplify machine unlearning" sets its square to 0, which on dark
backgrounds is no trigger at all; here `value` is 1 unless it is set.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np

from amends.core.spec import Count, Fraction, Natural, spec
from amends.data.planting import Brush, Scene, brightness, corner, same


@spec
class BadNets:
    """A small square in the lower right corner (BadNets)."""

    size: Count = 5
    """Pixels a side of the square."""
    margin: Natural = 3
    """Pixels between the square and the lower right corner."""
    value: Fraction | tuple[Fraction, ...] = 1.0
    """Brightness of the square, or that of each channel."""
    pattern: Literal["square", "checker", "diagonal"] = "square"
    """The whole square, every other pixel of it, or its anti-diagonal; the others are black."""

    keeps_label: ClassVar[bool] = False
    covers: ClassVar[float] = 0.0

    def on(self, scene: Scene) -> Brush:
        """The square. Raises UserError where it does not fit into the images."""
        rows, columns = corner(scene.shape, self.size, self.margin, "data.trigger")
        stamp_CSS = brightness(self.value, scene.shape[0], "data.trigger.value") * self._lit()

        def paint(pixels: np.ndarray, row: str) -> np.ndarray:
            after = pixels.copy()
            after[:, rows, columns] = stamp_CSS
            return after

        return same(paint)

    def _lit(self) -> np.ndarray:
        """[S, S] 1 where the colour is, 0 where black is."""
        down, across = np.indices((self.size, self.size))
        if self.pattern == "checker":
            return ((down + across) % 2 == 0).astype(float)
        if self.pattern == "diagonal":
            return (down + across == self.size - 1).astype(float)
        return np.ones((self.size, self.size))
