"""How well an auditor's scores and flags fit what is known of the rows: AUROC, TPR, FPR, how many were flagged.

- auroc: the chance that a bad row scores above a good one, ties half; 1/2 is guessing.
- auroc_within: the same among the rows of one label alone, the one that most bad rows carry (the attacker's class). A detector
  that knows which class was attacked, and nothing more, is high in `auroc` and at 1/2 here.
- tpr, fpr: the share of bad rows, and of good ones, that are flagged. Wilson's intervals.
- flagged: the share of all rows that is flagged; on a set without bad rows this is the false positive rate.

The interval of the AUROC solves |A - a| = 1.96 sd(A) for A, sd being that of Hanley and McNeil (Radiology 143, 1982) with both
group sizes put at their mean in its correction, as in Newcombe's fifth method (Statistics in Medicine 25, 2006):

    var(A) = A (1 - A) [ 1 + (N - 1) ((1 - A)/(2 - A) + A/(1 + A)) ] / (m n),   N = (m + n)/2.

A bootstrap would claim certainty for an AUROC of 1, whatever the number of rows; this one does not.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np
from scipy.optimize import brentq
from scipy.special import ndtri

from amends.core.types import Better, Measurement, Scores
from amends.metrics.mia import auc
from amends.metrics.stats import share_measurement

NAMES: Mapping[str, Better] = {
    "auroc": "higher", "auroc_within": "higher", "tpr": "higher", "fpr": "lower", "flagged": "closer",
}  # fmt: skip
"""What is measured, and which way it points; the right number of flags is neither the highest nor the lowest."""
_Z = float(ndtri(0.975))
_EDGE = 1e-9


def flag_measurements(found: Scores, bad: Mapping[str, bool], labels: Mapping[str, Any] | None = None) -> list[Measurement]:
    """All of them; only `flagged` where it is not known which rows are bad, or all or none of them are.

    Args:
        bad: whether a row is bad, for every row that was scored; empty where nothing is known.
        labels: each row's label in the data; without it, and where the attacker's class has rows of one kind only, there is no
            `auroc_within`.
    """
    flags = {row: float(row in found.flagged) for row in found.score}
    known = set(bad.values()) == {True, False}
    own = []
    if known:
        own = [_auroc(found, bad), *_within(found, bad, labels or {})]
        own += [_share("tpr", flags, bad, True), _share("fpr", flags, bad, False)]
    return [*own, share_measurement("flagged", flags, NAMES["flagged"], note=found.note)]


def _within(found: Scores, bad: Mapping[str, bool], labels: Mapping[str, Any]) -> list[Measurement]:
    """The AUROC in the attacker's class, where it has rows of both kinds."""
    carried = Counter(labels[row] for row, is_bad in bad.items() if is_bad and row in labels)
    if not carried:
        return []
    target = min(carried, key=lambda label: (-carried[label], str(label)))
    inside = {row: s for row, s in found.score.items() if labels.get(row) == target}
    if {bad[row] for row in inside} != {True, False}:
        return []
    return [_auroc(Scores(inside, frozenset()), bad, "auroc_within")]


def _auroc(found: Scores, bad: Mapping[str, bool], name: str = "auroc") -> Measurement:
    high_M, low_N = (np.array([s for row, s in found.score.items() if bad[row] is wanted]) for wanted in (True, False))
    value = float(auc(low_N, high_M))
    low, high = auroc_interval(value, len(high_M), len(low_N))
    note = f"{len(high_M)} bad rows against {len(low_N)} others"
    n = len(found.score)
    return Measurement(name, value, low, high, n, NAMES[name], note=note, scores=dict(found.score))


def _share(name: str, flags: Mapping[str, float], bad: Mapping[str, bool], wanted: bool) -> Measurement:
    return share_measurement(name, {row: f for row, f in flags.items() if bad[row] is wanted}, NAMES[name])


def auroc_interval(value: float, bad: int, good: int) -> tuple[float, float]:
    """The 95 % interval of an AUROC over so many bad and good rows.

    >>> low, high = auroc_interval(1.0, 10, 10)
    >>> round(low, 2), high
    (0.8, 1.0)
    """

    def apart(a: float) -> float:
        spread = 1 + ((bad + good) / 2 - 1) * ((1 - a) / (2 - a) + a / (1 + a))
        return abs(a - value) - _Z * float(np.sqrt(max(0.0, a * (1 - a) * spread / (bad * good))))

    inner = min(max(value, _EDGE), 1 - _EDGE)  # at 0 and 1 themselves the deviation vanishes, and so does the difference
    low: Any = brentq(apart, 0.0, inner) if value > _EDGE else 0.0
    high: Any = brentq(apart, inner, 1.0) if value < 1 - _EDGE else 1.0
    return float(low), float(high)
