"""Hidden-layer probe: a head that reads answers out of the middle of the network (arXiv 2506.12618, section on probing).

An unlearned model may have stopped saying what its inner layers still hold. The blocks behind one are left out, the rest
is frozen, and a head is trained on the retain rows, which hold none of the answers; then the forget answers are read
through it. open-unlearning keeps layers up to 11 of 16 and trains for ten epochs at 1e-4. Here the head begins as the
model's own final norm and head, which is a stronger start than a fresh one for a budget of a few steps.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

from pydantic import Field, SkipValidation

from amends.attack.asking import asks
from amends.attack.depth import cut, depth_label, depth_name
from amends.core.errors import UserError
from amends.core.protocols import Context
from amends.core.spec import Count, Part, Weighted, spec
from amends.core.types import Role
from amends.data.bundle import Bundle
from amends.engine.fit import fit
from amends.engine.optim import AdamW
from amends.terms.nll import NLL

Depth = Annotated[int, Field(ge=0)] | Annotated[float, Field(gt=0, le=1)]
"""A block: an index from 0, or a float, the share of the depth."""


@spec
class Probe:
    """Trains a head on the middle of the frozen network, on retain rows, and reads the forget answers through it."""

    keeps_weights: ClassVar[bool] = False
    at: Depth = 0.5
    """The last block that is kept: its index from 0, or a share of the depth such as 0.5."""
    on: Role = "retain"
    """Whose rows the head is trained on."""
    steps: Count = 50
    """Optimiser steps."""
    batch: Count = 8
    """Rows a step."""
    optim: Annotated[Any, Part("optim"), SkipValidation] = AdamW(lr=1e-4)
    """The optimiser of the head."""
    checkpoint_every: Count = 100
    """Steps between two exact checkpoints."""

    @property
    def name(self) -> str:
        """`probe-50` for half the depth, `probe-L3` for block 3."""
        return f"probe-{depth_name(self.at)}"

    @property
    def label(self) -> str:
        """`a probe at 50 % of the depth`."""
        return f"a probe at {depth_label(self.at)}"

    def __call__(self, subject: Any, data: Bundle, run: Context) -> None:
        """Cuts the model in place and trains its head."""
        head = cut(subject, self.at)
        subject.module.requires_grad_(False)
        for parameter in head:
            parameter.requires_grad_(True)
        fit(
            subject, (Weighted(term=NLL(role=self.on)),), data, steps=self.steps, optim=self.optim, batch=self.batch,
            checkpoint_every=self.checkpoint_every, run=run,
        )  # fmt: skip
        subject.module.requires_grad_(True)

    def objective_on(self, data: Bundle) -> tuple[()]:
        """Raises UserError for a missing role, or for rows that are no text."""
        need_text(data, self.on)
        return ()


def need_text(data: Bundle, role: Role) -> None:
    """Raises UserError for a missing role and for a row that no language model reads."""
    odd = next((s.id for s in data[role] if not asks(s) and not s.data.get("text")), None)
    if odd is not None:
        raise UserError(f"role '{role}', row {odd}: is no text, and this attack reads the blocks of language models")
