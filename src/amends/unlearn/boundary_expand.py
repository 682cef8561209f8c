"""Boundary expand (Boundary Unlearning, arXiv 2303.11570): the forget rows get a class of their own, which is then removed.

The last layer gets one output more; cross-entropy on the forget rows alone towards that class; then the output is dropped,
and the model has the classes that it had. The forget rows, whose true class lost them, fall to whatever comes next. There is
no retain half, so small learning rates are all that the other rows are protected by.

The result is always the narrow model: with the extra output kept, a forget row would be "right" in no class, and its
accuracy 0 by construction. The extra row is drawn as a new linear layer's is.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import SkipValidation
from torch import nn

from amends.augment.rows import labelled
from amends.core.errors import UserError
from amends.core.protocols import Context
from amends.core.spec import Count, Part, Weighted, spec
from amends.core.types import Role
from amends.data.bundle import Bundle
from amends.engine.fit import Outcome, fit
from amends.engine.optim import SGD
from amends.engine.parallel import Parallel
from amends.subjects.head import head, num_classes
from amends.terms.nll import NLL


@spec
class BoundaryExpand:
    """Trains the forget rows into an extra class, which is removed afterwards (boundary expand)."""

    starts: ClassVar[str] = "from"
    keeps_weights: ClassVar[bool] = True
    role: Role = "forget"
    """Which rows are to go."""
    steps: Count | None = None
    """Optimiser steps; or give `epochs`."""
    epochs: Count | None = None
    """Passes over the forget rows."""
    batch: Count = 64
    """Rows a step, over all processes."""
    micro: Count | None = None
    """Rows of one forward; None for the whole batch."""
    optim: Annotated[Any, Part("optim"), SkipValidation] = SGD(lr=1e-4, momentum=0.9)
    """The optimiser; the rate is searched from very small values up."""
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
        """Unlearns in place; the model has its own classes again afterwards. Raises UserError for a model without a head."""
        rows = labelled(data, self.role, "boundary_expand")
        extra = num_classes(subject, rows[0])
        name, narrow = head(subject.module, extra)
        if not name:
            raise UserError("boundary_expand: the model is a single linear layer, which cannot be replaced inside it")
        _put(subject.module, name, _widened(narrow, run.rng("boundary_expand")))
        beyond = data.with_role(self.role, [row.with_("beyond", label=extra) for row in rows])
        outcome = fit(
            subject, self.objective_on(data), beyond, steps=self.num_steps(data), optim=self.optim, batch=self.batch,
            micro=self.micro, edits=self.edits, guards=self.guards, parallel=Parallel(self.parallel, self.precision),
            checkpoint_every=self.checkpoint_every, run=run,
        )  # fmt: skip
        wide = subject.module.get_submodule(name)
        with torch.no_grad():
            narrow.to(wide.weight.device).weight.copy_(wide.weight[:extra])
            if narrow.bias is not None:
                narrow.bias.copy_(wide.bias[:extra])
        _put(subject.module, name, narrow)
        return outcome

    def num_steps(self, data: Bundle) -> int:
        """The number of steps; raises UserError unless exactly one of `steps` and `epochs` is given."""
        if (self.steps is None) == (self.epochs is None):
            raise UserError("give either `steps` or `epochs`")
        return self.steps or (self.epochs or 0) * -(-len(data[self.role]) // self.batch)

    def objective_on(self, data: Bundle) -> tuple[Weighted, ...]:
        """Cross-entropy on the role; raises UserError for a role that the data does not have, or whose rows have no class."""
        labelled(data, self.role, "boundary_expand")
        self.num_steps(data)
        for guard in self.guards:
            data[guard.role]
        return (Weighted(term=NLL(role=self.role)),)


@torch.no_grad()
def _widened(narrow: nn.Linear, generator: torch.Generator) -> nn.Linear:
    """The layer with one output more, drawn uniformly within 1 / sqrt(inputs)."""
    has_bias, bound = narrow.bias is not None, narrow.in_features**-0.5
    wide = nn.Linear(narrow.in_features, narrow.out_features + 1, bias=has_bias, device="meta", dtype=narrow.weight.dtype)
    wide.to_empty(device=narrow.weight.device)
    for mine, old in ((wide.weight, narrow.weight), *(((wide.bias, narrow.bias),) if has_bias else ())):
        mine[:-1].copy_(old)
        mine[-1].copy_((2 * torch.rand(mine[-1].shape, generator=generator) - 1) * bound)
    return wide


def _put(model: nn.Module, name: str, layer: nn.Module) -> None:
    parent, _, last = name.rpartition(".")
    setattr(model.get_submodule(parent), last, layer)
