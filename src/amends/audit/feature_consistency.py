"""Feature consistency towards transformations (Chen, Wu and Wang, NeurIPS 2022): a trigger that is turned is no trigger.

    FCT(x) = (1/C) || f(T(x)) - f(x) ||^2,

f being the features that the last layer reads and T a turn of up to `degrees` and a shift of up to `shift` of the side, both
drawn for each row by its id; what comes in from outside is black. In the paper the features of rows with a trigger are the
more sensitive, so the highest are suspicious (`suspicious: large`); where a trigger survives the transformation it is the
other way around (`small`). Which it is has to be said.

Flagged are the `rate` of rows at that end (the paper takes 5 %). With t = FCT over its mean over the rows the score is
t / (1 + t), or 1 / (1 + t) for `small`.

The paper looks at a model after its first epochs, and then spreads its classes by a loss on the features' means. Here the model
is the one that is audited, as it is: name an early stage as the audit's `model` to come closer. FCT is averaged over `draws`
transformations, one in the paper.
"""

from __future__ import annotations

import math
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from amends.audit.images import check_images, images_in_batches
from amends.audit.rows import highest
from amends.core.protocols import Context
from amends.core.spec import Count, Fraction, spec
from amends.core.types import Batch, Role, Scores
from amends.data.bundle import Bundle
from amends.engine.features import read_features
from amends.subjects.head import head, num_classes

WHY = "it turns pictures"


@spec
class FeatureConsistency:
    """How far a turn and a shift of the image move its features (SD-FCT); which end is suspicious is to be said."""

    name: ClassVar[str] = "feature_consistency"
    degrees: Annotated[float, Field(ge=0, le=180)] = 180.0
    """The furthest that an image is turned, either way."""
    shift: Fraction = 0.2
    """The furthest that it is shifted, as a share of its side."""
    draws: Count = 1
    """Transformations of each row, over which the distance is averaged."""
    suspicious: Literal["large", "small"] = "large"
    """Which distances are those of a trigger: large ones in the paper."""
    rate: Fraction = 0.05
    """The share of rows that is flagged."""
    role: Role = "train"
    """The rows that are audited."""

    def check(self, data: Bundle, subject: Any | None) -> None:
        """Images with classes, and a classifier with a last layer."""
        check_images(data, self.role, subject, self.name, WHY)
        if subject is not None:
            head(subject.module, num_classes(subject, data[self.role][0]))

    @torch.no_grad()
    def scores(self, subject: Any, data: Bundle, run: Context) -> Scores:
        """Each row's distance over their mean, brought into 0..1."""
        rows, away = data[self.role], {}
        last = head(subject.module, num_classes(subject, rows[0]))[1]
        with run.progress("turning", len(rows)) as bar:
            for batch in images_in_batches(subject, rows, self.draws + 1):
                image = batch["image"]
                moved = torch.cat([transformed(image, at_B3) for at_B3 in self.drawn(batch, run)])
                whole = Batch(batch.ids * (self.draws + 1), {
                    "image": torch.cat([image, moved]), "label": batch["label"].repeat(self.draws + 1),
                })  # fmt: skip
                features_DBC = read_features(subject, whole, last).double().view(self.draws + 1, len(batch), -1)
                distance_B = (features_DBC[1:] - features_DBC[0]).square().mean((0, 2))
                away.update(zip(batch.ids, distance_B.tolist(), strict=True))
                bar.advance(len(batch))
        mean = math.fsum(away.values()) / len(away)
        share = {row.id: away[row.id] / (away[row.id] + mean) if mean > 0 else 0.5 for row in rows}
        score = share if self.suspicious == "large" else {row: 1 - s for row, s in share.items()}
        return Scores(score, highest(score, round(self.rate * len(score))))

    def drawn(self, batch: Batch, run: Context) -> Tensor:
        """[draws, B, 3] turns in radians, and shifts across and down in sides."""
        uniform = [torch.rand((self.draws, 3), generator=run.rng(self.name, row)) for row in batch.ids]
        most = torch.tensor([math.radians(self.degrees), self.shift, self.shift])
        return (most * (2 * torch.stack(uniform, 1) - 1)).to(batch["image"].device)


def transformed(image: Tensor, at_B3: Tensor) -> Tensor:
    """[B, C, H, W] turned about the centre and shifted, pixels interpolated between their neighbours, black outside.

    Args:
        at_B3: radians, and shifts across and down as shares of the width and the height.
    """
    turn_B, across_B, down_B = at_B3.unbind(1)
    height, width = image.shape[-2:]
    cos_B, sin_B, tall = turn_B.cos(), turn_B.sin(), height / width
    # where each pixel comes from: shifted back, then turned back; lengths are halves of a side, hence the sides' ratio
    back = torch.stack([
        torch.stack([cos_B, sin_B * tall, -2 * (cos_B * across_B + sin_B * tall * down_B)], 1),
        torch.stack([-sin_B / tall, cos_B, -2 * (-sin_B / tall * across_B + cos_B * down_B)], 1),
    ], 1)  # fmt: skip
    grid = torch.nn.functional.affine_grid(back, list(image.shape), align_corners=False)
    return torch.nn.functional.grid_sample(image, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
