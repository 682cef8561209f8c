"""TPR, TNR and balanced accuracy of yes-no verdicts, with a bootstrap over requests.

Rates are of the class that matters, "violated": TPR is the share of violated constraints that are called violated, TNR the
share of met ones that are called met. Verdicts on one request fail together, so requests are what is resampled.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Literal

import numpy as np

from amends.core.types import Measurement
from amends.metrics.stats import interval

What = Literal["tpr", "tnr", "balanced"]


def column(met: bool, said: bool) -> int:
    """Where a verdict is counted: violated and called so, violated and missed, met and called so, met and accused."""
    return (2 if said else 3) if met else (1 if said else 0)


def rate_measurement(
    name: str, counts_R4: Sequence[Sequence[float]] | np.ndarray, what: What, *, version: int, note: str = "",
    scores: Mapping[str, float] | None = None,
) -> Measurement:  # fmt: skip
    """The rate of counts by request (`column`); not a number where a class that it needs does not occur."""
    table_R4 = np.asarray(counts_R4, dtype=float).reshape(-1, 4)
    tp, fn, tn, fp = (table_R4[:, i] for i in range(4))
    with np.errstate(invalid="ignore"):
        value = float(_rate(tp, fn, tn, fp, what=what))
        low, high = value, value
        if math.isfinite(value):
            low, high = interval([tp, fn, tn, fp], partial(_rate, what=what), paired=True)
    return Measurement(name, value, low, high, int(table_R4.sum()), "higher", version, note=note, scores=dict(scores or {}))


def _rate(tp: np.ndarray, fn: np.ndarray, tn: np.ndarray, fp: np.ndarray, axis: int = -1, *, what: What) -> np.ndarray:
    tp, fn, tn, fp = (c.sum(axis=axis) for c in (tp, fn, tn, fp))
    tpr, tnr = tp / (tp + fn), tn / (tn + fp)
    return {"tpr": tpr, "tnr": tnr, "balanced": (tpr + tnr) / 2}[what]
