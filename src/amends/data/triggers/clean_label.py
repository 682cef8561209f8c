"""The clean-label attack of MSPC's tables (arXiv 2403.10717): projected gradient descent on rows of the target's class, and a
patch.

Rows move by at most 8/255 in 10 steps of 2/255 away from their label, on a surrogate (`data/surrogate.py`); then the square
of BadNets is drawn. The label, which is right, stays. Test rows get the square alone.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

import numpy as np
from pydantic import Field, SkipValidation

from amends.core.spec import Count, Part, Positive, spec
from amends.data.planting import Brush, Scene
from amends.data.surrogate import by_id, crafted, misled
from amends.data.triggers.badnets import BadNets


@spec
class CleanLabel:
    """A square on adversarially moved rows of the target's class, whose label is kept (clean-label PGD)."""

    eps: Annotated[float, Field(gt=0, le=1)] = 8 / 255
    """How far a pixel may move, of 0..1."""
    steps: Count = 10
    """Steps of projected gradient descent."""
    step: Positive = 2 / 255
    """The length of one."""
    patch: Annotated[Any, Part("triggers"), SkipValidation] = BadNets()
    """What is drawn over the moved rows, and over test rows."""
    surrogate: Annotated[Any, Part("models"), SkipValidation] = None
    """The attacker's model; a ResNet-18 of an eighth of the width where none is given."""
    fit: Annotated[Any, Part("stages"), SkipValidation] = None
    """How it is trained, on the role `train`; 800 steps of SGD where nothing is given."""

    keeps_label: ClassVar[bool] = True
    covers: ClassVar[float] = 0.0

    def on(self, scene: Scene) -> Brush:
        """The moved rows and the patch. Raises UserError where the patch does not suit the images."""
        patch = self.patch.on(scene)  # before anything is trained
        found = crafted(
            self, scene, lambda subject: misled(subject, scene.rows, eps=self.eps, steps=self.steps, step=self.step)
        )
        moved = by_id(found)

        def train(pixels: np.ndarray, row: str) -> np.ndarray:
            return patch.train(moved[row], row)

        return Brush(train, patch.test, notes=(str(found["note"]), *patch.notes))
