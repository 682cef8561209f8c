"""Adaptive blending (Qi et al., ICLR 2023, "Revisiting the Assumption of Latent Separability"): pieces, and covering rows.

The blended image is cut into `grid` x `grid` pieces; a training row shows `shown` of them, drawn for each row, at `alpha`,
and a test row all of them at `alpha_test`: x' = (1 - a m) x + a m z with the mask m of the pieces. As many rows of other
classes as are poisoned, times `covers`, carry such pieces and keep their own label, so that the trigger alone does not make a
cluster. They are marked as `cover`, not as `poisoned`: their labels are right, and an auditor that flags one has flagged a
row that does no harm.

The strengths are those that MSPC (arXiv 2403.10717) ran, .2 in training and .15 at test; the attack's own release trains at
.15 and tests at .2. Its covers are drawn from all classes; here not from the target's, where the trigger with the class's own
label would be poison.
"""

from __future__ import annotations

from typing import Annotated, ClassVar

import numpy as np
from pydantic import Field

from amends.core.errors import UserError
from amends.core.rng import stream_seed
from amends.core.spec import Count, NonNegative, spec
from amends.data.planting import Brush, Scene, overlay, picture_content


@spec
class AdaptiveBlend:
    """Random pieces of a blended image in training, all of them at test, and covers that keep their label."""

    alpha: Annotated[float, Field(gt=0, lt=1)] = 0.2
    """How much of the pieces shows in training rows."""
    alpha_test: Annotated[float, Field(gt=0, lt=1)] = 0.15
    """How much of the whole shows in triggered test rows."""
    grid: Count = 4
    """Pieces across and down."""
    shown: Count = 8
    """Pieces that a training row shows."""
    covers: NonNegative = 1.0
    """Rows that carry the trigger and keep their label, for each poisoned one."""
    picture: str | None = None
    """A picture file to blend in, scaled to the images; noise where none is given."""

    keeps_label: ClassVar[bool] = False

    def content(self) -> str:
        """What changes when the picture does."""
        return picture_content(self.picture)

    def on(self, scene: Scene) -> Brush:
        """The pieces. Raises UserError for more pieces than there are, and for images smaller than their number."""
        if self.shown > self.grid**2:
            raise UserError(f"data.trigger.shown: {self.shown} pieces are to show, and {self.grid} x {self.grid} are there")
        if self.grid > min(scene.shape[1:]):
            raise UserError(
                f"data.trigger.grid: images of {scene.shape[2]} x {scene.shape[1]} have no {self.grid} pieces a side"
            )
        z_CHW = overlay(self.picture, scene)

        def pieces(pixels: np.ndarray, row: str) -> np.ndarray:
            share_HW = self.alpha * self.mask(scene.seed, row, scene.shape[1:])
            return (1 - share_HW) * pixels + share_HW * z_CHW

        return Brush(pieces, lambda pixels, row: (1 - self.alpha_test) * pixels + self.alpha_test * z_CHW)

    def mask(self, seed: int, row: str, shape: tuple[int, ...]) -> np.ndarray:
        """[H, W] 1 in the pieces that a training row shows, which its id and the seed decide alone."""
        lit = np.zeros(self.grid**2)
        lit[np.random.default_rng(stream_seed(seed, "pieces", row)).permutation(len(lit))[: self.shown]] = 1
        down, across = (np.arange(side) * self.grid // side for side in shape)
        return lit.reshape(self.grid, self.grid)[np.ix_(down, across)]
