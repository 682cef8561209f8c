"""The rank of what training did: singular values of the update dW = W - W(0) of one matrix (arXiv 2406.17167, low rank).

The one-layer analysis says that the updates of W_Q, W_K and W_V, and those of W_O in its right space, act essentially on the
patterns that decide the label: rank 2 for two of them, whatever the dimension and however many other patterns there are.
That is what makes a low rank enough for LoRA. Three numbers about s_1 >= s_2 >= ..., the singular values of dW:

- `energy`: (s_1^2 + ... + s_r^2) / sum s_k^2, the share of the update in its first `top` = r directions;
- `next`: s_{r+1} / s_1, how small the first value is that a rank of r leaves out;
- `relevant`: ||dW P||_F^2 / ||dW||_F^2 with P the projection on the inputs of the role `relevant`: whether those directions
  ARE the label-relevant patterns. Rank r and this share are two statements; the second can fail where the first holds.

It is the update that is measured, never W: with W_V(0) = I the weights themselves have full rank. A weight that is 0 now was
pruned, has not moved but gone, and does not count. A matrix that did not move has rank 0: energy 1, next 0, relevant 1.
One model gives one number, so intervals have no width and only seeds say how much it varies. The scores of a measurement are
the singular values over the largest, by their place: a recipe can have them drawn (`draw`, `over: place`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from amends.core.errors import UserError
from amends.core.spec import Count, spec
from amends.core.types import Better, Measurement, Role
from amends.metrics.evaluation import Evaluation
from amends.metrics.neurons import first, matrix, relevant_inputs

if TYPE_CHECKING:
    from torch import Tensor


@spec
class UpdateSpectrum:
    """How low the rank of a matrix's update is: the energy in its first directions, the next one, the share on patterns."""

    version: ClassVar[int] = 1
    needs_reference: ClassVar[bool] = False
    weight: str = "query"
    """The layer whose matrix is looked at."""
    says: Literal["energy", "next", "relevant"] = "energy"
    """Which of the three numbers."""
    top: Count = 2
    """r: for the analysis, how many patterns decide the label."""

    @property
    def better(self) -> Better:
        """Only how low the rank is has a direction."""
        return "lower" if self.says == "next" else "higher"

    @property
    def name(self) -> str:
        """`update_energy.query`, `update_next.query`, `update_relevant.query`."""
        return f"update_{self.says}.{self.weight}"

    def roles(self) -> frozenset[Role]:
        """The patterns, where they are needed."""
        return frozenset({"relevant"} if self.says == "relevant" else ())

    def measure(self, evaluation: Evaluation, against: Evaluation | None = None) -> Measurement:
        """The number; raises UserError for a layer that is not there."""
        found = evaluation.once(f"update_spectrum/{self.weight}", lambda: self._found(evaluation))
        values = [float(s) for s in found["values"]]
        value = found["relevant"] if self.says == "relevant" else summary(values, self.top)[self.says]
        if value is None:
            raise UserError(f"update_spectrum: the inputs of '{self.weight}' have another length than the patterns")
        scores = {str(k): s / (values[0] or 1.0) for k, s in enumerate(values, 1)}
        return Measurement(self.name, value, value, value, len(values), self.better, self.version, scores=scores)

    def _found(self, evaluation: Evaluation) -> dict[str, Any]:
        import torch

        update = moved(matrix(evaluation, self.weight), first(evaluation, self.weight))
        values = torch.linalg.svdvals(update).tolist()
        patterns = relevant_inputs(evaluation) if "relevant" in evaluation.data else None
        fits = patterns is not None and patterns.shape[1] == update.shape[1]
        return {"values": values, "relevant": share_on(update, patterns) if fits and patterns is not None else None}


def moved(now: Tensor, before: Tensor) -> Tensor:
    """W - W(0) in double precision, 0 where W is exactly 0. Raises UserError for matrices of two shapes."""
    if now.shape != before.shape:
        raise UserError("update_spectrum: the model has another shape than the one it was built with: measure it elsewhere")
    return (now.double() - before.double()).masked_fill(now == 0, 0)


def summary(values: list[float], top: int) -> Mapping[str, float]:
    """`energy` and `next` of singular values that fall.

    >>> summary([3.0, 4.0, 0.0], 2)["energy"], summary([4.0, 2.0, 1.0, 0.5], 2)["next"], summary([0.0, 0.0], 2)["energy"]
    (1.0, 0.25, 1.0)
    """
    squares = [s * s for s in values]
    total = sum(squares)
    energy = sum(squares[:top]) / total if total else 1.0
    return {"energy": energy, "next": values[top] / values[0] if len(values) > top and values[0] else 0.0}


def share_on(update: Tensor, inputs_kd: Tensor) -> float:
    """||dW P||_F^2 / ||dW||_F^2 with P the projection on the span of the inputs, which need not be orthogonal."""
    import torch

    basis_dk = torch.linalg.qr(inputs_kd.double().T).Q
    total = float(update.square().sum())
    return float((update @ basis_dk).square().sum()) / total if total else 1.0
