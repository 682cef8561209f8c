"""Two groups of neurons: how long the rows of a matrix are, how many stayed small, where the others point (arXiv 2406.17167).

The one-layer analysis says that training from small first weights N(0, xi^2) splits the rows of W_O: a constant share grows
and turns towards a label-relevant pattern, the rest stays of the order xi. That is why pruning by size costs nothing up to
the size of the second group. Here a neuron is `small` while its row is at most twice as long as the median row was at first.
The direction is read against W_V mu for the patterns mu of the role `relevant`, for that is what such a row is multiplied
with.

Neurons are no sample of rows; one model gives one number, with an interval of no width. The scores of a measurement are each
neuron's own, by its number: a recipe can have them drawn (`draw`, `over: size`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np

from amends.core.errors import UserError, nearest
from amends.core.spec import Fraction, spec
from amends.core.types import Better, Measurement, Role
from amends.metrics.evaluation import Evaluation

if TYPE_CHECKING:
    from torch import Tensor

STAYED = 2.0
"""Up to so many times the median first length a row counts as small."""


@spec
class NeuronNorm:
    """A quantile of the lengths of a layer's neurons, the rows of its matrix."""

    version: ClassVar[int] = 1
    better: ClassVar[Better] = "lower"
    needs_reference: ClassVar[bool] = False
    weight: str = "output"
    """The layer."""
    quantile: Fraction = 0.5
    """Which quantile of the lengths."""

    @property
    def name(self) -> str:
        """`neuron_norm.q50`."""
        return f"neuron_norm.q{100 * self.quantile:02.0f}"

    def roles(self) -> frozenset[Role]:
        """None: it looks at no row."""
        return frozenset()

    def measure(self, evaluation: Evaluation, against: Evaluation | None = None) -> Measurement:
        """The quantile; each neuron's length is its score."""
        lengths = _known(evaluation, self.weight)["lengths"]
        return _one(self, float(np.quantile(lengths, self.quantile)), lengths)


@spec
class Neurons:
    """The share of a layer's neurons that stayed small, or how well the others point at label-relevant patterns."""

    version: ClassVar[int] = 1
    better: ClassVar[Better] = "higher"
    needs_reference: ClassVar[bool] = False
    weight: str = "output"
    """The layer."""
    value: str = "value"
    """The layer in front of it, through which the patterns come."""
    says: Literal["small", "aligned"] = "small"
    """The share of small neurons, or the mean cosine of the others with the pattern that each is nearest to."""

    @property
    def name(self) -> str:
        """`neurons.small` or `neurons.aligned`."""
        return f"neurons.{self.says}"

    def roles(self) -> frozenset[Role]:
        """The patterns, where directions are asked for."""
        return frozenset({"relevant"} if self.says == "aligned" else ())

    def measure(self, evaluation: Evaluation, against: Evaluation | None = None) -> Measurement:
        """The share over all neurons, or the mean over those that are not small; 0 where all are."""
        known = _known(evaluation, self.weight)
        small = np.asarray(known["lengths"]) <= STAYED * known["first"]
        if self.says == "small":
            return _one(self, float(small.mean()), small.astype(float).tolist())
        cosines = evaluation.once(f"neurons/{self.weight}/{self.value}", lambda: self._cosines(evaluation))
        grown = np.asarray(cosines)[~small]
        return _one(self, float(grown.mean()) if grown.size else 0.0, cosines)

    def _cosines(self, evaluation: Evaluation) -> list[float]:
        """Each neuron's largest cosine with W_V mu."""
        from torch.nn.functional import normalize

        through_kd = relevant_inputs(evaluation) @ matrix(evaluation, self.value).T
        rows = normalize(matrix(evaluation, self.weight), dim=1)
        return (rows @ normalize(through_kd, dim=1).T).amax(1).tolist()


def matrix(evaluation: Evaluation, layer: str) -> Tensor:
    """The matrix of a layer as it is now; raises UserError where weights are not at hand or the layer is not there."""
    if evaluation.weights is None:
        raise UserError(f"layer '{layer}': the model's weights are not kept here: measure it in a recipe's run")
    return _named(dict(evaluation.weights()), layer)


def first(evaluation: Evaluation, layer: str) -> Tensor:
    """The same matrix before any training."""
    if evaluation.first is None:
        raise UserError(f"layer '{layer}': the first weights are not known here: measure it in a recipe's run")
    return _named(dict(evaluation.first()), layer)


def relevant_inputs(evaluation: Evaluation) -> Tensor:
    """[k, d] the patterns of the role `relevant`, the mean of each row's tokens."""
    import torch

    return torch.stack([torch.as_tensor(row.data["tokens"]).float().mean(0) for row in evaluation["relevant"]])


def _named(weights: dict[str, Tensor], layer: str) -> Tensor:
    found = weights.get(f"{layer}.weight", weights.get(layer))
    if found is None or found.ndim != 2:
        known = [name.removesuffix(".weight") for name, p in weights.items() if p.ndim == 2]
        raise UserError(f"the model has no matrix called '{layer}'{nearest(layer, known)}")
    return found.detach()


def _known(evaluation: Evaluation, layer: str) -> dict[str, Any]:
    def look() -> dict[str, Any]:
        median = float(first(evaluation, layer).norm(dim=1).median())
        return {"lengths": matrix(evaluation, layer).norm(dim=1).tolist(), "first": median}

    return evaluation.once(f"neurons/{layer}", look)


def _one(metric: Any, value: float, scores: list[float]) -> Measurement:
    table = {str(i): float(s) for i, s in enumerate(scores)}
    return Measurement(metric.name, value, value, value, len(table), metric.better, metric.version, scores=table)
