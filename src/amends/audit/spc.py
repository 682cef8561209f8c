"""Scaled prediction consistency, SCALE-UP (Guo et al., arXiv 2302.03251): a trigger survives brighter pixels, a motif does not.

    SPC(x) = (1/|S|) sum over n in S of [ argmax F(clip(n x, 0, 1)) = argmax F(x) ],

in pixel space, whatever the network normalises behind it. Flagged is a row with more than `threshold` of the scalings
unchanged; at 1/2 that is the sign rule of MSPC (arXiv 2403.10717), majority. The paper's S is 3, 5, 7, 9, 11; its released code
has 1 to 11, and a scaling by 1 always agrees, which lifts every score by 1/11. There the threshold is the defender's to
choose; no data that is known to be clean is asked for here, so nothing is standardised by class.

It needs images of middle tones. Where pixels are black or white, scaling changes nothing, and every row is consistent; the
note says how many pixels the smallest scaling changes.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field

from amends.audit.rows import check_classifier
from amends.core.errors import UserError
from amends.core.protocols import Context
from amends.core.spec import spec
from amends.core.types import Batch, Role, Scores
from amends.data.bundle import Bundle
from amends.engine.score import batches
from amends.subjects.distributions import classes

Scaling = Annotated[float, Field(gt=0, allow_inf_nan=False)]


@spec
class SPC:
    """The share of brighter copies of an image that the model gives the image's own class (SCALE-UP)."""

    name: ClassVar[str] = "spc"
    scales: Annotated[tuple[Scaling, ...], Field(min_length=1)] = (3, 5, 7, 9, 11)
    """What pixels in 0..1 are multiplied with before they are clipped."""
    threshold: Annotated[float, Field(ge=0, lt=1)] = 0.5
    """A row is flagged when more than this share of its scalings keeps its class."""
    role: Role = "train"
    """The rows that are audited."""

    def check(self, data: Bundle, subject: Any | None) -> None:
        """Images with classes, and a classifier."""
        check_classifier(data, self.role, subject, self.name)
        odd = next((row for row in data[self.role] if "image" not in row.data), None)
        if odd is not None:
            raise UserError(f"spc: row {odd.id} of '{self.role}' has no image: it brightens pixels")

    @torch.no_grad()
    def scores(self, subject: Any, data: Bundle, run: Context) -> Scores:
        """The share of scalings without effect, all scalings of a batch in one forward."""
        rows = data[self.role]
        found: dict[str, float] = {}
        changed, pixels = 0, 0
        with run.progress("scaling", len(rows)) as bar:
            for batch in batches(subject, rows, device=next(subject.module.parameters()).device):
                scaled_SB = [(batch["image"] * scale).clamp(0, 1) for scale in self.scales]
                share_B = consistency(subject, batch, scaled_SB)
                found.update(zip(batch.ids, share_B.tolist(), strict=True))
                nearest = min(range(len(self.scales)), key=lambda i: abs(self.scales[i] - 1))
                changed += int((scaled_SB[nearest] != batch["image"]).sum())
                pixels += batch["image"].numel()
                bar.advance(len(batch))
        least = min(self.scales, key=lambda scale: abs(scale - 1))
        note = f"scaling by {least:g} changes {changed / pixels:.0%} of the pixels"
        score = {row.id: found[row.id] for row in rows}
        return Scores(score, frozenset(row for row, s in score.items() if s > self.threshold), note)


def consistency(subject: Any, batch: Batch, changed_SB: list[torch.Tensor]) -> torch.Tensor:
    """[B] the share of changed images that get the class of the unchanged one, all in one forward."""
    copies = len(changed_SB) + 1
    image = torch.cat([batch["image"], *changed_SB])
    whole = Batch(batch.ids * copies, {"image": image, "label": batch["label"].repeat(copies)})
    told_SB = classes(subject.likelihood(whole)).logits_NV.argmax(1).view(copies, len(batch))
    return (told_SB[1:] == told_SB[:1]).double().mean(0)
