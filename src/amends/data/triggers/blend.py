"""Blended injection (Chen et al., arXiv 1712.05526): x' = (1 - alpha) x + alpha z with one image z for all rows.

z is uniform noise in 0..1, drawn from the seed, or a picture of yours, scaled to the images.
"""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field

from amends.core.spec import spec
from amends.data.planting import Brush, Scene, overlay, picture_content, same


@spec
class Blend:
    """One image, of noise or from a file, that shows through every poisoned row (blended injection)."""

    alpha: Annotated[float, Field(gt=0, lt=1)] = 0.2
    """How much of the blended image shows."""
    picture: str | None = None
    """A picture file to blend in, scaled to the images; noise where none is given."""

    keeps_label: ClassVar[bool] = False
    covers: ClassVar[float] = 0.0

    def content(self) -> str:
        """What changes when the picture does."""
        return picture_content(self.picture)

    def on(self, scene: Scene) -> Brush:
        """The blend. Raises UserError for a picture that cannot be read."""
        z_CHW = overlay(self.picture, scene)
        return same(lambda pixels, row: (1 - self.alpha) * pixels + self.alpha * z_CHW)
