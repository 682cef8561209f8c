"""Relearning: a few steps of ordinary training on forget rows, and what comes back (arXiv 2410.07163, 2506.12618).

An unlearned model that only hides its knowledge gets it back in a few steps; the retrained model, which never had it,
is the control. SimNPO's attack trains on 20 % of the forget rows for three epochs, open-unlearning's on all for one.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

from pydantic import SkipValidation

from amends.core.protocols import Context
from amends.core.rng import rng
from amends.core.spec import Count, Fraction, Part, Weighted, spec
from amends.core.types import Role
from amends.data.bundle import Bundle
from amends.engine.fit import fit
from amends.engine.optim import AdamW
from amends.terms.nll import NLL


@spec
class Relearn:
    """Fine-tunes on some of the forget rows and counts how much of what was forgotten returns."""

    keeps_weights: ClassVar[bool] = False
    role: Role = "forget"
    """Whose rows the attacker has."""
    share: Fraction = 1.0
    """The share of those rows that the attacker has; recovery is also read on the rows it does not have."""
    steps: Count = 20
    """Optimiser steps."""
    batch: Count = 8
    """Rows a step."""
    optim: Annotated[Any, Part("optim"), SkipValidation] = AdamW(lr=1e-5)
    """The optimiser; the papers attack at 1e-5 to 2e-5."""
    edits: Annotated[tuple[Any, ...], Part("edits", many=True), SkipValidation] = ()
    """What is done to gradients and weights."""
    checkpoint_every: Count = 100
    """Steps between two exact checkpoints."""

    @property
    def name(self) -> str:
        """`relearn`."""
        return "relearn"

    def __call__(self, subject: Any, data: Bundle, run: Context) -> None:
        """Attacks in place."""
        import torch

        rows = data[self.role]
        order = torch.randperm(len(rows), generator=rng(run.seed, "relearn")).tolist()
        held = [rows[i] for i in sorted(order[: max(1, round(self.share * len(rows)))])]
        fit(
            subject, (Weighted(term=NLL(role="relearn")),), data.with_role("relearn", held), steps=self.steps,
            optim=self.optim, batch=self.batch, edits=self.edits, checkpoint_every=self.checkpoint_every, run=run,
        )  # fmt: skip

    def objective_on(self, data: Bundle) -> tuple[()]:
        """Raises UserError for a role the data does not have."""
        data[self.role]
        return ()
