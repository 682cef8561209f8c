"""The share of requests whose answer meets every verifiable constraint.

What DeCRIM (arXiv 2410.06458) calls instruction-level accuracy and IFEval (arXiv 2311.07911) prompt-level accuracy;
FollowBench's HSR on its rules. The interval is Wilson's over requests.
"""

from __future__ import annotations

from typing import ClassVar

from amends.core.spec import spec
from amends.core.types import Better, Measurement, Role
from amends.metrics.compliance import How, table
from amends.metrics.evaluation import Evaluation
from amends.metrics.stats import share_measurement


@spec
class AllPass:
    """The share of requests whose answer meets every constraint that code can check."""

    version: ClassVar[int] = 1
    needs_reference: ClassVar[bool] = False
    role: Role = "test"
    """Whose answers are read."""
    how: How = "strict"
    """The answer as it stands, or any of eight variants without markup, first or last line."""

    @property
    def name(self) -> str:
        """`all_pass.test`, or `all_pass.test.loose`."""
        return f"all_pass.{self.role}{'.loose' if self.how == 'loose' else ''}"

    @property
    def better(self) -> Better:
        """More is better."""
        return "higher"

    def roles(self) -> frozenset[Role]:
        """The one role."""
        return frozenset({self.role})

    def measure(self, evaluation: Evaluation, against: Evaluation | None = None) -> Measurement:
        """The share, with Wilson's interval over requests."""
        scores = {row: float(all(met.values())) for row, met in table(evaluation, self.role, self.how).items()}
        return share_measurement(self.name, scores, self.better, version=self.version)
