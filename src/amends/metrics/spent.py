"""What an answer cost: calls and tokens a request, and calls a request that was won.

An arm that asks more may only be better for that. Costs stand beside compliance in every table; where two arms are to be
compared at equal cost, one is given the other's calls (`best_of` with `from:`).
"""

from __future__ import annotations

from typing import ClassVar, Literal

from amends.core.errors import UserError
from amends.core.spec import spec
from amends.core.types import Better, Measurement, Role
from amends.metrics.compliance import records, requests_of, table
from amends.metrics.evaluation import Evaluation
from amends.metrics.stats import mean_measurement


@spec
class Spent:
    """Calls, new tokens or prompt tokens a request, cached ones counted as if they had been made."""

    version: ClassVar[int] = 1
    needs_reference: ClassVar[bool] = False
    role: Role = "test"
    """Whose answers are counted."""
    what: Literal["calls", "new_tokens", "prompt_tokens"] = "calls"
    """What is counted."""

    @property
    def name(self) -> str:
        """`calls.test`, `new_tokens.test`."""
        return f"{self.what}.{self.role}"

    @property
    def better(self) -> Better:
        """Fewer is better."""
        return "lower"

    def roles(self) -> frozenset[Role]:
        """The one role."""
        return frozenset({self.role})

    def measure(self, evaluation: Evaluation, against: Evaluation | None = None) -> Measurement:
        """The mean a request."""
        given = records(evaluation, self.role)
        scores = {s.id: float(given[s.id]["usage"][self.what]) for s in requests_of(evaluation, self.role)}
        return mean_measurement(self.name, scores, self.better, version=self.version)


@spec
class SpentPerGain:
    """Further calls or tokens for each further request with every constraint met, against another arm."""

    version: ClassVar[int] = 1
    needs_reference: ClassVar[bool] = True
    role: Role = "test"
    """Whose answers are counted."""
    what: Literal["calls", "new_tokens"] = "calls"
    """What is counted."""

    @property
    def name(self) -> str:
        """`calls_per_gain.test`."""
        return f"{self.what}_per_gain.{self.role}"

    @property
    def better(self) -> Better:
        """Fewer is better."""
        return "lower"

    def roles(self) -> frozenset[Role]:
        """The one role."""
        return frozenset({self.role})

    def measure(self, evaluation: Evaluation, against: Evaluation | None = None) -> Measurement:
        """The ratio of two sums, without an interval: its denominator may be 0, and then the value is not a number."""
        if against is None:
            raise UserError(f"{self.name}: compares with another stage: name it as the recipe's `against`")
        (won, cost), (won_before, cost_before) = (self._sums(e) for e in (evaluation, against))
        gained, more = won - won_before, cost - cost_before
        value = more / gained if gained > 0 else float("nan")
        note = f"{more:.0f} more {self.what} for {gained} more requests" if gained > 0 else f"{gained} requests gained"
        return Measurement(self.name, value, value, value, len(evaluation[self.role]), self.better, self.version, note=note)

    def _sums(self, evaluation: Evaluation) -> tuple[int, float]:
        given = records(evaluation, self.role)
        won = sum(all(met.values()) for met in table(evaluation, self.role, "strict").values())
        return won, sum(float(given[s.id]["usage"][self.what]) for s in evaluation[self.role])
