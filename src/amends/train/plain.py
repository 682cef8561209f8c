"""Ordinary training on some roles: the original on all of them, the retrained model on all but the forget rows.

`leave_out` makes the exact unlearner of the unrolling argument (Unrolling SGD, arXiv 2109.13398; Model Sparsity Can Simplify
Machine Unlearning, arXiv 2304.04934): the very same training, first weights, order of rows and learning rates included,
but for the rows that are missing from their batches. What is left of a batch is averaged over the rows that are there.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Any, ClassVar, Literal

from pydantic import SkipValidation

from amends.core.errors import UserError
from amends.core.protocols import Context, Need
from amends.core.spec import Count, Part, Weighted, spec
from amends.core.types import Role
from amends.data.bundle import Bundle
from amends.engine.check import check_edits, hollow
from amends.engine.fit import Outcome, fit
from amends.engine.optim import AdamW
from amends.engine.parallel import Parallel
from amends.subjects.fresh import redraw
from amends.terms.nll import NLL


@spec
class Train:
    """Maximum likelihood (or another loss) on the rows of some roles, from fresh or from given weights."""

    starts: ClassVar[str] = "any"
    keeps_weights: ClassVar[bool] = True
    on: tuple[Role, ...]
    """The roles whose rows are learned; leaving `forget` out makes the retrained model."""
    leave_out: Role | None = None
    """A role of `on` whose rows keep their place in the order and are missing from their batches."""
    fresh: bool = False
    """Draw the weights anew first: retraining for a subject that comes with trained ones."""
    loss: Annotated[Any, Part("terms"), SkipValidation] = Weighted(term=NLL())
    """The term that is learned, on the roles of `on` whatever its own role: cross-entropy, or such as `margin_hinge`."""
    steps: Count
    """Optimiser steps."""
    batch: Count = 16
    """Rows a step, over all processes."""
    micro: Count | None = None
    """Rows of one forward; None for the whole batch."""
    optim: Annotated[Any, Part("optim"), SkipValidation] = AdamW(lr=1e-3, warmup=0.1, schedule="cosine")
    """The optimiser."""
    edits: Annotated[tuple[Any, ...], Part("edits", many=True), SkipValidation] = ()
    """What is done to gradients and weights."""
    parallel: Literal["auto", "ddp", "fsdp2"] = "auto"
    """How several processes share the work."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """Precision of the forward pass; weights keep theirs."""
    checkpoint_every: Count = 100
    """Steps between two exact checkpoints."""

    def __call__(self, subject: Any, data: Bundle, run: Context) -> Outcome:
        """Trains the subject in place."""
        if self.fresh:
            redraw(subject.module, run.seed, "fresh")
        return fit(
            subject, self.objective_on(data), data.with_role("train", data.together(self.on)), steps=self.steps,
            optim=self.optim, batch=self.batch, micro=self.micro, edits=self.edits,
            parallel=Parallel(self.parallel, self.precision), checkpoint_every=self.checkpoint_every, run=run,
            without=frozenset(row.id for row in data[self.leave_out]) if self.leave_out else frozenset(),
        )  # fmt: skip

    def check_model(self, subject: Any) -> None:
        """Raises UserError for edits that do not fit the model; looks at names and shapes alone."""
        check_edits(self.edits, subject=hollow(subject))

    def objective_on(self, data: Bundle) -> tuple[Weighted, ...]:
        """The loss on the union of the roles; raises UserError for a role the data does not have, for wrong edits, and for a
        term that compares with something."""
        check_edits(self.edits)
        if not data.together(self.on):
            raise UserError("on: give at least one role with rows to train on")
        if self.leave_out is not None and (self.leave_out not in self.on or len(self.on) < 2):
            raise UserError(
                f"leave_out: '{self.leave_out}' keeps its place in the order of `on`: name it there, beside a role to learn"
            )
        more = sorted(self.loss.term.needs - {Need.CLASSES})
        if more or hasattr(self.loss.term, "following"):
            what = f"needs {more[0]}" if more else "moves a multiplier"
            raise UserError(f"loss: {type(self.loss.term).__name__} {what}, which training from nothing does not have")
        return (replace(self.loss, term=replace(self.loss.term, role="train")),)
