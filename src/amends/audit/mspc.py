"""Mask-aware scaled prediction consistency, BackdoorMSPC (Pal et al., ICLR 2024, arXiv 2403.10717).

A trigger survives brighter pixels and a motif does not (`audit/spc.py`); what a trigger needs to survive is a small part of
the image. So one mask m in [0,1]^{H x W}, the same for all rows and colours, is learned together with the split w, w_i = 1 for
a row that is suspected. With x_n = clip(n (x - tau) o m, 0, 1) and n in S,

    l(x; m)  = (1/|S|) sum_n [ +1 if argmax F(x_n) = argmax F(x), else -1 ],
    l~(x; m) = (1/|S|) sum_n KL( F(x) || F(x_n) ),

    min over w in {0,1}^N of (1/N) sum_i (1 - w_i) l(x_i; m*(w))
    with m*(w) = argmin_m (1/N) sum_i w_i l~(x_i; m) + lambda |m|_1.

The upper level falls apart into rows, so its minimiser is w_i = 1 where l(x_i; m) > 0: no threshold is set, and no row need be
known to be clean. The lower level is stepped by SGD with momentum, clamped to [0, 1], batches in a fixed order; the two take
turns (`bilevel/alternate.py`), beginning with m = 1. The score is (l + 1)/2, the share of scalings that keep the class.

What differs from released code:
- its penalty is lambda times the SUM of m, added at each batch's step to the MEAN divergence, so that lambda H W is what
  counts: one lambda means another thing at each size. `penalty: mean` is lambda 32^2 times the mean of m: the same at
  32 x 32, and one value for all sizes; `sum` is the released one;
- log-softmax in the place of the logarithm of a softmax, which can be minus infinity;
- the mask may be fitted to a sample of the rows (`fit_rows`): it is H W numbers for all rows. All rows are scored;
- the mask has two useless minima, and there no split is given (`audit/mask_regime.py`): near 0 the model sees a constant image
  and every row of that image's class is "consistent"; near 1/mean(n) the mask undoes the scaling for every row.

How far the mask comes is a matter of steps: a pixel that nothing needs falls by lambda lr / (1 - momentum) at each, from 1 to 0
in about a hundred with the defaults (rounds x passes x batches), and on the way down every mask is a dimmer for a while. On few
rows smaller batches give more steps. Rows that are not suspected cost nothing while the mask is fitted.

The rule flags something on any set, a clean one too. How much is not promised but measured: on rows that are known to be
clean (`clean`), scored under the mask and otherwise left alone, or else on a clean control.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from amends.audit.amplified import Amplified, Divergence, in_chunks, still
from amends.audit.images import check_clean, check_images
from amends.audit.mask_regime import Look
from amends.audit.spc import Scaling
from amends.bilevel.alternate import Alternated, Best, alternate
from amends.bilevel.optimise import Draws
from amends.bilevel.parts import in_parts
from amends.bilevel.problem import Problem
from amends.bilevel.solvers import Momentum
from amends.core.errors import UserError
from amends.core.protocols import Context, Params
from amends.core.spec import Count, Natural, NonNegative, Positive, spec
from amends.core.types import Picture, Role, Sample, Scores
from amends.data.bundle import Bundle
from amends.data.splits import shuffled

REFERENCE = 32 * 32
"""Pixels of the images for which the paper's lambda was chosen."""


@spec
class MSPC:
    """Scaled prediction consistency under a learned mask, and the split that is its own threshold (BackdoorMSPC)."""

    name: ClassVar[str] = "mspc"
    scales: Annotated[tuple[Scaling, ...], Field(min_length=1)] = tuple(range(2, 13))
    """What pixels in 0..1 are multiplied with before they are clipped."""
    shift: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """What is taken from every pixel first: the paper's tau; .1 in the released script, .2 as its code's default."""
    weight: NonNegative = 0.01
    """The paper's lambda: how much a large mask costs."""
    penalty: Literal["mean", "sum"] = "mean"
    """lambda x 1024 x the mean of the mask, one lambda for all sizes; or lambda x its sum, as released. Equal at 32 x 32."""
    divergence: Divergence = "kl"
    """How far predictions move: Kullback-Leibler, or Jensen-Shannon."""
    rounds: Natural = 4
    """How often mask and split take turns; 0 for the shift alone, without a mask."""
    passes: Count = 10
    """Passes over the rows in each round."""
    batch: Count = 1000
    """Rows of a step of the mask."""
    lr: Positive = 0.1
    """The step's size."""
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """Decay of the running sum of slopes, which is carried from round to round."""
    weight_decay: NonNegative = 5e-4
    """Besides the penalty: this times the mask is added to its slope."""
    fit_rows: Count | None = None
    """To how many rows, drawn at random, the mask is fitted; null for all. All are scored in either case."""
    clean: Role | None = None
    """Rows known to be clean, of which the note says how many the rule flags: what to expect of it. They change no score."""
    checkpoint_every: Count = 10
    """Steps of the mask between two exact checkpoints."""
    role: Role = "train"
    """The rows that are audited."""

    def check(self, data: Bundle, subject: Any | None) -> None:
        """Images of one size with classes, and a classifier."""
        check_images(data, self.role, subject, self.name, "it masks and brightens pixels")
        check_clean(data, self.clean, self.role, self.name, "it masks and brightens pixels")
        first = data[self.role][0]
        for role in (self.role, *((self.clean,) if self.clean else ())):
            odd = next((r for r in data[role] if _size(r) != _size(first)), None)
            if odd is not None:
                where = role if role == self.role else f"{self.role}' and '{role}"
                raise UserError(
                    f"mspc: rows {first.id} and {odd.id} of '{where}' are images of two sizes, and one mask is for all: "
                    "bring them to one size"
                )

    def scores(self, subject: Any, data: Bundle, run: Context) -> Scores:
        """The share of scalings under the learned mask that keep the class; flags unless the mask is one that tells nothing."""
        rows = in_order(data[self.role], run.seed)
        with still(subject):
            seen = Amplified.of(subject, rows, self.scales, self.shift, self.divergence)
            fitted = seen.first(self.fit_rows or len(rows))
            ended = self.fit(fitted, run)
            mask_HW = ended.inner["mask"]
            kept_N = ended.best.seen if len(fitted.rows) == len(rows) else seen.kept(mask_HW)
            share_N = kept_N.double() / len(self.scales)
            look = Look.at(seen, mask_HW, flags_N=suspected(kept_N, len(self.scales)), first=ended.first.shown["suspected"])
            alarms = self.alarms(subject, data, mask_HW)
        score = dict(zip((row.id for row in rows), share_N.tolist(), strict=True))
        chosen = {row.id for row, flag in zip(rows, look.flags_N.tolist(), strict=True) if flag}
        run.log(**look.shown())
        return Scores(
            {row.id: score[row.id] for row in data[self.role]}, frozenset() if look.useless else frozenset(chosen),
            look.note(data.classes, alarms), {"mask": Picture(mask_HW.cpu().numpy(), look.caption())},
        )  # fmt: skip

    def alarms(self, subject: Any, data: Bundle, mask_HW: Tensor) -> tuple[int, int] | None:
        """How many of the rows that are known to be clean the rule flags under the mask, and how many there are."""
        if self.clean is None:
            return None
        kept_N = Amplified.of(subject, data[self.clean], self.scales, self.shift, self.divergence).kept(mask_HW)
        return int(suspected(kept_N, len(self.scales)).sum()), len(kept_N)

    def fit(self, seen: Amplified, run: Context) -> Alternated:
        """The alternation, from the whole image: the split, and the mask with its velocity."""
        one_HW = torch.ones(seen.size, device=seen.told_NK.device)
        steps = self.passes * -(-len(seen.rows) // self.batch)
        solver = Momentum(steps, self.lr, self.momentum, self.weight_decay, clamped)
        return alternate(
            self.problems(seen), {"mask": one_HW}, best=partial(self.split, seen), solver=solver, rounds=self.rounds, run=run,
            checkpoint_every=self.checkpoint_every,
        )  # fmt: skip

    def problems(self, seen: Amplified) -> Draws:
        """The bi-level problem on batch number `draw`, passes in one order; outer `w` [N], inner `mask` [H, W]."""
        batches = list(in_chunks(range(len(seen.rows)), self.batch))
        return lambda _, draw: Problem(partial(self.upper, seen), partial(self.lower, seen, batches[draw % len(batches)]))

    def upper(self, seen: Amplified, outer: Params, inner: Params) -> Tensor:
        """(1/N) sum_i (1 - w_i) l(x_i; m)."""
        l_N = signed(seen.kept(inner["mask"]), len(self.scales))
        return ((1 - outer["w"].cpu().double()) * l_N).mean()

    def split(self, seen: Amplified, inner: Params) -> Best:
        """The upper problem's minimiser, w_i = 1 where l(x_i; m) > 0."""
        kept_N = seen.kept(inner["mask"])
        w_N, l_N, mask = suspected(kept_N, len(self.scales)).double(), signed(kept_N, len(self.scales)), inner["mask"]
        shown = {"suspected": w_N.mean(), "mask": mask.mean(), "mask_max": mask.max(), "mask_l1": mask.abs().sum()}
        outer = {"w": w_N.to(mask)}
        return Best(outer, float(((1 - w_N) * l_N).mean()), {k: float(v) for k, v in shown.items()}, kept_N)

    def lower(self, seen: Amplified, batch: Sequence[int], outer: Params, inner: Params) -> Tensor:
        """(1/B) sum_i w_i l~(x_i; m) over a batch, and the penalty. Rows with w_i = 0 are not run; a graph is of few rows."""
        on = [i for i, w in zip(batch, outer["w"][list(batch)].tolist(), strict=True) if w]

        def some(index: Sequence[int], x: Params, y: Params) -> Tensor:
            return (x["w"][list(index)] * seen.drift(index, y["mask"])).sum() / len(batch)

        parts = [partial(some, index) for index in in_chunks(on, seen.together)]
        return in_parts([*parts, lambda x, y: self.price(y["mask"])], outer, inner)

    def price(self, mask_HW: Tensor) -> Tensor:
        """lambda |m|_1 (`sum`), or what it is for the same mean of m at 32 x 32 (`mean`)."""
        size = mask_HW.abs()
        return self.weight * (size.sum() if self.penalty == "sum" else REFERENCE * size.mean())


def in_order(rows: Sequence[Sample], seed: int) -> list[Sample]:
    """The rows in an order that their ids alone decide: batches are mixed, and the first so many are a random sample."""
    by_id = {row.id: row for row in rows}
    return [by_id[row] for row in shuffled(by_id, seed, "mspc")]


def _size(row: Sample) -> tuple[int, ...]:
    """Height and width of its image."""
    return np.shape(row.data["image"])[-2:]


def signed(kept_N: Tensor, scalings: int) -> Tensor:
    """l, -1..1: how many scalings keep the class against how many do not."""
    return 2 * kept_N.double() / scalings - 1


def suspected(kept_N: Tensor, scalings: int) -> Tensor:
    """[N] whether l > 0: more than half of the scalings keep the class; counted, so that a tie is one."""
    return 2 * kept_N > scalings


def clamped(inner: Params) -> dict[str, Tensor]:
    """The projection onto [0, 1]."""
    return {name: value.clamp(0, 1) for name, value in inner.items()}
