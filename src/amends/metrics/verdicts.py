"""How good a model is as a critic: rows that ask whether a constraint is met, answered by yes or no.

The model says "yes" where that word is likelier than "no" as the first word of its answer: a probability, so that no parsing
stands between the model and its score. TPR is the share of violated constraints ("no") that it calls violated, TNR the share of
met ones that it calls met; accuracy would praise a critic that accepts everything, since most constraints are met.

A model that learned little may order answers and still lie above 1/2 with all of them. So a threshold may be fitted on rows of
another role, P(yes) >= t with the best balanced accuracy there (`fit`), to be given to the critic of a loop (`threshold` of
`supervised`); the area under the ROC curve needs none.
"""

from __future__ import annotations

from itertools import pairwise
from typing import ClassVar, Literal

import numpy as np

from amends.core.errors import UserError
from amends.core.rng import stream_seed
from amends.core.spec import Count, spec
from amends.core.types import Better, Measurement, Role, Sample
from amends.metrics.confusion import What, column, rate_measurement
from amends.metrics.evaluation import Evaluation
from amends.metrics.flags import auroc_interval
from amends.metrics.mia import auc


@spec
class Verdicts:
    """TPR, TNR or balanced accuracy of a model that judges constraints by yes or no; also by category of constraint."""

    version: ClassVar[int] = 1
    needs_reference: ClassVar[bool] = False
    role: Role = "test"
    """Whose rows are asked."""
    what: What | Literal["auc", "threshold"] = "balanced"
    """Share of violated constraints called violated, of met ones called met, the mean of the two; how often a met one has the
    higher P(yes) of two; or the threshold that was fitted."""
    category: str | None = None
    """Only constraints of this category."""
    fit: Role | None = None
    """The role on which the threshold of P(yes) is fitted; None takes 1/2. `what: threshold` needs it."""
    fit_rows: Count = 120
    """So many of its rows, half of each label where there are as many."""

    @property
    def name(self) -> str:
        """`verdict_tpr.test`, `verdict_tpr.test.keywords`, `verdict_tpr.test.fitted`."""
        more = [self.category] * bool(self.category) + ["fitted"] * (self.fit is not None and self.what != "threshold")
        return ".".join([f"verdict_{self.what}.{self.role}", *map(str, more)])

    @property
    def better(self) -> Better:
        """More is better."""
        return "higher"

    def roles(self) -> frozenset[Role]:
        """The role that is asked, and the one that the threshold is fitted on; raises UserError for a threshold of no role."""
        if self.what == "threshold" and self.fit is None:
            raise UserError("verdicts: `what: threshold` is fitted on rows: name their role, such as fit: train")
        return frozenset({self.role} if self.fit is None else {self.role, self.fit})

    def measure(self, evaluation: Evaluation, against: Evaluation | None = None) -> Measurement:
        """The rate, with a bootstrap over requests; not a number where a label does not occur."""
        at, learned = (0.5, {}) if self.fit is None else self._fitted(evaluation, self.fit)
        if self.what == "threshold":
            return Measurement(self.name, at, at, at, len(learned), "closer", self.version, scores=learned)
        rows = [s for s in evaluation[self.role] if self.category is None or s.data.get("category") == self.category]
        if not rows:
            raise UserError(f"{self.name}: role '{self.role}' has no row of category {self.category!r}")
        p_yes = probabilities(evaluation, rows)
        if self.what == "auc":
            met, broken = (np.array([p_yes[s.id] for s in rows if s.data["answer"] == a]) for a in ("yes", "no"))
            value = float(auc(broken, met)) if len(met) and len(broken) else float("nan")
            low, high = auroc_interval(value, len(broken), len(met)) if np.isfinite(value) else (value, value)
            return Measurement(self.name, value, low, high, len(rows), self.better, self.version, scores=p_yes)
        says = {row: p >= at if self.fit else p > at for row, p in p_yes.items()}
        place = {name: i for i, name in enumerate(dict.fromkeys(s.data.get("request", s.id) for s in rows))}
        counts_R4 = np.zeros((len(place), 4))
        for s in rows:
            counts_R4[place[s.data.get("request", s.id)], column(s.data["answer"] == "yes", says[s.id])] += 1
        scores = {s.id: float(says[s.id] == (s.data["answer"] == "yes")) for s in rows}
        note = f"met from P(yes) = {at:.3f}" if self.fit else ""
        return rate_measurement(self.name, counts_R4, self.what, version=self.version, note=note, scores=scores)

    def _fitted(self, evaluation: Evaluation, role: Role) -> tuple[float, dict[str, float]]:
        """The threshold, and P(yes) of the rows that it was fitted on."""

        def find() -> tuple[float, dict[str, float]]:
            rows = evaluation[role]
            order = np.random.default_rng(stream_seed(evaluation.seed, "verdicts", role)).permutation(len(rows))
            halves = [[rows[i] for i in order if rows[i].data["answer"] == a][: self.fit_rows // 2] for a in ("yes", "no")]
            p_yes = probabilities(evaluation, [s for half in halves for s in half])
            return best_threshold(*([p_yes[s.id] for s in half] for half in halves)), p_yes

        return evaluation.once(f"verdicts/{role}/{self.fit_rows}", find)


def probabilities(evaluation: Evaluation, rows: list[Sample]) -> dict[str, float]:
    """P(yes) / (P(yes) + P(no)) as the first word of each row's answer."""
    asked = {s.id: (s.with_("yes", answer="yes"), s.with_("no", answer="no")) for s in rows}
    tokens = evaluation.tokens([form for pair in asked.values() for form in pair])
    odds = {row: float(tokens[yes.id].logp[0] - tokens[no.id].logp[0]) for row, (yes, no) in asked.items()}
    return {row: float(1 / (1 + np.exp(-o))) for row, o in odds.items()}


def best_threshold(met: list[float], broken: list[float]) -> float:
    """t for which "met from t" has the best balanced accuracy, half-way between two of the values; nearest 1/2 among equals.

    >>> best_threshold([0.54, 0.6], [0.5, 0.52])
    0.53
    """
    values = sorted({*met, *broken})
    if not met or not broken or len(values) < 2:
        return 0.5
    between = [(a + b) / 2 for a, b in pairwise(values)]
    above, below = np.array(met), np.array(broken)
    return round(max(between, key=lambda t: ((above >= t).mean() + (below < t).mean(), -abs(t - 0.5))), 6)
