"""The last layer of a classifier, which gives one number a class."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from amends.core.errors import UserError
from amends.core.types import Sample
from amends.subjects.distributions import classes


def num_classes(subject: Any, sample: Sample) -> int:
    """How many classes a subject tells apart, from one forward in evaluation mode; raises UserError where it tells none."""
    was_training = subject.call.training
    subject.call.eval()
    try:
        with torch.no_grad():
            batch = subject.collate([subject.encode(sample)]).to(next(subject.module.parameters()).device)
            return classes(subject.likelihood(batch)).logits_NV.shape[1]
    finally:
        subject.call.train(was_training)


def head(model: nn.Module, classes: int) -> tuple[str, nn.Linear]:
    """The last linear layer with as many outputs as there are classes, and its name; raises UserError if there is none."""
    found = [(n, m) for n, m in model.named_modules() if isinstance(m, nn.Linear) and m.out_features == classes]
    if not found:
        raise UserError(f"the model has no linear layer with {classes} outputs, so its last layer is not known")
    return found[-1]
