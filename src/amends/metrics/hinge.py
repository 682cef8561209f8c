"""The mean hinge of a classifier on some rows: max(0, 1 - margin), the loss of the one-layer analysis (arXiv 2406.17167).

The margin z_y - max_{k != y} z_k is a difference of log-probabilities as well, so it is read from the table of predictions
that every other measurement of a classifier rests on. 0 where each row's own class leads by at least 1; above 0 even for
rows that are told right, but by less: it moves long before accuracy does.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from amends.core.errors import UserError
from amends.core.spec import spec
from amends.core.types import Better, Measurement, Role
from amends.metrics.class_accuracy import labelled
from amends.metrics.evaluation import Evaluation
from amends.metrics.rows import rows_of
from amends.metrics.stats import mean_measurement


@spec
class Hinge:
    """Mean hinge loss of a classifier: how far its rows are from a lead of 1 in logits; 0 is the best."""

    version: ClassVar[int] = 1
    better: ClassVar[Better] = "lower"
    needs_reference: ClassVar[bool] = False
    role: Role = "test"
    """The rows."""

    @property
    def name(self) -> str:
        """`hinge.test`."""
        return f"hinge.{self.role}"

    def roles(self) -> frozenset[Role]:
        """The one role."""
        return frozenset({self.role})

    def measure(self, evaluation: Evaluation, against: Evaluation | None = None) -> Measurement:
        """The mean over rows with its interval; raises UserError where whole predictions over classes are not kept."""
        rows = rows_of(evaluation, self.role)
        table = evaluation.tokens(rows)
        if table[rows[0].id].classes is None or not labelled(evaluation, self.role):
            raise UserError(f"role '{self.role}': its rows have no class that this model could tell: use another metric")
        scores = {row.id: hinge(np.asarray(table[row.id].classes), int(row.data["label"])) for row in rows}
        return mean_measurement(self.name, scores, self.better, version=self.version)


def hinge(logp_K: np.ndarray, label: int) -> float:
    """max(0, 1 - (log p_y - max_{k != y} log p_k)).

    >>> hinge(np.array([-0.25, -1.0]), 0), hinge(np.array([-0.25, -1.0]), 1), hinge(np.array([-4.0, -0.1]), 1)
    (0.25, 1.75, 0.0)
    """
    return max(0.0, 1.0 - float(logp_K[label] - np.delete(logp_K, label).max()))
