"""The frequency detector (Zeng et al., arXiv 2104.03413): what is pasted or blended in leaves high frequencies behind.

A small network is trained to tell pictures from the same pictures perturbed at random (`audit/perturbations.py`), from their
cosine transform alone, and is then asked of every row whether it is of the second kind. The score is what it answers, a
probability; above `threshold` a row is flagged. It looks at neither labels nor the audited model: it finds pictures that were
tampered with, whether or not a model learned anything from that.

What the network reads is log(|C_H x C_W^T| + e) of each channel, C being the orthonormal DCT-II matrix, standardised for each
frequency over the pictures that it learns from; the paper reads the transform as it is. The transform is the network's first
layer, so that pictures stream through as they are. The network has two convolutions, the paper's six.

It learns from `rows` pictures of `clean`, a role of rows that are known to be so. Without it they are taken from the audited
rows, the poisoned among them passing as clean: where those are many, it learns to pass them. A tenth is kept back, and the
note says how many of those, perturbed and not, the network tells right; it says nothing of triggers unlike the perturbations.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, ClassVar

import numpy as np
import torch
from pydantic import Field, SkipValidation
from torch import Tensor, nn

from amends.audit.images import check_clean, check_pictures, images_in_batches, logits_of
from amends.audit.perturbations import perturbed
from amends.core.errors import UserError
from amends.core.protocols import Context
from amends.core.spec import Count, Part, Weighted, spec
from amends.core.types import Role, Sample, Scores
from amends.data.bundle import Bundle
from amends.engine.fit import fit
from amends.engine.optim import AdamW
from amends.subjects.classifier import Classifier
from amends.subjects.fresh import redraw
from amends.subjects.images import encode_image, stack
from amends.subjects.nets import conv_net
from amends.terms.nll import NLL

WHY = "it takes a picture's frequencies"
SMALLEST = 4
"""Pixels a side below which a picture has no frequencies to speak of."""
FEWEST = 10
"""Rows below which nothing is learned."""
FLOOR = 1e-3
"""What is added to a coefficient's size before its logarithm: about what rounding to 8 bits puts into each."""


@spec
class Frequency:
    """How surely a picture was tampered with, by its frequencies, to a small network trained on random tampering; blind."""

    name: ClassVar[str] = "frequency"
    clean: Role | None = None
    """Rows known to be clean, to learn from; the audited ones where there are none."""
    rows: Annotated[int, Field(ge=FEWEST)] = 2000
    """How many of them, at most; they and their perturbed copies lie in memory as floats."""
    epochs: Count = 10
    """Passes over them and their perturbed copies."""
    batch: Count = 64
    """Rows a step."""
    width: Count = 16
    """Channels of the network's first layer."""
    optim: Annotated[Any, Part("optim"), SkipValidation] = AdamW(lr=2e-3, schedule="cosine")
    """The optimiser."""
    threshold: Annotated[float, Field(ge=0, le=1)] = 0.5
    """Rows with a score above it are flagged."""
    checkpoint_every: Count = 100
    """Steps between two exact checkpoints."""
    role: Role = "train"
    """The rows that are audited."""

    def check(self, data: Bundle, subject: Any | None) -> None:
        """Images of some size, and enough of them; labels and model are not looked at."""
        check_pictures(data, self.role, self.name, WHY)
        check_clean(data, self.clean, self.role, self.name, WHY)
        source = self.clean or self.role
        if len(data[source]) < FEWEST:
            raise UserError(f"frequency: role '{source}' has {len(data[source])} rows, and it learns from {FEWEST} at least: "
                            "give it more, or another `clean`")  # fmt: skip
        sides = np.shape(data[self.role][0].data["image"])[-2:]
        if min(sides) < SMALLEST:
            raise UserError(f"frequency: images of '{self.role}' are {sides[1]} x {sides[0]} pixels, and it needs "
                            f"{SMALLEST} a side: audit larger ones")  # fmt: skip

    def scores(self, subject: Any, data: Bundle, run: Context) -> Scores:
        """What the trained network says of every row."""
        detector, note = self.trained(data[self.clean or self.role], run)
        found = told(detector, data[self.role], run)
        flagged = frozenset(row for row, s in found.items() if s > self.threshold)
        return Scores({row.id: found[row.id] for row in data[self.role]}, flagged, note)

    def trained(self, source: Sequence[Sample], run: Context) -> tuple[Classifier, str]:
        """The network, and how well it tells rows that were kept back."""
        source = sorted(source, key=lambda row: row.id)
        chosen, aside = self.chosen(source, run)
        pairs = {row.id: self.pair(row, source, run) for row in (*chosen, *aside)}
        detector = Classifier(self.network(torch.stack([pairs[row.id][0].data["image"] for row in chosen]), run))
        learned = tuple(one for row in chosen for one in pairs[row.id])
        fit(
            detector, [Weighted(term=NLL(role="made", per="row"))], Bundle({"made": learned}), batch=self.batch, run=run,
            steps=self.epochs * -(-len(learned) // self.batch), optim=self.optim, checkpoint_every=self.checkpoint_every,
        )  # fmt: skip
        clean, other = (told(detector, [pairs[row.id][i] for row in aside], run) for i in range(2))
        passed, caught = (sum((s > self.threshold) is w for s in one.values()) for one, w in ((clean, False), (other, True)))
        return detector, f"of {len(aside)} rows kept back it passes {passed} as they are, and finds {caught} perturbed"

    def chosen(self, source: Sequence[Sample], run: Context) -> tuple[list[Sample], list[Sample]]:
        """The rows to learn from and a tenth beside them."""
        drawn = [source[i] for i in torch.randperm(len(source), generator=run.rng(self.name)).tolist()[: self.rows]]
        return drawn[len(drawn) // 10 :], drawn[: len(drawn) // 10]

    def pair(self, row: Sample, source: Sequence[Sample], run: Context) -> tuple[Sample, Sample]:
        """A picture as it is, label 0, and perturbed, label 1; both in 0..1."""
        rng = run.rng(self.name, row.id)
        image, other = (_pixels(one) for one in (row, source[int(torch.randint(len(source), (), generator=rng))]))
        return Sample(row.id, {"image": image, "label": 0}), Sample(
            f"{row.id}/perturbed", {"image": perturbed(image, other, rng), "label": 1}
        )

    def network(self, images_NCHW: Tensor, run: Context) -> Spectrum:
        """The network with fresh weights, standardised for these pictures."""
        net = conv_net(images_NCHW.shape[1], self.width, 2)
        redraw(net, run.seed, self.name)
        return Spectrum(net, images_NCHW)


class Spectrum(nn.Module):
    """Pictures to logits by way of their standardised log-spectrum."""

    high: Tensor
    wide: Tensor
    mean: Tensor
    std: Tensor

    def __init__(self, net: nn.Module, images_NCHW: Tensor) -> None:
        super().__init__()
        self.net = net
        self.register_buffer("high", cosines(images_NCHW.shape[-2]))
        self.register_buffer("wide", cosines(images_NCHW.shape[-1]))
        spectra = self.spectrum(images_NCHW)
        self.register_buffer("mean", spectra.mean(0))
        self.register_buffer("std", spectra.std(0).clamp_min(1e-3))

    def spectrum(self, image: Tensor) -> Tensor:
        """log(|DCT| + e), [B, C, H, W]."""
        return ((self.high @ image @ self.wide.T).abs() + FLOOR).log()

    def forward(self, image: Tensor) -> Tensor:
        """[B, C, H, W] in 0..1 -> [B, 2]."""
        return self.net((self.spectrum(image) - self.mean) / self.std)


def cosines(n: int) -> Tensor:
    """[n, n] the orthonormal DCT-II: row k holds sqrt(2/n) cos(pi (i + 1/2) k / n), the first over sqrt 2.

    >>> [[round(v, 4) for v in row] for row in cosines(2).tolist()]
    [[0.7071, 0.7071], [0.7071, -0.7071]]
    """
    k, i = torch.arange(n, dtype=torch.float64)[:, None], torch.arange(n, dtype=torch.float64)[None]
    table = (2 / n) ** 0.5 * torch.cos(torch.pi * (i + 0.5) * k / n)
    table[0] /= 2**0.5
    return table.float()


@torch.no_grad()
def told(detector: Classifier, rows: Sequence[Sample], run: Context) -> dict[str, float]:
    """Row id -> the probability of having been tampered with."""
    bare = [Sample(row.id, {"image": row.data["image"], "label": 0}) for row in rows]
    found: dict[str, float] = {}
    with run.progress("looking", len(rows)) as bar:
        for batch in images_in_batches(detector, bare, 1):
            share_B = torch.softmax(logits_of(detector, batch["image"]).double(), -1)[:, 1]
            found.update(zip(batch.ids, share_B.tolist(), strict=True))
            bar.advance(len(batch))
    return found


def _pixels(row: Sample) -> Tensor:
    """[C, H, W] float32 in 0..1."""
    return stack([encode_image(Sample(row.id, {"image": row.data["image"], "label": 0}))])["image"][0]
