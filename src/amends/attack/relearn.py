"""Relearning: a few steps of ordinary training, and what comes back (arXiv 2410.07163, 2506.12618).

An unlearned model that only hides its knowledge gets it back in a few steps; the retrained model, which never had it,
is the control. SimNPO's attack trains on 20 % of the forget rows, drawn at random or those with the shortest answers,
for three epochs; open-unlearning's trains on all of them for one. A few rows (`rows: 4`) or rows that have nothing to do
with what was forgotten (`role: retain`) make weaker attackers, and what they bring back cannot have been taught by them.

The rows an attacker was given are no evidence of memory, so a run also writes the share that comes back on those it was
not given, as `recovered` of `<measurement>.unseen`. SimNPO does not say in what it counts the shortest answers; here it
is characters, which needs no tokenizer.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import SkipValidation

from amends.attack.asking import tag
from amends.core.errors import UserError
from amends.core.protocols import Context
from amends.core.rng import rng
from amends.core.spec import Count, Fraction, Part, Weighted, spec
from amends.core.types import Role, Sample
from amends.data.bundle import Bundle
from amends.engine.check import check_edits, hollow
from amends.engine.fit import fit
from amends.engine.optim import AdamW
from amends.terms.nll import NLL


@spec
class Relearn:
    """Fine-tunes on some of the forget rows, or on others, and counts how much of what was forgotten returns."""

    keeps_weights: ClassVar[bool] = False
    role: Role = "forget"
    """Whose rows the attacker trains on; any other role than the forgotten one is relearning on unrelated text."""
    share: Fraction = 1.0
    """The share of those rows that the attacker has."""
    rows: Count | None = None
    """Or how many of them it has."""
    order: Literal["random", "shortest"] = "random"
    """Which ones: drawn at random, or those with the shortest answers."""
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
        """`relearn`, `relearn-4-shot`, `relearn-20-percent-shortest`, `relearn-retain`."""
        parts = ["relearn"] + ([tag(self.role)] if self.role != "forget" else [])
        if self.rows is not None:
            parts.append(f"{self.rows}-shot")
        elif self.share < 1:
            parts.append(f"{100 * self.share:.3g}-percent".replace(".", "_"))
        return "-".join([*parts, *(["shortest"] if self.order == "shortest" else [])])

    @property
    def label(self) -> str:
        """`relearning on 20 % of the rows, the shortest`."""
        of = "the rows" if self.role == "forget" else f"the {self.role} rows"
        if self.rows is not None:
            some = f" on {self.rows} of {of}"
        elif self.share < 1:
            some = f" on {100 * self.share:.3g} % of {of}"
        else:
            some = "" if self.role == "forget" else f" on {of}"
        return f"relearning{some}{', the shortest' if self.order == 'shortest' else ''}"

    def __call__(self, subject: Any, data: Bundle, run: Context) -> None:
        """Attacks in place."""
        held = self.held(data, run.seed)
        rows = [s for s in data[self.role] if s.id in held]
        fit(
            subject, (Weighted(term=NLL(role="relearn")),), data.with_role("relearn", rows), steps=self.steps,
            optim=self.optim, batch=self.batch, edits=self.edits, checkpoint_every=self.checkpoint_every, run=run,
        )  # fmt: skip

    def held(self, data: Bundle, seed: int) -> frozenset[str]:
        """The ids of the rows that the attacker has."""
        rows = data[self.role]
        count = self.rows if self.rows is not None else max(1, round(self.share * len(rows)))
        order = torch.randperm(len(rows), generator=rng(seed, "relearn")).tolist()
        if self.order == "shortest":
            order.sort(key=lambda i: len(_answer(rows[i])))
        return frozenset(rows[i].id for i in order[:count])

    def check_model(self, subject: Any) -> None:
        """Raises UserError for edits that do not fit the model; looks at names and shapes alone."""
        check_edits(self.edits, subject=hollow(subject))

    def objective_on(self, data: Bundle) -> tuple[()]:
        """Raises UserError for a role or a number of rows that the data does not have, or for wrong edits."""
        check_edits(self.edits)
        available = len(data[self.role])
        if self.rows is not None and self.share < 1:
            raise UserError("give either `rows` or `share`")
        if self.rows is not None and self.rows > available:
            raise UserError(f"rows: the role '{self.role}' has {available} rows, not {self.rows}")
        return ()


def _answer(sample: Sample) -> str:
    return str(sample.data.get("answer", sample.data.get("text", "")))
