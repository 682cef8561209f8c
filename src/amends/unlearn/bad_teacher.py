"""Bad teaching (Can Bad Teaching Induce Forgetting?, arXiv 2205.08096): two teachers, one of whom knows nothing.

The start model teaches the retain rows, a model of the same shape with random weights the forget rows, and the student, which
begins as the start model, learns KL(T_bad || student) on the one and KL(T_good || student) on the other: the `kl` term twice,
with a reference that answers for each role by its own teacher.

The released code mixes both kinds of rows in one batch, forget rows and about a third of the retain rows; here each role has
`batch` rows a step, and retain rows come round as long as the forget rows last. It takes torch's mean over rows AND classes,
which is this loss divided by the number of classes: its learning rates are to be divided by that, too.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

from pydantic import SkipValidation

from amends.core.errors import UserError
from amends.core.protocols import Context
from amends.core.spec import Count, Part, Positive, Weighted, spec
from amends.core.types import Batch, Hidden, Likelihood, Role
from amends.data.bundle import Bundle
from amends.engine.fit import Outcome, fit
from amends.engine.optim import AdamW
from amends.engine.parallel import Parallel
from amends.subjects.fresh import redraw
from amends.subjects.reference import Frozen, Reference, frozen_copy
from amends.terms.kl import KL


@dataclass(frozen=True)
class Teachers:
    """Answers for the rows in `bad_ids` by one model, for all others by another."""

    bad_ids: frozenset[str]
    bad: Reference
    good: Reference

    def likelihood(self, batch: Batch) -> Likelihood:
        """The prediction of the batch's teacher."""
        return self._of(batch).likelihood(batch)

    def hidden(self, batch: Batch, at: float) -> Hidden:
        """The activations of the batch's teacher."""
        return self._of(batch).hidden(batch, at)

    def _of(self, batch: Batch) -> Reference:
        return self.bad if batch.ids[0] in self.bad_ids else self.good


@spec
class BadTeacher:
    """Learns forget rows from a random model and retain rows from the start model (bad teaching)."""

    starts: ClassVar[str] = "from"
    keeps_weights: ClassVar[bool] = True
    role: Role = "forget"
    """Which rows are to go."""
    retain: Role = "retain"
    """Which rows must stay."""
    temperature: Positive = 1.0
    """Softens all predictions; 1 in the paper."""
    steps: Count | None = None
    """Optimiser steps; or give `epochs`."""
    epochs: Count | None = None
    """Passes over the forget rows."""
    batch: Count = 64
    """Rows of EACH role a step, over all processes."""
    micro: Count | None = None
    """Rows of one forward; None for the whole batch."""
    optim: Annotated[Any, Part("optim"), SkipValidation] = AdamW(lr=1e-4)
    """The optimiser; Adam in the paper."""
    edits: Annotated[tuple[Any, ...], Part("edits", many=True), SkipValidation] = ()
    """What is done to gradients and weights."""
    guards: Annotated[tuple[Any, ...], Part("guards", many=True), SkipValidation] = ()
    """What may stop the run and keeps its best weights."""
    parallel: Literal["auto", "ddp", "fsdp2"] = "auto"
    """How several processes share the work."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """Precision of the forward pass; weights keep theirs."""
    checkpoint_every: Count = 100
    """Steps between two exact checkpoints."""

    def __call__(self, subject: Any, data: Bundle, run: Context) -> Outcome:
        """Unlearns in place."""
        steps = self.num_steps(data)
        return fit(
            subject, self.objective_on(data), data, steps=steps, optim=self.optim, batch=self.batch, micro=self.micro,
            edits=self.edits, guards=self.guards, reference=self.teachers(subject, data, run),
            parallel=Parallel(self.parallel, self.precision), checkpoint_every=self.checkpoint_every, run=run,
        )  # fmt: skip

    def teachers(self, subject: Any, data: Bundle, run: Context) -> Teachers:
        """The start model for retain rows and, for forget rows, one with weights drawn from the run's own stream."""
        device, twin = Parallel().device, copy.copy(subject)
        call = copy.deepcopy(subject.call).cpu().eval().requires_grad_(False)
        redraw(call, run.seed, "bad teacher")
        twin.adopt(call.to(device))
        subject.call.to(device)
        return Teachers(frozenset(s.id for s in data[self.role]), Frozen(twin), frozen_copy(subject))

    def num_steps(self, data: Bundle) -> int:
        """The number of steps; raises UserError unless exactly one of `steps` and `epochs` is given."""
        if (self.steps is None) == (self.epochs is None):
            raise UserError("give either `steps` or `epochs`")
        return self.steps or (self.epochs or 0) * -(-len(data[self.role]) // self.batch)

    def objective_on(self, data: Bundle) -> tuple[Weighted, ...]:
        """Two divergences; raises UserError for a role that the data does not have."""
        self.num_steps(data)
        for guard in self.guards:
            data[guard.role]
        terms = [KL(role=role, temperature=self.temperature) for role in (self.role, self.retain) if data[role]]
        return tuple(Weighted(term=term) for term in terms)
