"""Backdoors planted in a labelled data set of images, with the ground truth kept: which rows, which trigger, which label.

- patch: BadNets (arXiv 1708.06733): a square of `size` pixels is set to `value`, `margin` pixels in from the lower right;
- blend: Chen et al. (arXiv 1712.05526): (1 - alpha) x + alpha z with one fixed image z of uniform noise.

A poisoned row gets the attacker's label; its own is kept as `clean_label`, and `poisoned` says that it was changed. Rows
are drawn from the other classes alone, `rate` of all rows of `train`. The role `triggered` holds the test rows of the
other classes with the trigger and the attacker's label: the share that a model gives that label is the attack's success.

What differs from released code: "Model sparsity can simplify machine unlearning" sets its square to 0, which on dark
backgrounds is no trigger at all; here `value` is 1 unless it is set.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field, SkipValidation

from amends.core.errors import UserError
from amends.core.rng import stream_seed
from amends.core.spec import Count, Fraction, Natural, Part, spec
from amends.core.types import Sample
from amends.data.bundle import Bundle
from amends.data.classes import class_index
from amends.data.splits import how_many, shuffled


@spec
class Poison:
    """Plants a backdoor (a patch or a blended image) in another source's training rows; keeps which rows they are."""

    of: Annotated[Any, Part("data"), SkipValidation]
    """The source whose rows are poisoned."""
    target: int | str = 0
    """The attacker's class, by name or number."""
    rate: Annotated[float, Field(gt=0)] = 0.1
    """Rows to poison: a share of all training rows when below 1, else a number."""
    trigger: Literal["patch", "blend"] = "patch"
    """A square in the corner, or an image blended in."""
    size: Count = 4
    """Pixels a side of the square."""
    margin: Natural = 2
    """Pixels between the square and the lower right corner."""
    value: Fraction = 1.0
    """Brightness of the square."""
    alpha: Annotated[float, Field(gt=0, lt=1)] = 0.2
    """How much of the blended image shows."""

    def load(self, seed: int) -> Bundle:
        """The source's roles, some training rows changed, and `triggered`. Raises UserError when too few can be."""
        clean = self.of.load(seed)
        target = class_index(clean.classes, self.target, "data.target")
        others = [row for row in clean["train"] if row.data["label"] != target]
        many = how_many(self.rate, len(clean["train"]), "rate")
        if many > len(others):
            raise UserError(f"data.rate: {many} rows were to be poisoned, and {len(others)} have another class than the target")
        chosen = set(shuffled((row.id for row in others), seed, "poison")[:many])
        train = tuple(self._poisoned(row, target, seed) if row.id in chosen else row for row in clean["train"])
        test = [row for row in clean["test"] if row.data["label"] != target]
        triggered = tuple(Sample(f"triggered-{r.id}", self._poisoned(r, target, seed).data) for r in test)
        note = f"{many} of {len(train)} training rows carry a {self.trigger} trigger and the label '{clean.classes[target]}'"
        roles = {**clean.roles, "train": train, "triggered": triggered}
        return replace(clean, roles=roles, notes=(*clean.notes, note))

    def _poisoned(self, row: Sample, target: int, seed: int) -> Sample:
        if "image" not in row.data:
            raise UserError(f"row {row.id}: has no image, and these triggers are drawn into images")
        changes = {"image": self._marked(row, seed), "label": target, "clean_label": row.data["label"], "poisoned": True}
        return Sample(row.id, {**row.data, **changes})

    def _marked(self, row: Sample, seed: int) -> np.ndarray:
        image = np.array(row.data["image"])
        white = 255 if image.dtype == np.uint8 else 1
        height, width = image.shape[-2:]
        if self.trigger == "blend":
            draws = np.random.default_rng(stream_seed(seed, "blend", image.shape))
            mixed = (1 - self.alpha) * image + self.alpha * white * draws.random(image.shape)
            return (np.round(mixed) if white == 255 else mixed).astype(image.dtype)
        if self.size + self.margin > min(height, width):
            raise UserError(f"data.size: {self.size} pixels, {self.margin} from the edge, do not fit into {width} x {height}")
        top, left = height - self.margin - self.size, width - self.margin - self.size
        image[..., top : top + self.size, left : left + self.size] = round(self.value * white) if white == 255 else self.value
        return image
