"""What an arm gains over another on the same requests: a paired difference, which needs far fewer requests than two shares.

The p-value in the note is McNemar's exact one over requests that only one of the two arms gets right (two-sided binomial
test of a fair coin). With the other arm given as many calls this is the question whether a loop beats sampling more.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from amends.core.errors import UserError
from amends.core.paired import mcnemar
from amends.core.spec import spec
from amends.core.types import Better, Measurement, Role
from amends.metrics.compliance import How, table
from amends.metrics.evaluation import Evaluation
from amends.metrics.stats import interval


@spec
class Gain:
    """The share of requests that meet every constraint, less the other arm's on the same requests, paired."""

    version: ClassVar[int] = 1
    needs_reference: ClassVar[bool] = True
    role: Role = "test"
    """Whose answers are read."""
    how: How = "strict"
    """The answer as it stands, or any of eight variants without markup, first or last line."""

    @property
    def name(self) -> str:
        """`gain.test`, or `gain.test.loose`."""
        return f"gain.{self.role}{'.loose' if self.how == 'loose' else ''}"

    @property
    def better(self) -> Better:
        """More is better."""
        return "higher"

    def roles(self) -> frozenset[Role]:
        """The one role."""
        return frozenset({self.role})

    def measure(self, evaluation: Evaluation, against: Evaluation | None = None) -> Measurement:
        """The mean of the paired differences (-1, 0 or 1), with a bootstrap over requests and McNemar's p in the note."""
        if against is None:
            raise UserError(f"{self.name}: compares with another stage: name it as the recipe's `against`")
        own, other = table(evaluation, self.role, self.how), table(against, self.role, self.how)
        scores = {row: float(all(met.values())) - float(all(other[row].values())) for row, met in own.items()}
        values = np.array(list(scores.values()))
        low, high = interval([values], np.mean, paired=False)
        won, lost = int((values > 0).sum()), int((values < 0).sum())
        return Measurement(
            self.name, float(values.mean()), low, high, len(values), self.better, self.version,
            note=f"{won} gained, {lost} lost, McNemar p = {mcnemar(won, lost):.2g}", scores=scores,
        )  # fmt: skip
