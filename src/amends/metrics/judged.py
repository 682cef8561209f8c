"""The share of constraints that no code decides and that answers meet, as a judge says, with the judge's calibration beside it.

Over constraints this is InFoBench's DRFR (arXiv 2401.03601) and DeCRIM's constraint-level accuracy (arXiv 2410.06458) on the
constraints without a checker; over requests, DeCRIM's instruction-level accuracy, by code wherever code decides. Both papers
take the judge's word; here the same judge is asked about the constraints that code decides as well, and the note says how often
it was right there. A number of a judge that guesses means nothing, however narrow its interval.

With q the share that the judge calls met, TPR its rate on violated and TNR its rate on met constraints,
q = s TNR + (1 - s)(1 - TPR), so the true share is (Rogan and Gladen 1978)

    s = (q + TPR - 1) / (TPR + TNR - 1),   cut to 0..1, and not defined unless TPR + TNR > 1.

That rests on the judge erring as often where code is silent as where it is not, which nobody can check here.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import SkipValidation

from amends.core.errors import UserError
from amends.core.spec import Part, spec
from amends.core.types import Better, Measurement, Role
from amends.metrics.evaluation import Evaluation
from amends.metrics.judging import Looked, believable, judge_of, looked
from amends.metrics.stats import interval, share_measurement


@spec
class Judged:
    """The share of constraints without a checker that a judge calls met, or of requests with every constraint met."""

    version: ClassVar[int] = 1
    needs_reference: ClassVar[bool] = False
    role: Role = "test"
    """Whose answers are judged."""
    judge: Annotated[Any, Part("critics"), SkipValidation] = None
    """Who judges, such as `{use: judge, client: ...}`. Without one, the model that answers, asked for one word."""
    what: Literal["constraints", "requests"] = "constraints"
    """Over constraints that no code decides; or over requests, those that code decides among their constraints."""
    corrected: bool = False
    """Over constraints: the true share that fits what the judge says and how often it errs where code knows."""

    @property
    def name(self) -> str:
        """`judged.test`, with `.requests` or `.corrected` where they apply."""
        more = [self.what] * (self.what == "requests") + ["corrected"] * self.corrected
        return ".".join(["judged", self.role, *more])

    @property
    def better(self) -> Better:
        """More is better."""
        return "higher"

    def roles(self) -> frozenset[Role]:
        """The one role."""
        return frozenset({self.role})

    def measure(self, evaluation: Evaluation, against: Evaluation | None = None) -> Measurement:
        """The share; what the judge cannot tell is left out and counted. Not a number where nothing is left.

        Over constraints the interval is a bootstrap over requests, over requests it is Wilson's.
        """
        if self.corrected and self.what == "requests":
            raise UserError(f"{self.name}: corrected: holds for constraints: leave `what: requests` out")
        judge = judge_of(self.judge)
        found = looked(evaluation, self.role, judge, self._memo)
        if self.what == "requests":
            return self._requests(found, believable(found, judge))
        return self._constraints(found, believable(found, judge))

    @cached_property
    def _memo(self) -> dict[str, Any]:
        return {}

    def _constraints(self, found: Mapping[str, Looked], judge: str) -> Measurement:
        scores = {row: sum(v is True for v in one.judged) / n for row, one in found.items() if (n := _read(one))}
        unread = sum(v is None for one in found.values() for v in one.judged)
        rows = [one for one in found.values() if self.corrected or _read(one)]
        columns_R6 = np.array([(one.judged.count(True), _read(one), *one.counts) for one in rows], dtype=float).reshape(-1, 6)
        met, of, *counts = columns_R6.T
        value, low, high = _share([met, of, *counts], _corrected) if self.corrected else _share([met, of], _ratio)
        note = [f"of {len(scores)} requests", "the interval resamples requests"] if scores else ["no verdict to count"]
        note += [f"{unread} verdicts of 'cannot tell' left out"] if unread else []
        note += [judge]
        return Measurement(
            self.name, value, low, high, int(of.sum()), self.better, self.version, note="; ".join(note), scores=scores,
        )  # fmt: skip

    def _requests(self, found: Mapping[str, Looked], judge: str) -> Measurement:
        every = {row: (*one.judged, *one.checked) for row, one in found.items()}
        known = {row: v for row, v in every.items() if False in v or None not in v}
        scores = {row: float(all(v)) for row, v in known.items()}
        lost = len(every) - len(known)
        left_out = [f"{lost} requests left out because of 'cannot tell'"] if lost else []
        note = "; ".join([*left_out, judge])
        if not scores:
            return Measurement(self.name, np.nan, np.nan, np.nan, 0, self.better, self.version, note=note)
        return share_measurement(self.name, scores, self.better, version=self.version, note=note)


def _read(one: Looked) -> int:
    """Constraints without a checker that the judge had a verdict on."""
    return sum(v is not None for v in one.judged)


def _share(columns: list[np.ndarray], statistic: Any) -> tuple[float, float, float]:
    value = float(statistic(*columns)) if columns[1].sum() else float("nan")
    return (value, *(interval(columns, statistic, paired=True) if np.isfinite(value) else (value, value)))


def _ratio(met: np.ndarray, of: np.ndarray, axis: int = -1) -> np.ndarray:
    return met.sum(axis=axis) / of.sum(axis=axis)


def _corrected(
    met: np.ndarray, of: np.ndarray, tp: np.ndarray, fn: np.ndarray, tn: np.ndarray, fp: np.ndarray, axis: int = -1
) -> np.ndarray:
    """Rogan and Gladen's share; not a number where the judge knows nothing."""
    met, of, tp, fn, tn, fp = (c.sum(axis=axis) for c in (met, of, tp, fn, tn, fp))
    with np.errstate(invalid="ignore", divide="ignore"):
        tpr, tnr = tp / (tp + fn), tn / (tn + fp)
        share = (met / of + tpr - 1) / (tpr + tnr - 1)
    return np.where(tpr + tnr > 1, np.clip(share, 0.0, 1.0), np.nan)
