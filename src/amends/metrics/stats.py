"""Intervals by bootstrap over rows, with SciPy's resampling and a named stream."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from scipy import stats

from amends.core.rng import stream_seed
from amends.core.types import Better, Measurement

RESAMPLES = 2000


def interval(
    samples: Sequence[np.ndarray], statistic: Callable[..., np.ndarray], *, paired: bool, seed: int = 0,
) -> tuple[float, float]:  # fmt: skip
    """A 95 % percentile interval of `statistic(*samples, axis=-1)`, resampling rows (together when `paired`).

    Fewer than two rows, or a statistic that does not vary, give an interval of no width around the value. Draws for which
    the statistic is not defined (a ratio whose denominator vanishes) are left out.
    """
    value = float(statistic(*samples, axis=-1))
    if min(len(s) for s in samples) < 2:
        return value, value
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", stats.DegenerateDataWarning)  # undefined draws, which are left out below
        result = stats.bootstrap(
            tuple(samples), statistic, paired=paired, vectorized=True, n_resamples=RESAMPLES, method="percentile",
            rng=np.random.default_rng(stream_seed(seed, "bootstrap")),
        )  # fmt: skip
    drawn = result.bootstrap_distribution[np.isfinite(result.bootstrap_distribution)]
    if not drawn.size or drawn.min() == drawn.max():
        return value, value
    low, high = np.quantile(drawn, [0.025, 0.975])
    return float(low), float(high)


def share_measurement(
    name: str, scores: Mapping[str, float], better: Better, *, version: int = 1, note: str = "",
) -> Measurement:  # fmt: skip
    """The share of rows whose score is 1, the others' being 0, with Wilson's interval.

    A bootstrap would claim certainty when no row, or every row, scores. `scores` may not be empty.
    """
    right, n = int(sum(scores.values())), len(scores)
    bounds = stats.binomtest(right, n).proportion_ci(method="wilson")
    return Measurement(
        name, right / n, float(bounds.low), float(bounds.high), n, better, version, note=note, scores=dict(scores)
    )


def mean_measurement(
    name: str, scores: Mapping[str, float], better: Better, *, version: int = 1, unit: str = "", note: str = "",
) -> Measurement:  # fmt: skip
    """The mean of the rows' scores, with its interval. `scores` may not be empty."""
    values = np.array(list(scores.values()), dtype=float)
    low, high = interval([values], np.mean, paired=False)
    return Measurement(name, float(values.mean()), low, high, len(values), better, version, unit, note, dict(scores))
