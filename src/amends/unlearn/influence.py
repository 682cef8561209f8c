"""Influence unlearning (IU): one Newton step that takes the forget rows' weight away, with the WoodFisher inverse.

As in Model Sparsity Can Simplify Machine Unlearning (arXiv 2304.04934); the inverse is that of WoodFisher (arXiv 2004.14340).
Leaving D_f out changes the optimum by H^-1 v with v = (n_f / N) (mean gradient on D_f - mean gradient on D_r), N = n_f + n_r,
and H ~ damping I + (1/M) sum g g^T over single retain rows' gradients: theta_u = theta + alpha H^-1 v.

`inverse: running` is the released code's: with k = v / damping and o = g_1 / damping it goes once through the other rows,
k <- k - <k, g> / (M + <o, g>) o and o <- o - <o, g> / (M + <o, g>) o. WoodFisher needs H_i^-1 g_i for EACH row in the place
of o, for which all earlier vectors are kept; the one running vector is exact only when all gradients are the same, and
otherwise a sketch along a single direction. `inverse: exact` solves it by the Woodbury identity,
H^-1 v = (v - G^T (M damping I + G G^T)^-1 G v) / damping, which holds the M gradients in memory. At many rows the two differ.

The released code takes the first 1,000 retain rows as they come, divides by 1,000 even when there are fewer, and has
damping 1; here M is the number of rows that were seen. Rows are differentiated together (`engine/per_sample.py`).
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import SkipValidation
from torch import Tensor

from amends.attribution.gradients import gradients
from amends.augment.rows import labelled
from amends.core.errors import UserError
from amends.core.protocols import Context, Start
from amends.core.spec import Count, Part, Positive, spec
from amends.core.types import Batch, Role, Sample
from amends.data.bundle import Bundle
from amends.engine.fit import Outcome
from amends.engine.per_sample import per_sample
from amends.unlearn.live import Live


@spec
class Influence:
    """One Newton step away from the forget rows (IU, WoodFisher): no training, per-sample gradients of some retain rows."""

    starts: ClassVar[str] = "from"
    keeps_weights: ClassVar[bool] = True
    role: Role = "forget"
    """Which rows are to go."""
    retain: Role = "retain"
    """Which rows must stay."""
    alpha: Positive = 1.0
    """How many times the step is taken; it decides everything and is searched, on a scale of 1 to 100."""
    inverse: Literal["running", "exact"] = "running"
    """The released code's one running vector, or the Woodbury identity over all rows seen."""
    rows: Count = 1000
    """Retain rows whose gradients make the curvature; fewer where the role has fewer."""
    order: Literal["first", "drawn"] = "first"
    """The first rows of the role (the released code), or rows drawn by the seed."""
    damping: Positive = 1.0
    """The curvature where no gradient points; 1 in the released code."""
    mask: Annotated[Any, Part("edits"), SkipValidation] = None
    """A `weight_mask`: what it freezes does not move, and its gradients count as 0."""
    micro: Count = 64
    """Rows that are differentiated together; each takes the memory of a gradient."""
    at_most_gb: Positive = 8.0
    """The largest memory that `inverse: exact` may take for its gradients."""

    def __call__(self, subject: Any, data: Bundle, run: Context) -> Outcome:
        """Moves the weights in place; a step that is not finite is not taken."""
        began = time.perf_counter()
        live = Live.of(subject, data, self.mask, run)
        seen = self._seen(data, run)
        size = sum(p.numel() for p in live.params.values())
        if self.inverse == "exact" and 4e-9 * len(seen) * size > self.at_most_gb:
            raise UserError(
                f"influence: {len(seen)} gradients of {size:,} weights take {4e-9 * len(seen) * size:.0f} GB: lower `rows`, "
                "raise `at_most_gb`, or use `inverse: running`"
            )
        v = self._wanted(subject, data, live, run)
        single = self._single(subject, live, seen)
        if self.inverse == "running":
            found = running(v, single, len(seen), self.damping)
        else:
            found = exact(v, torch.stack(list(single)), self.damping)
        if not found.isfinite().all():
            return Outcome(0, "diverged: the step is not finite and was not taken; raise damping", time.perf_counter() - began)
        share = live.move(self.alpha * found)
        run.say(f"one step of {share:.3g} of the weights' length, by the curvature of {len(seen)} retain rows")
        run.log(step=1, moved=share, rows=len(seen))
        return Outcome(1, None, time.perf_counter() - began)

    def objective_on(self, data: Bundle) -> tuple[()]:
        """No sum of terms; raises UserError for a role that the data does not have, or whose rows have no class."""
        for role in (self.role, self.retain):
            labelled(data, role, "influence")
        return ()

    def _seen(self, data: Bundle, run: Context) -> list[Sample]:
        rows = list(data[self.retain])
        if self.order == "drawn":
            rows = [rows[i] for i in torch.randperm(len(rows), generator=run.rng("influence")).tolist()]
        return rows[: self.rows]

    def _wanted(self, subject: Any, data: Bundle, live: Live, run: Context) -> Tensor:
        """(n_f / N) (mean gradient on the forget rows - mean gradient on the retain rows)."""
        start, means = Start(subject, data, run), {}
        for role in (self.role, self.retain):
            batches = list(_batches(subject, data[role], self.micro))
            means[role] = live.flat(gradients(start, batches, live.params, micro=self.micro))
        num = {role: len(data[role]) for role in means}
        return num[self.role] / sum(num.values()) * (means[self.role] - means[self.retain])

    def _single(self, subject: Any, live: Live, rows: list[Sample]) -> Iterator[Tensor]:
        """[P] the gradient of each row, in order."""
        for batch in _batches(subject, rows, self.micro):
            yield from live.flat(per_sample(subject, batch.to(live.device), live.params))


def running(v: Tensor, single: Iterator[Tensor], num: int, damping: float) -> Tensor:
    """The released recursion with one running vector, over `num` gradients; the first only starts it."""
    k, o = v / damping, next(single) / damping
    for g in single:
        rest = num + o @ g
        k = k - (k @ g) / rest * o
        o = o - (o @ g) / rest * o
    return k


def exact(v: Tensor, single_MP: Tensor, damping: float) -> Tensor:
    """(damping I + G^T G / M)^-1 v by the Woodbury identity: one M x M system, in float64."""
    gram_MM = (single_MP @ single_MP.T).double()
    gram_MM.diagonal().add_(len(single_MP) * damping)
    weights_M = torch.linalg.solve(gram_MM, (single_MP @ v).double()).to(v)
    return (v - weights_M @ single_MP) / damping


def _batches(subject: Any, rows: Any, size: int) -> Iterator[Batch]:
    for i in range(0, len(rows), size):
        yield subject.collate([subject.encode(row) for row in rows[i : i + size]])
