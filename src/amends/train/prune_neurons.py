"""Removes whole neurons of a layer, without training on: the pruning of the one-layer analysis (arXiv 2406.17167).

A neuron is a row of the layer's matrix. A score of weights (`by`) ranks neurons by the Euclidean length of their scores, so
that `magnitude` is the row's own length and `random` a random order; the same seed gives nested sets for growing shares. With
`order: smallest` the neurons that should matter least go first; `largest` is the control that must cost. Exactly
round(share x neurons) rows, and their entries of a bias, become 0, and nothing else changes.
"""

from __future__ import annotations

import time
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field, SkipValidation
from torch import Tensor

from amends.attribution.magnitude import Magnitude
from amends.core.errors import UserError, nearest
from amends.core.protocols import Context, Start
from amends.core.spec import Part, spec
from amends.data.bundle import Bundle
from amends.engine.fit import Outcome
from amends.engine.parallel import Parallel


@spec
class PruneNeurons:
    """Sets a share of a layer's neurons to 0, by any score of weights, without training on."""

    starts: ClassVar[str] = "from"
    keeps_weights: ClassVar[bool] = True
    layer: str
    """The layer whose rows are neurons."""
    share: Annotated[float, Field(ge=0, lt=1)]
    """How many of them go."""
    by: Annotated[Any, Part("attributions"), SkipValidation] = Magnitude()
    """What scores the weights."""
    order: Literal["smallest", "largest"] = "smallest"
    """Which scores go first."""

    def __call__(self, subject: Any, data: Bundle, run: Context) -> Outcome:
        """Prunes in place; the outcome's sparsity is the share of the layer's neurons that went."""
        began = time.perf_counter()
        subject.call.to(Parallel().device)
        weight, bias = self._layer(subject)
        params = {f"{self.layer}.weight": weight}
        (_, scores), *_ = self.by.scores(params, Start(subject, data, run))
        gone = chosen(scores, self.share, self.order)
        with torch.no_grad():
            weight[gone] = 0
            if bias is not None:
                bias[gone] = 0
        share = len(gone) / len(weight)
        run.say(f"{len(gone)} of {len(weight)} neurons of {self.layer} are gone")
        return Outcome(0, None, time.perf_counter() - began, sparsity=share)

    def check_model(self, subject: Any) -> None:
        """Raises UserError for a layer that the model does not have."""
        self._layer(subject)

    def objective_on(self, data: Bundle) -> tuple[()]:
        """Nothing is trained."""
        return ()

    def _layer(self, subject: Any) -> tuple[Tensor, Tensor | None]:
        params = dict(subject.module.named_parameters())
        weight = params.get(f"{self.layer}.weight")
        if weight is None or weight.ndim < 2:
            known = [n.removesuffix(".weight") for n, p in params.items() if n.endswith(".weight") and p.ndim >= 2]
            raise UserError(f"layer: the model has no layer '{self.layer}' with neurons{nearest(self.layer, known)}")
        return weight, params.get(f"{self.layer}.bias")


def chosen(scores: Tensor, share: float, order: Literal["smallest", "largest"]) -> Tensor:
    """The rows that go: round(share x rows) of them, ties by their place.

    >>> chosen(torch.tensor([[3.0, 4.0], [1.0, 0.0], [2.0, 0.0], [9.0, 0.0]]), 0.5, "smallest").tolist()
    [1, 2]
    """
    lengths = scores.flatten(1).float().norm(dim=1)
    ranked = torch.argsort(lengths, descending=order == "largest", stable=True)
    return ranked[: round(share * len(ranked))]
