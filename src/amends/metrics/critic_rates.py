"""How good the critic was that steered an arm: its verdicts on every version that it saw, against the checkers'.

The class that matters is "violated", which starts a rewrite. With V the violated and M the met constraints by the checkers,
TPR is the share of V that the critic calls violated, TNR the share of M that it calls met. A critic that only guesses has
TPR + TNR = 1, a balanced accuracy of one half; a loop steered by it only moves answers about (DeCRIM, arXiv 2410.06458: the
critic's quality decides).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

import numpy as np

from amends.core.spec import spec
from amends.core.types import Better, Measurement, Role
from amends.data.instructed import request_of
from amends.metrics.compliance import met, records, requests_of
from amends.metrics.confusion import What, column, rate_measurement
from amends.metrics.evaluation import Evaluation

JUDGES = ("judge", "supervised", "injected")
"""Whose verdicts are no checker's."""


@spec
class CriticRates:
    """TPR, TNR or balanced accuracy of an arm's critic on the constraints that code checks; none for arms steered by code."""

    version: ClassVar[int] = 1
    needs_reference: ClassVar[bool] = False
    role: Role = "test"
    """Whose answers are looked at."""
    what: What = "balanced"
    """Share of violated constraints called violated, of met ones called met, or the mean of the two."""

    @property
    def name(self) -> str:
        """`critic_balanced.test`, ..."""
        return f"critic_{self.what}.{self.role}"

    @property
    def better(self) -> Better:
        """More is better."""
        return "higher"

    def roles(self) -> frozenset[Role]:
        """The one role."""
        return frozenset({self.role})

    def measure(self, evaluation: Evaluation, against: Evaluation | None = None) -> Measurement:
        """The rate, with a bootstrap over requests; not a number where the arm's critic was code, or a class did not occur."""
        counts = evaluation.once(f"critic/{self.role}", lambda: list(_counts(evaluation, self.role)))
        unknown = "" if np.sum(counts) else "no critic but code gave a verdict"
        return rate_measurement(self.name, counts, self.what, version=self.version, note=unknown)


def _counts(evaluation: Evaluation, role: Role) -> Iterator[list[int]]:
    """For each request: violated and said so, violated and missed, met and said so, met and accused."""
    given = records(evaluation, role)
    for sample in requests_of(evaluation, role):
        constraints = request_of(sample).constraints
        found = [0, 0, 0, 0]
        for attempt in given[sample.id]["attempts"]:
            said = {v["constraint"]: v["passed"] for v in attempt["verdicts"] if v["source"] in JUDGES}
            truth = met(constraints, str(attempt["text"]), "strict") if said else {}
            for row, passed in truth.items():
                if said.get(row) is not None:
                    found[column(passed, bool(said[row]))] += 1
        yield found
