"""A subject's likelihood as a function of its parameters: how losses of the two levels are written against the waist."""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.func import functional_call

from amends.core.protocols import Params
from amends.core.types import Batch, Likelihood


class Stateless:
    """The likelihood under any parameters; those that are not given are the subject's own."""

    def __init__(self, subject: Any) -> None:
        self._bound = _Bound(subject)
        names = {id(p): name for name, p in self._bound.named_parameters()}
        self._names = {name: names[id(p)] for name, p in subject.module.named_parameters()}

    def __call__(self, params: Params, batch: Batch) -> Likelihood:
        """The likelihood of a batch under parameters by the module's own names, in their graph."""
        return functional_call(self._bound, {self._names[n]: p for n, p in params.items()}, (batch,))


class _Bound(nn.Module):
    """What `functional_call` takes: the subject with its `call` as a part whose parameters can be exchanged."""

    def __init__(self, subject: Any) -> None:
        super().__init__()
        self.call, self.subject = subject.call, subject

    def forward(self, batch: Batch) -> Likelihood:
        return self.subject.likelihood(batch)
