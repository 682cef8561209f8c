"""What an edit would refuse, said before any work: without a model, and then on the model's shapes alone."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch

from amends.core.errors import UserError


def check_edits(edits: Sequence[Any], *, adapter: bool = False, subject: Any = None) -> None:
    """Raises UserError for what an edit's `check` refuses, in order, or when all of them together leave nothing to train.

    Args:
        adapter: whether a LoRA adapter is trained.
        subject: the model as `hollow` leaves it; None while there is none.
    """
    for edit in edits:
        if hasattr(edit, "check"):
            edit.check(subject, adapter)
    if subject is not None and edits and not any(p.requires_grad for p in subject.module.parameters()):
        raise UserError("nothing to train: every parameter is frozen")


def hollow(subject: Any) -> Any:
    """The same model with names and shapes and no values: it costs next to nothing and may be taken apart."""
    held = subject.module.named_parameters(remove_duplicate=True)
    memo = {id(p): torch.nn.Parameter(p.detach().to("meta"), requires_grad=p.requires_grad) for _, p in held}
    twin = copy.copy(subject)
    twin.adopt(copy.deepcopy(subject.call, memo))
    return twin
