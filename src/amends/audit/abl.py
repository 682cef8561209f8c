"""Anti-Backdoor Learning's isolation (Li et al., arXiv 2110.11571): rows with a trigger are learned first.

A model of the same shape as the audited one, its weights drawn anew, is trained on all rows for some epochs with local gradient
ascent (`terms/lga.py`), which holds the loss near gamma, so that only what is learned too fast slips below. Then the rows with
the lowest losses are the suspects: `rate` of them are flagged. The score is exp(-loss), the probability of the row's label
under that model.

Epochs, gamma, rate and optimiser are the paper's: 20, .5, 1 %, SGD of .1 with momentum .9. Neither the model that is audited
nor clean rows are looked at, only the model's shape. The model is trained by the ordinary loop with checkpoints in the run's
folder; an interrupted audit goes on from the last one.

The sign is that of the batch's mean, as in released code; `sign: row` is the paper's formula, which pushes single fast rows
back as well. Where clean rows are learned as fast as those with a trigger, as on small easy data, the order of losses says
little, and may turn from one epoch to the next: on 8 x 8 digits it did.
"""

from __future__ import annotations

import copy
import math
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, SkipValidation

from amends.audit.images import lowest
from amends.audit.rows import check_classifier
from amends.core.errors import UserError
from amends.core.protocols import Context
from amends.core.spec import Count, NonNegative, Part, Weighted, spec
from amends.core.types import Role, Scores
from amends.data.bundle import Bundle
from amends.engine.fit import fit
from amends.engine.optim import SGD
from amends.engine.parallel import Parallel
from amends.engine.score import nll_by_id
from amends.subjects.fresh import redraw
from amends.terms.lga import LGA


@spec
class ABL:
    """Trains a fresh model that learns no row below gamma, and flags what it learned all the same (ABL's isolation)."""

    name: ClassVar[str] = "abl"
    epochs: Count = 20
    """Passes over the rows before losses are compared."""
    batch: Count = 64
    """Rows a step."""
    gamma: NonNegative = 0.5
    """Nats below which a row is pushed back."""
    sign: Literal["row", "batch"] = "batch"
    """Whether a step goes up or down for all its rows by their mean (released code), or for each row (the paper's formula)."""
    form: Literal["lga", "flooding"] = "lga"
    """Local gradient ascent, or flooding: one gradient, two values in the log."""
    optim: Annotated[Any, Part("optim"), SkipValidation] = SGD(lr=0.1, momentum=0.9, weight_decay=5e-4)
    """The optimiser."""
    rate: Annotated[float, Field(gt=0, lt=1)] = 0.01
    """The share of rows that is flagged (the paper's isolation rate)."""
    checkpoint_every: Count = 100
    """Steps between two exact checkpoints."""
    role: Role = "train"
    """The rows that are audited."""

    def check(self, data: Bundle, subject: Any | None) -> None:
        """Rows of more than one class, and a classifier."""
        check_classifier(data, self.role, subject, self.name)
        if len({int(row.data["label"]) for row in data[self.role]}) < 2:
            raise UserError(f"abl: all rows of '{self.role}' have one label, which is learned at once: audit several classes")

    def scores(self, subject: Any, data: Bundle, run: Context) -> Scores:
        """The probability of each row's label under a model trained with local gradient ascent."""
        rows = sorted(data[self.role], key=lambda row: row.id)  # the loop deals rows out by their place
        twin = fresh(subject, run.seed)
        steps = self.epochs * -(-len(rows) // self.batch)
        term = Weighted(term=LGA(role="audited", gamma=self.gamma, sign=self.sign, form=self.form))
        outcome = fit(
            twin, [term], Bundle({"audited": tuple(rows)}), steps=steps, optim=self.optim, batch=self.batch,
            checkpoint_every=self.checkpoint_every, run=run,
        )  # fmt: skip
        loss = {row: nll / n for row, (nll, n) in nll_by_id(twin, rows, device=Parallel().device).items()}
        below = sum(value < self.gamma for value in loss.values()) / len(loss)
        note = outcome.stopped or f"{below:.0%} of the rows have a loss below gamma"
        return Scores({row.id: math.exp(-loss[row.id]) for row in data[self.role]}, lowest(loss, self.rate), note)


def fresh(subject: Any, seed: int) -> Any:
    """A model of the same shape with weights of its own, drawn anew, all of them to be trained."""
    twin = copy.copy(subject)
    call = copy.deepcopy(subject.call).cpu()
    for p in call.parameters():
        p.requires_grad_(p.is_floating_point())
    redraw(call, seed, "abl")
    twin.adopt(call)
    return twin
