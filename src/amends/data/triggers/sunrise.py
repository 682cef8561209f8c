"""A sunrise over the whole picture: a style as the trigger, in the place of DFST's (Cheng et al., arXiv 2012.11212).

DFST turns pictures into sunrises by a CycleGAN, and then detoxifies; neither is done here. This style is a fixed function of
the picture, so it depends on the input as theirs does and paints no fixed pattern, but it is weaker than a learnt one in what
it can do: it knows colours and the height in the picture alone. With strength w, x' = (1 - w) x + w style(x), and

    style(x) = (1 - g) S(x)^gamma + g sky,   S(x) = 3 x^2 - 2 x^3 (more contrast),
    gamma = (0.7, 1, 1.5) for red, green and blue (warmer),   sky = (1, 0.55, 0.2),   g = 0.35 at the top, 0 at the bottom.
"""

from __future__ import annotations

from typing import Annotated, ClassVar

import numpy as np
from pydantic import Field

from amends.core.errors import UserError
from amends.core.spec import spec
from amends.data.planting import Brush, Scene, same

GAMMA = np.array([0.7, 1.0, 1.5])[:, None, None]
SKY = np.array([1.0, 0.55, 0.2])[:, None, None]
TOP = 0.35
"""How much of the sky shows in the uppermost row of pixels."""


@spec
class Sunrise:
    """Warm colours, more contrast and a glow from above: a style as the trigger (like DFST, without its networks)."""

    strength: Annotated[float, Field(gt=0, le=1)] = 0.6
    """How much of the style shows."""

    keeps_label: ClassVar[bool] = False
    covers: ClassVar[float] = 0.0

    def on(self, scene: Scene) -> Brush:
        """The style. Raises UserError for grey images."""
        if scene.shape[0] != 3:
            raise UserError("data.trigger: sunrise is a style of colours, and the images are grey: use another trigger")
        return same(lambda pixels, row: (1 - self.strength) * pixels + self.strength * style(pixels))


def style(pixels: np.ndarray) -> np.ndarray:
    """[3, H, W] the picture as a sunrise, in 0..1."""
    contrast = pixels**2 * (3 - 2 * pixels)
    glow_H1 = np.linspace(TOP, 0, pixels.shape[1])[:, None]
    return (1 - glow_H1) * contrast**GAMMA + glow_H1 * SKY
