"""The accuracy of the worst class: what distributionally robust training is for (group DRO, arXiv 1911.08731).

The interval is Wilson's over the rows of that class. The class is chosen as the worst on the very rows it is measured on, so
the number is below what new rows would give, the more so the fewer rows a class has; that holds for every model alike.
"""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

from amends.core.spec import spec
from amends.core.types import Better, Measurement, Role
from amends.metrics.class_accuracy import told
from amends.metrics.evaluation import Evaluation, name_of
from amends.metrics.stats import share_measurement


@spec
class WorstClass:
    """Accuracy on the class that the model tells worst."""

    version: ClassVar[int] = 1
    better: ClassVar[Better] = "higher"
    needs_reference: ClassVar[bool] = False
    role: Role = "test"
    """The rows."""

    @property
    def name(self) -> str:
        """`worst_class.test`."""
        return f"worst_class.{self.role}"

    def roles(self) -> frozenset[Role]:
        """The one role."""
        return frozenset({self.role})

    def measure(self, evaluation: Evaluation, against: Evaluation | None = None) -> Measurement:
        """The smallest share over the classes that have rows; the note says which class it is."""
        hits, by_class = told(evaluation, self.role), {}
        for row in evaluation[self.role]:
            by_class.setdefault(int(row.data["label"]), {})[row.id] = hits[row.id]
        label = min(by_class, key=lambda k: (sum(by_class[k].values()) / len(by_class[k]), k))
        note = f"the worst of {len(by_class)} classes is '{name_of(label, evaluation.data.classes)}'"
        found = share_measurement(self.name, by_class[label], self.better, version=self.version, note=note)
        return replace(found, scores=hits)
