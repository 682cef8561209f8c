"""Fisher forgetting (FF, Eternal Sunshine of the Spotless Net, arXiv 1911.04933): noise where the retain rows do not look.

theta_u ~ N(theta, alpha / F) with F the diagonal of the Fisher information of the retain rows: weights that those do not depend
on are blurred. As released with Model Sparsity (arXiv 2304.04934): F_p = mean over batches of sum_y q_y (d CE(batch, y) / dp)^2
with y over ALL classes and q the batch's mean prediction; that squares the gradient of a batch's mean loss, in which rows
cancel, and is the Fisher information only for batches of one row. `over: row` squares each row's own gradient.

The variance is alpha min(1 / (F + 1e-8), 1000), at most 100 in the last layer, averaged over a tensor's second axis, and
10 times that for the last layer and for vectors (biases, norms). Released code takes "the last layer" to be every tensor
whose first size is the number of classes; here it is the last linear layer. It also sets the row of the forgotten class in
the last layer to noise around 0, which writes the answer of class-wise forgetting in by hand, and when no class was asked
for, the LAST class's row. Here that is `blank_class`, off by default.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import SkipValidation
from torch import Tensor

from amends.augment.rows import labelled
from amends.core.errors import UserError
from amends.core.protocols import Context
from amends.core.spec import Count, Natural, Part, Positive, spec
from amends.core.types import Batch, Role, Sample
from amends.data.bundle import Bundle
from amends.engine.fit import Outcome
from amends.engine.guards import every_kth
from amends.engine.per_sample import per_sample
from amends.subjects.distributions import classes
from amends.subjects.head import head, num_classes
from amends.unlearn.live import Live


@spec
class Fisher:
    """Noise on the weights, the larger the less the retain rows depend on them (Fisher forgetting)."""

    starts: ClassVar[str] = "from"
    keeps_weights: ClassVar[bool] = True
    retain: Role = "retain"
    """Which rows must stay; the forget rows are not looked at."""
    alpha: Positive = 1e-8
    """The scale of the variance; searched between 1e-9 and 1e-6."""
    over: Literal["batch", "row"] = "batch"
    """Squares of the gradients of batches' mean losses (released code), or of each row's own: the Fisher information."""
    rows: Count | None = None
    """Retain rows that are used, spread evenly; None for all."""
    batch: Count = 32
    """Rows of one forward."""
    widest: Positive = 1e3
    """The largest 1 / F."""
    widest_last: Positive = 1e2
    """The largest in the last layer."""
    larger: Positive = 10.0
    """What the variance of the last layer and of vectors is multiplied with."""
    average: bool = True
    """Average the variance over a tensor's second axis, as released code does."""
    blank_class: Natural | None = None
    """Sets the last layer's row of this class to noise around 0 (variance 1e-4): not forgetting, but writing the answer in."""
    mask: Annotated[Any, Part("edits"), SkipValidation] = None
    """A `weight_mask`: what it freezes gets no noise."""

    def __call__(self, subject: Any, data: Bundle, run: Context) -> Outcome:
        """Puts the noise on in place."""
        began = time.perf_counter()
        live = Live.of(subject, data, self.mask, run)
        rows = every_kth(data[self.retain], self.rows or len(data[self.retain]))
        number = num_classes(subject, rows[0])
        last, _ = head(subject.module, number)
        fisher = self.diagonal(subject, live, rows, run)
        if self.blank_class is not None and self.blank_class >= number:
            raise UserError(f"fisher.blank_class: there is no class {self.blank_class}: the model has {number}, from 0")
        noise, prefix = {}, f"{last}." if last else ""
        for name, p in live.params.items():
            is_last = name in (f"{prefix}weight", f"{prefix}bias")
            drawn = torch.randn(p.shape, generator=run.rng("fisher", name)).to(p.device)
            noise[name] = drawn * self.variance(fisher[name], is_last).sqrt()
            if is_last and self.blank_class is not None:
                noise[name][self.blank_class] = 1e-2 * drawn[self.blank_class] - p.detach()[self.blank_class]
        share = live.move(live.flat(noise))
        run.say(f"noise of {share:.3g} of the weights' length, by the Fisher information of {len(rows)} retain rows")
        run.log(step=1, moved=share, rows=len(rows))
        return Outcome(1, None, time.perf_counter() - began)

    def objective_on(self, data: Bundle) -> tuple[()]:
        """No sum of terms; raises UserError for a role that the data does not have, or whose rows have no class."""
        labelled(data, self.retain, "fisher")
        return ()

    def variance(self, fisher: Tensor, is_last: bool) -> Tensor:
        """The variance of each weight's noise."""
        wide = (1 / (fisher + 1e-8)).clamp(max=min(self.widest, self.widest_last) if is_last else self.widest)
        if self.average and wide.ndim > 1:
            wide = wide.mean(1, keepdim=True).expand_as(wide)
        return self.alpha * wide * (self.larger if is_last or wide.ndim == 1 else 1.0)

    def diagonal(self, subject: Any, live: Live, rows: list[Sample], run: Context) -> dict[str, Tensor]:
        """The diagonal of the Fisher information by name; in evaluation mode."""
        pieces = [rows[i : i + self.batch] for i in range(0, len(rows), self.batch)]
        total = {name: torch.zeros_like(p, dtype=torch.float32) for name, p in live.params.items()}
        was_training = subject.call.training
        subject.call.eval()
        try:
            with run.progress("Fisher information", len(pieces)) as bar:
                for piece in pieces:
                    batch = subject.collate([subject.encode(row) for row in piece]).to(live.device)
                    squares = _of_batch if self.over == "batch" else _of_rows
                    for found in squares(subject, batch, live.params):
                        for name, value in found.items():
                            total[name] += value
                    bar.advance()
        finally:
            subject.call.train(was_training)
        return {n: t / (len(pieces) if self.over == "batch" else len(rows)) for n, t in total.items()}


def _of_batch(subject: Any, batch: Batch, params: Mapping[str, Tensor]) -> Iterator[dict[str, Tensor]]:
    """For each class y: q_y (d CE(batch, y) / dp)^2; one forward, one backward a class."""
    with torch.enable_grad():
        logits_BK = classes(subject.likelihood(batch)).logits_NV
        log_BK = logits_BK.log_softmax(1)
        share_K = log_BK.detach().exp().mean(0)
        for y in range(len(share_K)):
            found = torch.autograd.grad(
                -log_BK[:, y].mean(), list(params.values()), retain_graph=y + 1 < len(share_K), materialize_grads=True
            )
            yield {n: share_K[y] * g.square() for n, g in zip(params, found, strict=True)}


def _of_rows(subject: Any, batch: Batch, params: Mapping[str, Tensor]) -> Iterator[dict[str, Tensor]]:
    """For each class y: sum over rows of p_y (d CE(row, y) / dp)^2."""
    with torch.no_grad():
        p_BK = classes(subject.likelihood(batch)).logits_NV.softmax(1)
    for y in range(p_BK.shape[1]):
        as_y = Batch(batch.ids, {**batch.tensors, "label": torch.full_like(batch["label"], y)})
        found = per_sample(subject, as_y, params)
        yield {n: torch.einsum("b,b...->...", p_BK[:, y], g.square()) for n, g in found.items()}
