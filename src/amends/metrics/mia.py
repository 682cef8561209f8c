"""Membership inference: can an attacker tell forgotten rows from rows the model never saw?

Every attack gives each row a score that is high where the model finds the row unlikely; the AUC is the chance that a
holdout row scores above a forget row. Orientation as in open-unlearning: 1 means that forget rows look far more likely than
holdout rows (still members), 0.5 that nothing tells them apart, 0 that they have been pushed below never-seen text,
which gives them away as well. Hence `closer`: to the retrained model, near 0.5. MUSE (arXiv 2407.06460) reports 1 - AUC.

- loss: mean negative log-likelihood of the answer's tokens (Yeom et al., arXiv 1709.01604);
- zlib: that, divided by the length in bytes of the zlib-compressed answer (Carlini et al., arXiv 2012.07805);
- min_k: minus the mean of the floor(k n), at least one, lowest token log-probabilities (Shi et al., arXiv 2310.16789);
- min_k_plus_plus: the same on (log p_t - mu_t) / sigma_t, mean and deviation of log p under the model itself at that
  position (Zhang et al., arXiv 2404.02936, eq. 3), variance clamped at 1e-6;
- grad_norm: the mean over parameter tensors of the L2 norm of the gradient of the row's mean loss (Wang et al., arXiv
  2402.17012): a row that was learnt pulls less. open-unlearning's code leaves dropout on (train mode) and can take only
  one row a batch, since a second backward pass through the same graph fails; here the model is in evaluation mode and
  rows are always taken one by one, so that neither dropout nor the batch is part of the score;
- reference: the mean negative log-likelihood minus the one that another model gives the row (Carlini et al., arXiv
  2012.07805), here the retrained one: what is unlikely because it is hard is told from what is unlikely to this model.
  The retrained model compared with itself is at 0.5.

As in open-unlearning the closing token belongs to every attack but min_k and min_k_plus_plus. A classifier or denoiser
has one term a row, with which loss, grad_norm and reference work; min_k is then the loss.

The holdout must come from the distribution of the forget set and be unknown to the model; otherwise the AUC measures
the difference between two kinds of text.
"""

from __future__ import annotations

import zlib
from typing import Annotated, ClassVar, Literal

import numpy as np
from pydantic import Field
from scipy.stats import rankdata
from sklearn.metrics import roc_auc_score

from amends.core.errors import UserError
from amends.core.spec import spec
from amends.core.types import Better, Measurement, Role, Sample
from amends.metrics.evaluation import Evaluation, Tokens
from amends.metrics.rows import missing, required, rows_of
from amends.metrics.stats import interval


@spec
class Mia:
    """AUC of a membership attack on forgotten rows against rows never seen; 0.5 is ideal, 1 still a member."""

    version: ClassVar[int] = 1
    better: ClassVar[Better] = "closer"
    attack: Literal["loss", "zlib", "min_k", "min_k_plus_plus", "grad_norm", "reference"] = "min_k"
    """How a row is scored; `reference` compares with the model that the recipe measures against, the retrained one."""
    role: Role = "forget"
    """The rows that were members."""
    holdout: Role = "holdout"
    """Rows of the same distribution that the model has never seen."""
    k: Annotated[float, Field(gt=0, le=1)] = 0.4
    """The share of lowest tokens of min_k and min_k_plus_plus; 0.4 in open-unlearning's and MUSE's tables."""

    @property
    def name(self) -> str:
        """`mia.min_k`, with the role where it is not `forget`."""
        return f"mia.{self.attack}" + ("" if self.role == "forget" else f".{self.role}")

    @property
    def needs_reference(self) -> bool:
        """Whether another model is compared with."""
        return self.attack == "reference"

    def roles(self) -> frozenset[Role]:
        """Members and holdout."""
        return frozenset({self.role, self.holdout})

    def measure(self, evaluation: Evaluation, against: Evaluation | None = None) -> Measurement:
        """The AUC, with an interval that resamples both groups; `scores` are the attack's."""
        other = required(against, self.name) if self.needs_reference else None
        members, others = (self.scores(evaluation, role, other) for role in (self.role, self.holdout))
        seen, unseen = (np.array(list(s.values())) for s in (members, others))
        value = roc_auc_score([0] * len(seen) + [1] * len(unseen), np.concatenate([seen, unseen]))
        low, high = interval([seen, unseen], auc, paired=False)
        scores = {**members, **others}
        n = len(seen) + len(unseen)
        note = f"{len(seen)} rows of '{self.role}' against {len(unseen)} of '{self.holdout}'"
        return Measurement(self.name, float(value), low, high, n, self.better, self.version, note=note, scores=scores)

    def scores(self, evaluation: Evaluation, role: Role, against: Evaluation | None = None) -> dict[str, float]:
        """Each row's score, high where the model finds the row unlikely."""
        samples = rows_of(evaluation, role)
        if self.attack == "grad_norm":
            return evaluation.grad_norms(samples)
        table = evaluation.tokens(samples)
        if against is not None:
            base = against.tokens(samples)
            return {s.id: table[s.id].loss - base[s.id].loss for s in samples}
        return {s.id: self._score(s, table[s.id], role) for s in samples}

    def _score(self, sample: Sample, tokens: Tokens, role: Role) -> float:
        if self.attack == "loss":
            return tokens.loss
        if self.attack == "zlib":
            return tokens.loss / compressed(sample, role)
        words = slice(None, max(1, len(tokens.logp) - 1))
        if self.attack == "min_k":
            return -lowest(tokens.logp[words], self.k)
        if tokens.mean is None or tokens.std is None:
            raise UserError(f"role '{role}', row {sample.id}: min_k_plus_plus needs a model that predicts tokens: use loss")
        return -lowest(((tokens.logp - tokens.mean) / tokens.std)[words], self.k)


def lowest(values_T: np.ndarray, k: float) -> float:
    """The mean of the floor(k n) lowest values, at least one.

    >>> float(lowest(np.array([-1.0, -4.0, -2.0]), 0.7))
    -3.0
    """
    return float(np.sort(values_T)[: max(1, int(k * len(values_T)))].mean())


def compressed(sample: Sample, role: Role) -> int:
    """Bytes of the zlib-compressed answer."""
    text = sample.data.get("answer") or sample.data.get("text")
    if not text:
        raise missing(role, sample.id, "answer")
    return len(zlib.compress(str(text).encode()))


def auc(seen: np.ndarray, unseen: np.ndarray, axis: int = -1) -> np.ndarray:
    """The chance that an unseen row scores above a seen one, ties half, for many resamples at once.

    >>> float(auc(np.array([1.0, 2.0]), np.array([2.0, 3.0])))
    0.875
    """
    n, m = seen.shape[axis], unseen.shape[axis]
    ranks = rankdata(np.concatenate([seen, unseen], axis), axis=axis)
    above = np.take(ranks, np.arange(n, n + m), axis).sum(axis)
    return (above - m * (m + 1) / 2) / (n * m)
