"""How much of what was forgotten an attack brings back.

share = (attacked - unlearned) / (original - unlearned), of one measurement's means, with an interval over rows that
are resampled together. 0: nothing came back; 1: all of it. Where unlearning did not lower the measurement there is
nothing to recover, and the share is not defined. open-unlearning's relearning score compares the same rises with the
retrained model's; the retrained model under the same attack is the control here, too.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from amends.core.types import Measurement
from amends.metrics.stats import interval

SMALLEST = 0.02
"""A drop below this is no forgetting to speak of."""


def recovered(original: Measurement, unlearned: Measurement, attacked: Measurement) -> dict[str, Any]:
    """The share, with its interval and n; the value is None where nothing was forgotten."""
    ids = [i for i in original.scores if i in unlearned.scores and i in attacked.scores]
    o, u, a = (np.array([m.scores[i] for i in ids]) for m in (original, unlearned, attacked))
    if not ids or o.mean() - u.mean() < SMALLEST:
        return {"value": None, "low": None, "high": None, "n": len(ids)}
    low, high = interval([o, u, a], _share, paired=True)
    return {"value": float(_share(o, u, a, axis=-1)), "low": low, "high": high, "n": len(ids)}


def _share(o: np.ndarray, u: np.ndarray, a: np.ndarray, axis: int = -1) -> np.ndarray:
    lost = o.mean(axis) - u.mean(axis)
    safe = np.where(np.abs(lost) < 1e-9, np.nan, lost)
    return (a.mean(axis) - u.mean(axis)) / safe
