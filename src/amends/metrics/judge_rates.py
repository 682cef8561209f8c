"""How far the judge of `judged` can be believed: the same judge on constraints of the same answers that code decides.

It is asked about them exactly as about the others, one at a time and without a checker. TPR is the share of violated
constraints that it calls violated, TNR the share of met ones that it calls met; a judge that guesses has TPR + TNR = 1, a
balanced accuracy of one half. What code can check is not what it cannot: a judge that counts badly may yet know a warm tone.
One that is no better than chance where it can be held against the truth has no claim to be believed where it cannot.
"""

from __future__ import annotations

from functools import cached_property
from typing import Annotated, Any, ClassVar

from pydantic import SkipValidation

from amends.core.spec import Part, spec
from amends.core.types import Better, Measurement, Role
from amends.metrics.confusion import What, rate_measurement
from amends.metrics.evaluation import Evaluation
from amends.metrics.judging import believable, judge_of, looked


@spec
class JudgeRates:
    """TPR, TNR or balanced accuracy of an evaluating judge on the constraints of final answers that code decides."""

    version: ClassVar[int] = 1
    needs_reference: ClassVar[bool] = False
    role: Role = "test"
    """Whose answers are judged."""
    judge: Annotated[Any, Part("critics"), SkipValidation] = None
    """Who judges: the same as of `judged`, whose questions are then not asked again."""
    what: What = "balanced"
    """Share of violated constraints called violated, of met ones called met, or the mean of the two."""

    @property
    def name(self) -> str:
        """`judge_balanced.test`, ..."""
        return f"judge_{self.what}.{self.role}"

    @property
    def better(self) -> Better:
        """More is better."""
        return "higher"

    def roles(self) -> frozenset[Role]:
        """The one role."""
        return frozenset({self.role})

    def measure(self, evaluation: Evaluation, against: Evaluation | None = None) -> Measurement:
        """The rate, with a bootstrap over requests; not a number where a class that it needs does not occur."""
        judge = judge_of(self.judge)
        found = looked(evaluation, self.role, judge, self._memo)
        counts_R4 = [one.counts for one in found.values()]
        scores = {row: (one.counts[0] + one.counts[2]) / n for row, one in found.items() if (n := sum(one.counts))}
        return rate_measurement(
            self.name, counts_R4, self.what, version=self.version, note=believable(found, judge), scores=scores
        )

    @cached_property
    def _memo(self) -> dict[str, Any]:
        return {}
