"""Scaled prediction consistency, SCALE-UP (Guo et al., arXiv 2302.03251): a trigger survives brighter pixels, a motif does not.

    SPC(x) = (1/|S|) sum over n in S of [ argmax F(clip(n x, 0, 1)) = argmax F(x) ],

in pixel space, whatever the network normalises behind it. Flagged is a row with more than `threshold` of the scalings
unchanged; at 1/2 that is the sign rule of MSPC (arXiv 2403.10717), majority. The paper's S is 3, 5, 7, 9, 11 (`paper`); its
released code has 1 to 11 (`released`), and a scaling by 1 always agrees, which lifts every score by 1/11; MSPC compares
itself with 2 to 12 (`mspc`). Released code also adds uniform noise of up to .02 to every image first, and compares with the
class of the noisy image: `noise: 0.02`, drawn for each row by its id.

Classes differ in how consistent their clean rows are. With `clean`, a role of rows that are known to be so, the paper's second
form standardises by the class that the model gives the unchanged image, z = (SPC - mean) / deviation of the clean rows of that
class; flagged is a row with z above `deviations`, and the score is the normal distribution's share below z. A class with fewer
than two clean rows is measured by all of them.

It needs images of middle tones. Where pixels are black or white, scaling changes nothing, and every row is consistent; the
note says how many pixels the smallest scaling changes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any, ClassVar

import numpy as np
import torch
from pydantic import BeforeValidator, Field
from scipy.special import ndtr

from amends.audit.images import FEWEST_CLEAN, Precision, check_clean, check_images, images_in_batches, logits_of
from amends.core.protocols import Context
from amends.core.spec import NonNegative, spec
from amends.core.types import Batch, Role, Sample, Scores
from amends.data.bundle import Bundle

Scaling = Annotated[float, Field(gt=0, allow_inf_nan=False)]
SETS: Mapping[str, tuple[int, ...]] = {
    "paper": (3, 5, 7, 9, 11), "released": tuple(range(1, 12)), "mspc": tuple(range(2, 13)),
}  # fmt: skip
"""The scalings of the paper, of its released code, and those that MSPC compares itself with."""
Told = dict[str, tuple[int, float]]
"""Row id -> the class of the unchanged image, and the share of scalings that keep it."""


def _named(given: Any) -> Any:
    if isinstance(given, str) and given not in SETS:
        raise ValueError(f"no scalings are called so; there are {', '.join(SETS)}, or give numbers")
    return SETS[given] if isinstance(given, str) else given


@spec
class SPC:
    """The share of brighter copies of an image that the model gives the image's own class (SCALE-UP)."""

    name: ClassVar[str] = "spc"
    scales: Annotated[tuple[Scaling, ...], Field(min_length=1), BeforeValidator(_named)] = (3, 5, 7, 9, 11)
    """What pixels in 0..1 are multiplied with before they are clipped: numbers, or `paper`, `released` or `mspc`."""
    threshold: Annotated[float, Field(ge=0, lt=1)] = 0.5
    """A row is flagged when more than this share of its scalings keeps its class."""
    noise: NonNegative = 0.0
    """Up to so much is added to each pixel, uniformly, before anything else; 0.02 in released code."""
    clean: Role | None = None
    """Rows known to be clean, by which scores are standardised for each class (the paper with a little data)."""
    deviations: Annotated[float, Field(allow_inf_nan=False)] = 1.0
    """With `clean`: a row is flagged above so many deviations of its class, whatever `threshold` says."""
    precision: Precision = "fp32"
    """`bf16` is faster where processor or GPU multiply in it; classes in a near tie may change places."""
    role: Role = "train"
    """The rows that are audited."""

    def check(self, data: Bundle, subject: Any | None) -> None:
        """Images with classes, and a classifier."""
        check_images(data, self.role, subject, self.name, "it brightens pixels")
        check_clean(data, self.clean, self.role, self.name, "it brightens pixels")

    @torch.no_grad()
    def scores(self, subject: Any, data: Bundle, run: Context) -> Scores:
        """The share of scalings without effect, all scalings of a batch in one forward."""
        rows = data[self.role]
        told, note = self.told(subject, rows, run)
        if self.clean is None:
            score = {row.id: told[row.id][1] for row in rows}
            return Scores(score, frozenset(row for row, s in score.items() if s > self.threshold), note)
        z, few = standardised(told, self.told(subject, data[self.clean], run)[0])
        flagged = frozenset(row for row, value in z.items() if value > self.deviations)
        more = f"; {len(few)} class(es) have fewer than {FEWEST_CLEAN} clean rows and are measured by all" if few else ""
        return Scores({row.id: float(ndtr(z[row.id])) for row in rows}, flagged, note + more)

    def told(self, subject: Any, rows: Sequence[Sample], run: Context) -> tuple[Told, str]:
        """What the model says of every row and its copies, and how much the smallest scaling changes."""
        found: Told = {}
        changed, pixels = 0, 0
        least = min(self.scales, key=lambda scale: abs(scale - 1))
        with run.progress("scaling", len(rows)) as bar:
            for batch in images_in_batches(subject, rows, len(self.scales) + 1):
                batch = self.noisy(batch, run)
                image = batch["image"]
                told_SB = classes_told(subject, batch, [(image * scale).clamp(0, 1) for scale in self.scales], self.precision)
                share_B = agreement(told_SB)
                found.update(zip(batch.ids, zip(told_SB[0].tolist(), share_B.tolist(), strict=True), strict=True))
                changed += int(((image * least).clamp(0, 1) != image).sum())
                pixels += image.numel()
                bar.advance(len(batch))
        return found, f"scaling by {least:g} changes {changed / pixels:.0%} of the pixels"

    def noisy(self, batch: Batch, run: Context) -> Batch:
        """The batch with each row's own noise on its pixels, and as it is where there is to be none."""
        if not self.noise:
            return batch
        image = batch["image"]
        drawn = torch.stack([torch.rand(image.shape[1:], generator=run.rng(self.name, row)) for row in batch.ids])
        noisy = image + self.noise * drawn.to(image.device)
        return replace(batch, tensors={**batch.tensors, "image": noisy.clamp(0, 1)})


def classes_told(subject: Any, batch: Batch, changed_SB: list[torch.Tensor], precision: Precision = "fp32") -> torch.Tensor:
    """[1 + S, B] the class of each image and of its changed copies, all in one forward."""
    image = torch.cat([batch["image"], *changed_SB])
    return logits_of(subject, image, precision).argmax(1).view(len(changed_SB) + 1, len(batch))


def agreement(told_SB: torch.Tensor) -> torch.Tensor:
    """[B] the share of the rows below the first that say what it says."""
    return (told_SB[1:] == told_SB[:1]).double().mean(0)


def standardised(told: Told, clean: Told) -> tuple[dict[str, float], set[int]]:
    """z of each row against the clean rows of its class, and the classes that had too few of those.

    Clean rows that all agree have no deviation: a row like them is at 0, any other at plus or minus infinity.
    """
    every = [share for _, share in clean.values()]
    by_class = {k: [share for own, share in clean.values() if own == k] for k in {own for own, _ in told.values()}}
    few = {k for k, own in by_class.items() if len(own) < FEWEST_CLEAN}
    normal = {k: (np.mean(v), np.std(v, ddof=1)) for k, own in by_class.items() for v in [every if k in few else own]}
    z = {}
    for row, (k, share) in told.items():
        away, deviation = share - normal[k][0], normal[k][1]
        z[row] = 0.0 if abs(away) < 1e-12 else float(away / deviation) if deviation > 1e-12 else float(np.sign(away) * np.inf)
    return z, few
