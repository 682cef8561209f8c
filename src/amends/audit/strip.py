"""STRIP (Gao et al., arXiv 1902.06531): what carries a trigger is told the same class, whatever is laid over it.

    H(x) = (1/N) sum over n of [ - sum over classes k of p_k(b(x, x_n)) log p_k(b(x, x_n)) ],

the mean entropy of the predictions for x under N other images x_n. `blend: sum` is the authors' code, b = clip(x + x_n, 0, 1);
`mean` is b = (x + x_n) / 2, which saturates nothing. A trigger keeps its class under most of them, so its entropy is low: the
score is 1 - H / log K.

With `clean`, a role of rows that are known to be so, the other images are taken from it, and the threshold is the paper's: the
quantile `frr` (false rejection rate) of the normal distribution with the mean and deviation of the clean rows' entropies. Where
the model is sure of most superpositions that quantile lies below 0 and nothing can be flagged, which the note says.
Without it the other images are audited rows, some of them poisoned, and a declared share `rate` with the lowest entropies is
flagged. Each row's images are drawn, with replacement and never itself, by the row's id: neither order nor batches count.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field
from scipy.special import ndtri
from torch import Tensor

from amends.audit.images import below, check_clean, check_images, images_in_batches, logits_of, lowest
from amends.core.errors import UserError
from amends.core.protocols import Context
from amends.core.spec import Count, Fraction, spec
from amends.core.types import Role, Sample, Scores
from amends.data.bundle import Bundle
from amends.subjects.head import num_classes

WHY = "it lays images over each other"


@spec
class Strip:
    """How little other images, laid over a row's, change what the model tells of it (STRIP): one forward for each of them."""

    name: ClassVar[str] = "strip"
    overlays: Count = 100
    """Other images that each row is seen under, 100 in the paper: the cost, in forwards a row."""
    blend: Literal["sum", "mean"] = "sum"
    """x + x', cut off at white (the authors' code), or the two images' mean."""
    clean: Role | None = None
    """Rows known to be clean: what is laid over, and what the threshold comes from."""
    frr: Annotated[float, Field(gt=0, lt=1)] = 0.01
    """With `clean`: the share of clean rows that may be flagged, under a normal distribution."""
    rate: Fraction = 0.1
    """Without `clean`: the share of rows that is flagged."""
    role: Role = "train"
    """The rows that are audited."""

    def check(self, data: Bundle, subject: Any | None) -> None:
        """Images with classes, more than one of them, and a classifier."""
        check_images(data, self.role, subject, self.name, WHY)
        check_clean(data, self.clean, self.role, self.name, WHY)
        if len(data[self.role]) < 2 and self.clean is None:
            raise UserError(f"strip: role '{self.role}' has one row: {WHY}, and there is no other: audit more rows")
        if subject is not None and num_classes(subject, data[self.role][0]) < 2:
            raise UserError("strip: the model tells one class alone, and is never unsure: audit a model of several")

    def scores(self, subject: Any, data: Bundle, run: Context) -> Scores:
        """How far each row's mean entropy lies below that of guessing, and the flags of the rule that applies."""
        rows = data[self.role]
        over = sorted(data[self.clean or self.role], key=lambda row: row.id)
        share = self.entropies(subject, rows, over, run)
        score = {row.id: 1 - share[row.id] for row in rows}
        if self.clean is None:
            return Scores(score, lowest(share, self.rate))
        normal = list(self.entropies(subject, data[self.clean], over, run).values())
        least = below(normal, -float(ndtri(self.frr)))
        note = f"threshold {1 - least:.3f}" + ("" if least > 0 else ": no entropy is so low, and nothing can be flagged")
        return Scores(score, frozenset(row for row, h in share.items() if h < least), note)

    @torch.no_grad()
    def entropies(self, subject: Any, rows: Sequence[Sample], over: Sequence[Sample], run: Context) -> dict[str, float]:
        """Row id -> H / log K, in 0..1; a batch and all that is laid over it in one forward."""
        place = {row.id: i for i, row in enumerate(over)}
        found: dict[str, float] = {}
        with run.progress("superposing", len(rows)) as bar:
            for batch in images_in_batches(subject, rows, self.overlays):
                others = [over[i] for row in batch.ids for i in self.drawn(row, place.get(row), len(over), run)]
                laid = subject.collate([subject.encode(row) for row in others])["image"].to(batch["image"].device)
                mixed = self.mixed(batch["image"].repeat_interleave(self.overlays, 0), laid)
                share_N = entropy(logits_of(subject, mixed))
                found.update(zip(batch.ids, share_N.view(len(batch), -1).mean(1).tolist(), strict=True))
                bar.advance(len(batch))
        return found

    def drawn(self, row: str, own: int | None, many: int, run: Context) -> list[int]:
        """Which images are laid over a row: places among `many`, but for its own."""
        rest = many - (own is not None)
        places = torch.randint(rest, (self.overlays,), generator=run.rng(self.name, row)).tolist()
        return [i + (own is not None and i >= own) for i in places]

    def mixed(self, image: Tensor, other: Tensor) -> Tensor:
        """Two images as one."""
        return (image + other).clamp(0, 1) if self.blend == "sum" else (image + other) / 2


def entropy(logits_NK: Tensor) -> Tensor:
    """[N] the entropy of softmax(logits) over that of guessing, in 0..1.

    >>> entropy(torch.tensor([[0.0, 0.0], [1000.0, 0.0]])).abs().tolist()
    [1.0, 0.0]
    """
    log_NK = torch.log_softmax(logits_NK.double(), -1)
    nats_N = -(log_NK.exp() * log_NK).sum(-1)
    return (nats_N / torch.log(torch.tensor(float(logits_NK.shape[-1]), dtype=torch.float64))).clamp(0, 1)
