"""Unlearning by gradient: any weighted sum of terms, any edits, all weights or a LoRA adapter."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import SkipValidation

from amends.core.errors import UserError
from amends.core.protocols import Context, Need
from amends.core.spec import Count, Part, Weighted, spec
from amends.data.bundle import Bundle
from amends.engine.check import check_edits, hollow
from amends.engine.fit import Outcome, fit
from amends.engine.optim import AdamW
from amends.engine.parallel import Parallel
from amends.subjects.lora import Lora


@spec
class Gradient:
    """Minimises an objective from the original's weights: GA, GradDiff, NPO, SimNPO, ... are its objectives."""

    starts: ClassVar[str] = "from"
    keeps_weights: ClassVar[bool] = True
    objective: Annotated[tuple[Weighted, ...], Part("terms", many=True), SkipValidation]
    """The terms with their weights; "+retain" methods are sums."""
    steps: Count | None = None
    """Optimiser steps; or give `epochs`."""
    epochs: Count | None = None
    """Passes over the role of the first term, as the papers count."""
    batch: Count = 8
    """Rows of EACH role a step, over all processes."""
    micro: Count | None = None
    """Rows of one forward; None for the whole batch."""
    optim: Annotated[Any, Part("optim"), SkipValidation] = AdamW()
    """The optimiser."""
    edits: Annotated[tuple[Any, ...], Part("edits", many=True), SkipValidation] = ()
    """What is done to gradients and weights."""
    guards: Annotated[tuple[Any, ...], Part("guards", many=True), SkipValidation] = ()
    """What may stop the run and keeps its best weights."""
    augment: Annotated[tuple[Any, ...], Part("augments", many=True), SkipValidation] = ()
    """Rows and alternatives that are made before training, with the start model where it is needed."""
    lora: Lora | None = None
    """Train an adapter instead of all weights; it is merged at the end, and switched off it is the reference."""
    parallel: Literal["auto", "ddp", "fsdp2"] = "auto"
    """How several processes share the work."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """Precision of the forward pass; weights keep theirs."""
    checkpoint_every: Count = 100
    """Steps between two exact checkpoints."""

    def __call__(self, subject: Any, data: Bundle, run: Context) -> Outcome:
        """Unlearns in place; an adapter is merged into the weights at the end."""
        for augment in self.augment:
            data = augment(subject, data, run)
        if self.lora is not None:
            self.lora.attach(subject, run.seed)
        outcome = fit(
            subject, self.objective, data, steps=self.num_steps(data), optim=self.optim, batch=self.batch,
            micro=self.micro, edits=self.edits, guards=self.guards, reference="start",
            parallel=Parallel(self.parallel, self.precision), checkpoint_every=self.checkpoint_every, run=run,
        )  # fmt: skip
        if self.lora is not None:
            self.lora.merge(subject)
        return outcome

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
        if self.steps is not None:
            return self.steps
        assert self.epochs is not None
        return self.epochs * -(-len(data[self.objective[0].term.role]) // self.batch)

    def objective_on(self, data: Bundle) -> tuple[Weighted, ...]:
        """The objective; raises UserError for a role (of a guard, too) or an alternative that the data does not have.

        So it does for edits that are wrong whatever the model is.
        """
        check_edits(self.edits, adapter=self.lora is not None)
        if not self.objective:
            raise UserError("objective: give at least one term")
        for augment in self.augment:
            data = augment.objective_on(data)
        self.num_steps(data)
        for guard in self.guards:
            data[guard.role]
        for weighted in self.objective:
            rows = data[weighted.term.role]
            if Need.ALTERNATIVE in weighted.term.needs and any(s.id not in data.alternatives for s in rows):
                raise UserError(
                    f"{type(weighted.term).__name__} needs another answer for every row of '{weighted.term.role}', "
                    "and the data has none: use question or prompt rows, which get refusals"
                )
        return self.objective
