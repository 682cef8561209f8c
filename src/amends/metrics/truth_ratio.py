"""Truth ratio: whether the model still tells a right answer from wrong ones (arXiv 2401.06121, eq. 1).

R = mean_j p(wrong_j)^(1/n_j) / p(right)^(1/n), where `right` is the paraphrased answer (forget, retain) or the plain one
(real authors, world facts). Reported: mean of min(R, 1/R) on roles to forget, mean of max(0, 1 - R) elsewhere.

The paper takes the arithmetic mean over the wrong answers; TOFU's own tables, open-unlearning and the papers that
compare with it take the geometric one, which is the default. Released code adds 1e-10 to the denominator, which bends R
towards 0 for a model that has collapsed; here R is kept as a logarithm and needs no guard.

On roles to forget a higher value is not simply better: a model that answers everything alike scores 1, the retrained
one about 0.7 on TOFU. It is therefore marked `closer` (to the retrained model).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal

import numpy as np
from scipy.special import logsumexp

from amends.core.spec import spec
from amends.core.types import Better, Measurement, Role, Sample
from amends.metrics.evaluation import Evaluation, Tokens
from amends.metrics.rows import CHOICE_ROLES, FORGET_LIKE, lacking, missing, rows_of, wrong_answers
from amends.metrics.stats import mean_measurement

Average = Literal["geometric", "arithmetic"]


@spec
class TruthRatio:
    """How likely wrong answers are against the right one, as a score from 0 to 1."""

    version: ClassVar[int] = 1
    needs_reference: ClassVar[bool] = False
    role: Role = "forget"
    """Whose answers."""
    mean: Average = "geometric"
    """How the wrong answers' probabilities are averaged: geometric (every released table) or arithmetic (the paper)."""
    plain: bool | None = None
    """Whether `right` is the row's own answer, not its paraphrase; by default so for real authors and world facts."""

    @property
    def name(self) -> str:
        """`truth_ratio.forget`."""
        return f"truth_ratio.{self.role}"

    @property
    def better(self) -> Better:
        """Closer to the retrained model where answers are to go, higher elsewhere."""
        return "closer" if self.role in FORGET_LIKE else "higher"

    def roles(self) -> frozenset[Role]:
        """The one role."""
        return frozenset({self.role})

    def fields(self) -> tuple[str, ...]:
        """What each row must have."""
        return needed(self._plain())

    def scores(self, evaluation: Evaluation) -> dict[str, float]:
        """Each row's own score."""
        samples = rows_of(evaluation, self.role, self.fields())
        logs = log_ratios(evaluation, samples, role=self.role, mean=self.mean, plain=self._plain())
        if self.role in FORGET_LIKE:
            return {i: math.exp(-abs(r)) for i, r in logs.items()}
        return {i: -math.expm1(min(r, 0.0)) for i, r in logs.items()}

    def measure(self, evaluation: Evaluation, against: Evaluation | None = None) -> Measurement:
        """The mean over rows."""
        return mean_measurement(self.name, self.scores(evaluation), self.better, version=self.version)

    def _plain(self) -> bool:
        return self.role in CHOICE_ROLES if self.plain is None else self.plain


def needed(plain: bool) -> tuple[str, ...]:
    """The fields that a truth ratio needs of each row."""
    return ("question", "perturbed_answer") if plain else ("question", "perturbed_answer", "paraphrased_answer")


def log_ratios(
    evaluation: Evaluation, samples: Sequence[Sample], *, role: Role = "forget",
    mean: Average = "geometric", plain: bool = False,
) -> dict[str, float]:  # fmt: skip
    """log R of each row, by id; finite for every model whose log-probabilities are. Raises UserError for a missing field."""
    gap = lacking(samples, needed(plain))
    if gap is not None:
        raise missing(role, *gap)
    right = {s.id: s if plain else s.with_("paraphrased-answer", answer=s.data["paraphrased_answer"]) for s in samples}
    wrong = {s.id: wrong_answers(s, role) for s in samples}
    table = evaluation.tokens([row for s in samples for row in (right[s.id], *wrong[s.id])])
    return {s.id: _log_ratio(table, right[s.id], wrong[s.id], mean) for s in samples}


def ratios(evaluation: Evaluation, samples: Sequence[Sample], **options: object) -> dict[str, float]:
    """R of each row, by id; options as for `log_ratios`. A ratio too large for a float is infinite."""
    logs = log_ratios(evaluation, samples, **options)  # type: ignore[arg-type]
    return {i: math.exp(r) if r < 709 else math.inf for i, r in logs.items()}


def _log_ratio(table: Mapping[str, Tokens], right: Sample, wrong: Sequence[Sample], mean: Average) -> float:
    logs = np.array([-table[w.id].loss for w in wrong])
    average = logs.mean() if mean == "geometric" else logsumexp(logs) - math.log(len(logs))
    return float(average + table[right.id].loss)
