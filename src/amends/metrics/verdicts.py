"""How good a model is as a critic: rows that ask whether a constraint is met, answered by yes or no.

The model says "yes" where that word is likelier than "no" as the first word of its answer: a probability, so that no parsing
stands between the model and its score. TPR is the share of violated constraints ("no") that it calls violated, TNR the share of
met ones that it calls met; accuracy would praise a critic that accepts everything, since most constraints are met.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from amends.core.errors import UserError
from amends.core.spec import spec
from amends.core.types import Better, Measurement, Role
from amends.metrics.confusion import What, column, rate_measurement
from amends.metrics.evaluation import Evaluation


@spec
class Verdicts:
    """TPR, TNR or balanced accuracy of a model that judges constraints by yes or no; also by category of constraint."""

    version: ClassVar[int] = 1
    needs_reference: ClassVar[bool] = False
    role: Role = "test"
    """Whose rows are asked."""
    what: What = "balanced"
    """Share of violated constraints called violated, of met ones called met, or the mean of the two."""
    category: str | None = None
    """Only constraints of this category."""

    @property
    def name(self) -> str:
        """`verdict_tpr.test`, or `verdict_tpr.test.keywords`."""
        return f"verdict_{self.what}.{self.role}" + (f".{self.category}" if self.category else "")

    @property
    def better(self) -> Better:
        """More is better."""
        return "higher"

    def roles(self) -> frozenset[Role]:
        """The one role."""
        return frozenset({self.role})

    def measure(self, evaluation: Evaluation, against: Evaluation | None = None) -> Measurement:
        """The rate, with a bootstrap over requests; not a number where a label does not occur."""
        rows = [s for s in evaluation[self.role] if self.category is None or s.data.get("category") == self.category]
        if not rows:
            raise UserError(f"{self.name}: role '{self.role}' has no row of category {self.category!r}")
        asked = {s.id: (s.with_("yes", answer="yes"), s.with_("no", answer="no")) for s in rows}
        tokens = evaluation.tokens([form for pair in asked.values() for form in pair])
        says = {row: bool(tokens[yes.id].logp[0] > tokens[no.id].logp[0]) for row, (yes, no) in asked.items()}
        place = {name: i for i, name in enumerate(dict.fromkeys(s.data.get("request", s.id) for s in rows))}
        counts_R4 = np.zeros((len(place), 4))
        for s in rows:
            counts_R4[place[s.data.get("request", s.id)], column(s.data["answer"] == "yes", says[s.id])] += 1
        scores = {s.id: float(says[s.id] == (s.data["answer"] == "yes")) for s in rows}
        return rate_measurement(self.name, counts_R4, self.what, version=self.version, scores=scores)
