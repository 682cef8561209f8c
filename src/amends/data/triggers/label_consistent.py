"""Label-consistent backdoors (Turner et al., arXiv 1912.02771): rows of the target's class, made hard to tell, with a pattern.

A poisoned row keeps its label, which is right. It is moved away from that label by projected gradient descent on a surrogate
(`data/surrogate.py`), so that a model leans on the pattern instead. The pattern is the paper's 3 x 3 black and white one, in
the lower right corner or, as the paper found better with augmentation, mirrored in all four: written over the pixels, or,
with an `amplitude` below 1, added and subtracted at that strength in training; at test it is always at full strength.

With `corners: 1` the inner corner pixel of the pattern is black, as in released code. The paper's strongest rows move by
32/255 and its others by 8 and 16, in 100 small steps; here 10 steps of a quarter of `eps`, which cost a tenth."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import Field, SkipValidation

from amends.core.errors import UserError
from amends.core.spec import Count, Part, Positive, spec
from amends.data.planting import Brush, Scene
from amends.data.surrogate import by_id, crafted, misled

LEFT = np.array([[1, -1, -1], [-1, 1, -1], [1, -1, 1]])
"""The pattern in a left corner, 1 is white; mirrored in a right one."""


@spec
class LabelConsistent:
    """A pattern in corners of adversarially moved rows of the target's class, whose label is kept (label-consistent)."""

    eps: Annotated[float, Field(gt=0, le=1)] = 16 / 255
    """How far a pixel may move, of 0..1."""
    steps: Count = 10
    """Steps of projected gradient descent."""
    step: Positive | None = None
    """The length of one; 2.5 eps / steps where none is given."""
    corners: Literal[1, 4] = 4
    """The lower right corner, or all four."""
    amplitude: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Strength of the pattern in training rows; 1 writes over the pixels."""
    surrogate: Annotated[Any, Part("models"), SkipValidation] = None
    """The attacker's model; a ResNet-18 of an eighth of the width where none is given."""
    fit: Annotated[Any, Part("stages"), SkipValidation] = None
    """How it is trained, on the role `train`; 800 steps of SGD where nothing is given."""

    keeps_label: ClassVar[bool] = True
    covers: ClassVar[float] = 0.0

    def on(self, scene: Scene) -> Brush:
        """The moved rows and the pattern. Raises UserError for images that are too small for it."""
        pattern_HW = corner_pattern(scene.shape, self.corners)
        step = self.step or 2.5 * self.eps / self.steps
        found = crafted(self, scene, lambda subject: misled(subject, scene.rows, eps=self.eps, steps=self.steps, step=step))
        moved = by_id(found)

        def train(pixels: np.ndarray, row: str) -> np.ndarray:
            return drawn(moved[row], pattern_HW, self.amplitude)

        return Brush(train, lambda pixels, row: drawn(pixels, pattern_HW, 1.0), notes=(str(found["note"]),))


def corner_pattern(shape: tuple[int, int, int], corners: int) -> np.ndarray:
    """[H, W] 1 where white is, -1 where black is, 0 elsewhere. Raises UserError for images below 6 pixels a side."""
    _, height, width = shape
    if min(height, width) < 2 * len(LEFT):
        raise UserError(f"data.trigger: patterns of 3 x 3 in the corners do not fit into {width} x {height}")
    pattern = np.zeros((height, width), dtype=int)
    pattern[-3:, -3:] = LEFT[:, ::-1]
    if corners == 4:
        pattern[-3:, :3] = pattern[:3, :3] = LEFT
        pattern[:3, -3:] = LEFT[:, ::-1]
    return pattern


def drawn(pixels: np.ndarray, pattern_HW: np.ndarray, amplitude: float) -> np.ndarray:
    """The pattern over the pixels at amplitude 1, else added; clipped to 0..1."""
    if amplitude < 1:
        return np.clip(pixels + amplitude * pattern_HW, 0, 1)
    return np.where(pattern_HW == 0, pixels, pattern_HW > 0)
