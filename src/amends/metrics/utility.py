"""Model utility: one number for what must survive (arXiv 2401.06121, section 2.2.1).

The harmonic mean of {probability, ROUGE, truth ratio} over {retain, real authors, world facts}; 0 as soon as one part is
0. Real authors and world facts are scored against wrong answers, and their truth ratio rests on the plain answer. Parts
that the rows cannot give (no wrong answers, no paraphrase) are left out and named in the note: such a utility compares
models on the same data and is not to be held against nine-part numbers.

The truth ratio's wrong answers are averaged geometrically, as in open-unlearning; TOFU's older utility code was arithmetic
here. The interval resamples the rows of each role, together for the parts that rest on them.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np
from pydantic import Field

from amends.core.errors import UserError
from amends.core.spec import spec
from amends.core.types import Better, Measurement, Role
from amends.metrics.evaluation import Evaluation
from amends.metrics.probability import Probability
from amends.metrics.rouge import Rouge
from amends.metrics.rows import CHOICE_ROLES, lacking
from amends.metrics.stats import interval
from amends.metrics.truth_ratio import Average, TruthRatio

PartName = Literal["probability", "rouge", "truth_ratio"]


@spec
class Utility:
    """Harmonic mean of probability, ROUGE and truth ratio over the roles that must survive."""

    version: ClassVar[int] = 1
    better: ClassVar[Better] = "higher"
    needs_reference: ClassVar[bool] = False
    over: tuple[Role, ...] = Field(default=("retain", "real_authors", "world_facts"), min_length=1)
    """The roles that must survive."""
    choice_roles: tuple[Role, ...] = CHOICE_ROLES
    """Those of them that are scored against wrong answers, and whose truth ratio rests on the plain answer."""
    parts: tuple[PartName, ...] = Field(default=("probability", "rouge", "truth_ratio"), min_length=1)
    """What is measured on each role."""
    mean: Average = "geometric"
    """How wrong answers are averaged in the truth ratio."""

    @property
    def name(self) -> str:
        """`utility`."""
        return "utility"

    def roles(self) -> frozenset[Role]:
        """All it rests on."""
        return frozenset(self.over)

    def measure(self, evaluation: Evaluation, against: Evaluation | None = None) -> Measurement:
        """The harmonic mean; `scores` hold each row's parts as `row/part`."""
        tables, left_out = self._tables(evaluation)
        matrices_PR = [np.array([list(scores.values()) for scores in table.values()]) for table in tables.values()]

        def statistic(*rows: np.ndarray, axis: int = -1) -> np.ndarray:
            drawn = zip(matrices_PR, rows, strict=True)
            return harmonic([part_R[r.astype(int)].mean(axis) for matrix_PR, r in drawn for part_R in matrix_PR])

        index = [np.arange(m.shape[1]) for m in matrices_PR]
        value = float(statistic(*index))
        low, high = interval(index, statistic, paired=False)
        note = f"left out: {'; '.join(left_out)}" if left_out else ""
        scores = {f"{i}/{p}": v for table in tables.values() for p, rows in table.items() for i, v in rows.items()}
        n = sum(m.shape[1] for m in matrices_PR)
        return Measurement(self.name, value, low, high, n, self.better, self.version, note=note, scores=scores)

    def _tables(self, evaluation: Evaluation) -> tuple[dict[Role, dict[str, dict[str, float]]], list[str]]:
        """role -> part -> row -> score, and the parts that the rows cannot give."""
        tables: dict[Role, dict[str, dict[str, float]]] = {}
        left_out = []
        for role in self.over:
            for part in self.parts:
                metric = self._metric(part, role)
                gap = lacking(evaluation[role], metric.fields())
                if gap is None:
                    tables.setdefault(role, {})[part] = metric.scores(evaluation)
                else:
                    left_out.append(f"{part}.{role} (row {gap[0]} has no '{gap[1]}')")
        if not tables:
            raise UserError(f"utility: no part can be computed ({'; '.join(left_out)}): add the fields or name other roles")
        return tables, left_out

    def _metric(self, part: PartName, role: Role) -> Probability | Rouge | TruthRatio:
        choice = role in self.choice_roles
        if part == "probability":
            return Probability(role=role, choices=choice)
        return Rouge(role=role) if part == "rouge" else TruthRatio(role=role, mean=self.mean, plain=choice)


def harmonic(parts: list[np.ndarray]) -> np.ndarray:
    """The harmonic mean over the list, element by element; 0 where a part is 0.

    >>> float(harmonic([np.array(1.0), np.array(0.5)]))
    0.6666666666666666
    """
    stacked = np.stack(parts)
    zero = (stacked <= 0).any(0)
    return np.where(zero, 0.0, len(parts) / (1 / np.where(stacked > 0, stacked, 1.0)).sum(0))
