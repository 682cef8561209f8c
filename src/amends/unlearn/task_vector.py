"""Negated task vectors (Editing Models with Task Arithmetic, arXiv 2212.04089): learn what is to go, then step the other way.

theta_over is theta fine-tuned on the rows that are to be forgotten; the result is theta - alpha (theta_over - theta).
MUSE (arXiv 2407.06460) tries it on language models, with alpha up to 512, and finds that it hardly forgets what the
model already knows by heart: there is little left to learn, so the vector has little to say. Only parameters move;
buffers, such as a batch norm's statistics, stay the original's.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import SkipValidation

from amends.core.errors import UserError
from amends.core.protocols import Context
from amends.core.spec import Count, Part, Positive, Weighted, spec
from amends.core.types import Role
from amends.data.bundle import Bundle
from amends.engine.check import check_edits, hollow
from amends.engine.fit import Outcome, fit
from amends.engine.optim import AdamW
from amends.engine.parallel import Parallel
from amends.subjects.distributions import precise
from amends.subjects.lora import Lora
from amends.terms.nll import NLL


@spec
class TaskVector:
    """Fine-tunes on the rows to forget, then moves the weights by alpha times as far the other way."""

    starts: ClassVar[str] = "from"
    keeps_weights: ClassVar[bool] = True
    role: Role = "forget"
    """Which rows are to go."""
    alpha: Positive = 5.0
    """How many times the vector is taken away."""
    steps: Count | None = None
    """Optimiser steps of the fine-tuning; or give `epochs`."""
    epochs: Count | None = None
    """Passes over the role."""
    batch: Count = 8
    """Rows a step, over all processes."""
    micro: Count | None = None
    """Rows of one forward; None for the whole batch."""
    optim: Annotated[Any, Part("optim"), SkipValidation] = AdamW()
    """The optimiser."""
    edits: Annotated[tuple[Any, ...], Part("edits", many=True), SkipValidation] = ()
    """What is done to gradients and weights."""
    lora: Lora | None = None
    """Fine-tune an adapter instead of all weights."""
    parallel: Literal["auto", "ddp", "fsdp2"] = "auto"
    """How several processes share the work."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """Precision of the forward pass; weights keep theirs."""
    checkpoint_every: Count = 100
    """Steps between two exact checkpoints."""

    def __call__(self, subject: Any, data: Bundle, run: Context) -> Outcome:
        """Unlearns in place; a resumed run takes up the fine-tuning, from which the rest follows."""
        start = _on_cpu(subject.module.named_parameters())
        buffers = _on_cpu(subject.module.named_buffers())
        if self.lora is not None:
            self.lora.attach(subject, run.seed)
        outcome = fit(
            subject, self.objective_on(data), data, steps=self.num_steps(data), optim=self.optim, batch=self.batch,
            micro=self.micro, edits=self.edits, parallel=Parallel(self.parallel, self.precision),
            checkpoint_every=self.checkpoint_every, run=run,
        )  # fmt: skip
        if self.lora is not None:
            self.lora.merge(subject)
        self._negate(subject, start, run)
        for name, b in subject.module.named_buffers():
            b.copy_(buffers[name])
        return outcome

    @torch.no_grad()
    def _negate(self, subject: Any, start: dict[str, torch.Tensor], run: Context) -> None:
        """theta - alpha (theta_over - theta), computed in float32 or wider."""
        square = whole = 0.0
        for name, p in subject.module.named_parameters():
            first = precise(start[name].to(p.device))
            vector = precise(p) - first
            square, whole = square + float(vector.square().sum()), whole + float(first.square().sum())
            p.copy_(first - self.alpha * vector)
        run.say(f"took the task vector away {self.alpha:g} times; it is {(square / whole) ** 0.5:.3g} of the weights' length")

    def check_model(self, subject: Any) -> None:
        """Raises UserError for edits or an adapter that do not fit the model; looks at names and shapes alone."""
        twin = hollow(subject)
        if self.lora is not None:
            self.lora.attach(twin, 0)
        check_edits(self.edits, adapter=self.lora is not None, subject=twin)

    def num_steps(self, data: Bundle) -> int:
        """The number of steps; raises UserError unless exactly one of `steps` and `epochs` is given."""
        if (self.steps is None) == (self.epochs is None):
            raise UserError("give either `steps` or `epochs`")
        return self.steps or (self.epochs or 0) * -(-len(data[self.role]) // self.batch)

    def objective_on(self, data: Bundle) -> tuple[Weighted, ...]:
        """Cross-entropy on the role; raises UserError for a role that the data does not have, or for wrong edits."""
        check_edits(self.edits, adapter=self.lora is not None)
        self.num_steps(data)
        return (Weighted(term=NLL(role=self.role)),)


def _on_cpu(named: Any) -> dict[str, torch.Tensor]:
    return {name: t.detach().to("cpu", copy=True) for name, t in named}
