"""SCRUB (Towards Unbounded Machine Unlearning, arXiv 2302.09880): a student that disobeys its teacher on the forget rows.

The start model is the teacher. In turns: a pass over the forget rows that MAXIMISES KL(teacher || student), in the first
`max_epochs` epochs only, and a pass over the retain rows that minimises gamma CE + alpha KL(teacher || student). It ends on
passes that minimise, which repair. Written as one objective of three terms whose windows take turns (`terms/during.py`): one
fit, one optimiser, one resumable run. SCRUB+R, the rewound variant, is a guard's work: `forgotten` stops where the forget rows
have become as improbable as rows the model never saw.

A pass is as many steps as it takes for each row to come once. Released notebooks use smaller batches of forget rows (32)
than of retain rows (64); here a step has `batch` rows of its role. A released script gives its optimiser the parameters of a
model that is not the one in training, and so never moves the student. Maximising has no floor: with a large rate put `clip`
among the edits.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import SkipValidation

from amends.core.protocols import Context
from amends.core.spec import Count, Natural, NonNegative, Part, Positive, Weighted, spec
from amends.core.types import Role
from amends.data.bundle import Bundle
from amends.engine.fit import Outcome, fit
from amends.engine.optim import AdamW
from amends.engine.parallel import Parallel
from amends.terms.during import During
from amends.terms.kl import KL
from amends.terms.nll import NLL


@spec
class Scrub:
    """Away from the start model on forget rows and towards it on retain rows, in turns (SCRUB)."""

    starts: ClassVar[str] = "from"
    keeps_weights: ClassVar[bool] = True
    role: Role = "forget"
    """Which rows are to go."""
    retain: Role = "retain"
    """Which rows must stay."""
    epochs: Count = 3
    """Passes over the retain rows."""
    max_epochs: Natural = 2
    """How many of them begin with a pass over the forget rows: the paper's msteps."""
    gamma: NonNegative = 0.99
    """Weight of the retain cross-entropy."""
    alpha: NonNegative = 0.001
    """Weight of the retain divergence."""
    temperature: Positive = 4.0
    """Softens teacher and student in both divergences."""
    batch: Count = 64
    """Rows a step, over all processes."""
    micro: Count | None = None
    """Rows of one forward; None for the whole batch."""
    optim: Annotated[Any, Part("optim"), SkipValidation] = AdamW(lr=5e-4)
    """The optimiser."""
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
        _, minimising = self.turns(data)
        return fit(
            subject, self.objective_on(data), data, steps=minimising[-1][1], optim=self.optim, batch=self.batch,
            micro=self.micro, edits=self.edits, guards=self.guards, reference="start",
            parallel=Parallel(self.parallel, self.precision), checkpoint_every=self.checkpoint_every, run=run,
        )  # fmt: skip

    def turns(self, data: Bundle) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
        """The windows of steps that maximise, and those that minimise."""
        forget, retain = (-(-len(data[role]) // self.batch) for role in (self.role, self.retain))
        maximising, minimising, at = [], [], 0
        for epoch in range(self.epochs):
            if epoch < self.max_epochs:
                maximising.append((at, at + forget))
                at += forget
            minimising.append((at, at + retain))
            at += retain
        return maximising, minimising

    def objective_on(self, data: Bundle) -> tuple[Weighted, ...]:
        """Three terms that take turns; raises UserError for a role that the data does not have."""
        maximising, minimising = (tuple(windows) for windows in self.turns(data))
        for guard in self.guards:
            data[guard.role]
        ce, kl = NLL(role=self.retain), KL(role=self.retain, temperature=self.temperature)
        away = KL(role=self.role, temperature=self.temperature)
        keeping = (
            Weighted(term=During(term=ce, steps=minimising), weight=self.gamma),
            Weighted(term=During(term=kl, steps=minimising), weight=self.alpha),
        )
        return (Weighted(term=During(term=away, steps=maximising), weight=-1.0), *keeping) if maximising else keeping
