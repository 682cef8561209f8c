"""Does the model's truth ratio look like that of a model which never saw the forget rows (arXiv 2401.06121, 2.2.2).

Forget quality is the p-value of the two-sample Kolmogorov-Smirnov test between the rows' truth ratios under this model
and under `against`, the model retrained without them. Forget distance is the test's statistic D. Read the distance: p
depends on the number of rows as much as on the model (D = 0.2 has p = 0.41 with 40 rows and 2e-7 with 400), and a
model that knows nothing at all may reach a high p by accident. When the two samples do not overlap, p stands at its
floor 2 / C(2n, n): forgetting went past the retrained model, or has not begun.

Truth ratios are compared as logarithms, which the test cannot tell from the ratios themselves. The p-value is SciPy's
exact one. D's interval is D -+ q, with q the 95 % quantile of sup_x |(F*-G*)(x) - (F-G)(x)| when rows are resampled (the
same rows for both models). The bootstrap of D itself is not used: a supremum only grows when noise is added, so its percentile
interval mostly misses a small true D. The p-value's interval is that of D, carried through at the same n.
"""

from __future__ import annotations

from typing import ClassVar, NamedTuple

import numpy as np
from scipy import stats

from amends.core.rng import stream_seed
from amends.core.spec import spec
from amends.core.types import Better, Measurement, Role
from amends.metrics.evaluation import Evaluation
from amends.metrics.rows import required, rows_of
from amends.metrics.stats import RESAMPLES
from amends.metrics.truth_ratio import Average, log_ratios, needed


@spec
class ForgetQuality:
    """p-value of the test that the truth ratios are those of the retrained model; read it with forget_distance."""

    version: ClassVar[int] = 1
    better: ClassVar[Better] = "higher"
    needs_reference: ClassVar[bool] = True
    role: Role = "forget"
    """Whose rows."""
    mean: Average = "geometric"
    """How wrong answers are averaged in the truth ratio."""

    @property
    def name(self) -> str:
        """`forget_quality`, with the role where it is not `forget`."""
        return "forget_quality" + ("" if self.role == "forget" else f".{self.role}")

    def roles(self) -> frozenset[Role]:
        """The one role."""
        return frozenset({self.role})

    def measure(self, evaluation: Evaluation, against: Evaluation | None = None) -> Measurement:
        """The p-value; `scores` are the rows' log truth ratios."""
        mine, other = _two(evaluation, required(against, self.name), self.role, self.mean)
        test, n = compare(np.array(list(mine.values())), np.array(list(other.values()))), len(mine)
        low, high = p_value(test.high, n), p_value(test.low, n)
        note = f"KS distance {test.distance:.3f}, {n} rows" + _floor(test.distance)
        return Measurement(self.name, test.p, low, high, n, self.better, self.version, note=note, scores=mine)


@spec
class ForgetDistance:
    """Kolmogorov-Smirnov distance between the truth ratios of this model and of the retrained one, 0 to 1."""

    version: ClassVar[int] = 1
    better: ClassVar[Better] = "lower"
    needs_reference: ClassVar[bool] = True
    role: Role = "forget"
    """Whose rows."""
    mean: Average = "geometric"
    """How wrong answers are averaged in the truth ratio."""

    @property
    def name(self) -> str:
        """`forget_distance`, with the role where it is not `forget`."""
        return "forget_distance" + ("" if self.role == "forget" else f".{self.role}")

    def roles(self) -> frozenset[Role]:
        """The one role."""
        return frozenset({self.role})

    def measure(self, evaluation: Evaluation, against: Evaluation | None = None) -> Measurement:
        """The distance; `scores` are the rows' log truth ratios."""
        mine, other = _two(evaluation, required(against, self.name), self.role, self.mean)
        test, n = compare(np.array(list(mine.values())), np.array(list(other.values()))), len(mine)
        note = f"p = {test.p:.2g}" + _floor(test.distance)
        return Measurement(self.name, test.distance, test.low, test.high, n, self.better, self.version, note=note, scores=mine)


class Compared(NamedTuple):
    """The two-sample test, and the distance's 95 % interval."""

    p: float
    distance: float
    low: float
    high: float


def compare(mine_R: np.ndarray, other_R: np.ndarray) -> Compared:
    """The exact test between two models' values on the same rows, in the same order."""
    result = stats.ks_2samp(mine_R, other_R, method="exact")
    distance = float(result.statistic)
    spread = _spread(mine_R, other_R)
    return Compared(float(result.pvalue), distance, max(0.0, distance - spread), min(1.0, distance + spread))


def p_value(distance: float, num_rows: int) -> float:
    """The exact p of a KS distance between two samples of `num_rows` without ties, from two samples that far apart.

    >>> round(p_value(0.25, 40), 2)
    0.16
    """
    steps = round(distance * num_rows)
    if steps == 0:
        return 1.0
    place = np.arange(num_rows)
    return float(stats.ks_2samp(place, place + steps - 0.5, method="exact").pvalue)


def _spread(mine_R: np.ndarray, other_R: np.ndarray) -> float:
    """The 95 % quantile of how far the difference of the two distribution functions moves when rows are resampled."""
    n = len(mine_R)
    if n < 2:
        return 0.0
    at_X = np.unique(np.concatenate([mine_R, other_R]))
    step_RX = (mine_R[:, None] <= at_X).astype(np.float32) - (other_R[:, None] <= at_X)
    draws = np.random.default_rng(stream_seed(0, "bootstrap"))
    weight_SR = draws.multinomial(n, np.full(n, 1 / n), size=RESAMPLES).astype(np.float32) / n - np.float32(1 / n)
    return float(np.quantile(np.abs(weight_SR @ step_RX).max(1), 0.95))


def _two(evaluation: Evaluation, against: Evaluation, role: Role, mean: Average) -> tuple[dict[str, float], dict[str, float]]:
    samples = rows_of(evaluation, role, needed(plain=False))
    return (log_ratios(evaluation, samples, role=role, mean=mean), log_ratios(against, samples, role=role, mean=mean))


def _floor(distance: float) -> str:
    return "; no overlap with the retrained model at all" if distance >= 1 else ""
