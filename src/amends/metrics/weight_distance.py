"""How far a model's weights lie from another's: from the retrained model's, or from where training began.

Model Sparsity Can Simplify Machine Unlearning (arXiv 2304.04934, proposition 2, after Unrolling SGD, arXiv 2109.13398) bounds
the distance between an approximate unlearner and exact retraining, for SGD of t steps at rate eta under a mask m:

    e(m) = O( eta^2 t sigma(m) ||m o (theta_t - theta_0)||_2 ),    sigma(m) the largest curvature of the weights m leaves open.

`to: first` is ||m o (theta_t - theta_0)||_2: of the weights that are not exactly 0 in the measured model, since what is pruned
has not moved but gone. `to: reference` is ||theta_u - theta*||_2 to the stage of `against`, over all weights; it means what the
bound is about where that stage has the same mask, first weights and order of rows (`train` with `leave_out`). Distances of
weights say nothing of two trainings with other first weights.

Parameters count, running statistics do not. One pair of models gives one number: there are no rows to draw anew, so the
interval has no width, and only seeds say how much it varies.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar, Literal

from amends.core.errors import UserError
from amends.core.spec import spec
from amends.core.types import Better, Measurement, Role
from amends.metrics.evaluation import Evaluation
from amends.metrics.rows import required

if TYPE_CHECKING:
    from torch import Tensor


@spec
class WeightDistance:
    """Euclidean distance of the weights to the reference model's, or to the first weights: of one training, no other."""

    version: ClassVar[int] = 1
    to: Literal["reference", "first"] = "reference"
    """The stage that this one is compared with, or the model as it was built, of which pruned weights do not count."""

    @property
    def better(self) -> Better:
        """Nearer to the reference is better; of the way from the first weights, as far as the retrained model went."""
        return "lower" if self.to == "reference" else "closer"

    @property
    def needs_reference(self) -> bool:
        """Whether it compares with another stage."""
        return self.to == "reference"

    @property
    def name(self) -> str:
        """`weight_distance`, or `weight_travel`."""
        return "weight_distance" if self.to == "reference" else "weight_travel"

    def roles(self) -> frozenset[Role]:
        """None: it looks at no row."""
        return frozenset()

    def measure(self, evaluation: Evaluation, against: Evaluation | None = None) -> Measurement:
        """The distance over all weights together, n their number; `scores` are each tensor's own distance.

        Raises UserError where weights are not at hand.
        """
        if self.to == "first":
            found = evaluation.once("weight_travel", lambda: moved(_weights(evaluation), _first(evaluation)))
        else:
            other = required(against, self.name)
            mine = _weights(evaluation)
            found = apart(mine, mine if other is evaluation else _weights(other))
        value, n = together(found)
        own = {name: distance for name, (distance, _) in found.items()}
        return Measurement(self.name, value, value, value, n, self.better, self.version, scores=own)


Parts = Mapping[str, Sequence[float]]
"""tensor -> (Euclidean distance, how many of its weights count)."""


def apart(mine: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> Parts:
    """||theta - theta*||_2 of each tensor. Raises UserError for models of other shapes."""
    _check(mine, other)
    return {n: [_norm(p, other[n]), p.numel()] for n, p in mine.items()}


def moved(mine: Mapping[str, Tensor], first: Mapping[str, Tensor]) -> Parts:
    """||m o (theta - theta_0)||_2 of each tensor, with m where theta is not 0, and how many weights that is."""
    _check(mine, first)
    return {n: [_norm(p, first[n].masked_fill(p == 0, 0)), int(p.count_nonzero())] for n, p in mine.items()}


def together(parts: Parts) -> tuple[float, int]:
    """The distance over all tensors, and the number of weights.

    >>> together({"a": [3.0, 2], "b": [4.0, 1]})
    (5.0, 3)
    """
    return math.hypot(*(distance for distance, _ in parts.values())), int(sum(n for _, n in parts.values()))


def _norm(a: Tensor, b: Tensor) -> float:
    return float((a.detach().double() - b.detach().double()).norm())


def _check(mine: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> None:
    if {n: p.shape for n, p in mine.items()} != {n: p.shape for n, p in other.items()}:
        raise UserError("weight_distance: the two models have other weights, so there is no distance: compare one architecture")


def _weights(evaluation: Evaluation) -> Mapping[str, Tensor]:
    if evaluation.weights is None:
        raise UserError("weight_distance: the model's weights are not kept here: measure it in a recipe's run")
    return evaluation.weights()


def _first(evaluation: Evaluation) -> Mapping[str, Tensor]:
    if evaluation.first is None:
        raise UserError("weight_distance: the first weights are not known here: measure it in a recipe's run")
    return evaluation.first()
