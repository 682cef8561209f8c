"""How probable the right answer is, TOFU's first metric (arXiv 2401.06121, section 2.2.1).

Prob = p(y|x)^(1/n), the geometric mean over the answer's tokens (closing token included), mean over rows. With
`choices` it is divided by the sum over the right and the wrong answers, TOFU's form for real authors and world
facts: p^(1/n) / (p^(1/n) + sum_j p_j^(1/n_j) + 1e-10), as in the released code.
"""

from __future__ import annotations

from typing import ClassVar

from amends.core.spec import spec
from amends.core.types import Better, Measurement, Role
from amends.metrics.evaluation import Evaluation
from amends.metrics.rows import better_for, rows_of, wrong_answers
from amends.metrics.stats import mean_measurement


@spec
class Probability:
    """Probability of the right answer, p(y)^(1/n), alone or among wrong answers."""

    version: ClassVar[int] = 1
    needs_reference: ClassVar[bool] = False
    role: Role = "forget"
    """Whose answers."""
    choices: bool = False
    """Divide by the sum over the right answer and the row's `perturbed_answer` list."""

    @property
    def name(self) -> str:
        """`probability.forget`, or `probability.world_facts.choices`."""
        return f"probability.{self.role}{'.choices' if self.choices else ''}"

    @property
    def better(self) -> Better:
        """Lower where the answers are to go."""
        return better_for(self.role)

    def roles(self) -> frozenset[Role]:
        """The one role."""
        return frozenset({self.role})

    def fields(self) -> tuple[str, ...]:
        """What each row must have."""
        return ("question", "perturbed_answer") if self.choices else ()

    def scores(self, evaluation: Evaluation) -> dict[str, float]:
        """Each row's own probability."""
        samples = rows_of(evaluation, self.role, self.fields())
        wrong = {s.id: wrong_answers(s, self.role) if self.choices else [] for s in samples}
        table = evaluation.tokens([*samples, *(w for rows in wrong.values() for w in rows)])
        right = {s.id: table[s.id].probability for s in samples}
        if not self.choices:
            return right
        return {i: p / (p + sum(table[w.id].probability for w in wrong[i]) + 1e-10) for i, p in right.items()}

    def measure(self, evaluation: Evaluation, against: Evaluation | None = None) -> Measurement:
        """The mean over rows."""
        return mean_measurement(self.name, self.scores(evaluation), self.better, version=self.version)
