"""How long answers are, beside whether they comply: a loop that only counts constraints learns to say little.

In a trial of the loop on a small model every answer that improved got shorter; one was an apology of a dozen words. So
length, repetition and apologies stand beside compliance in every table.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from amends.core.spec import spec
from amends.core.types import Better, Measurement, Role
from amends.metrics.compliance import records, requests_of
from amends.metrics.evaluation import Evaluation
from amends.metrics.stats import mean_measurement, share_measurement


@spec
class AnswerLength:
    """Words of the chosen answer, or their ratio to the first answer's of the same request."""

    version: ClassVar[int] = 1
    needs_reference: ClassVar[bool] = False
    role: Role = "test"
    """Whose answers are counted."""
    what: Literal["words", "ratio"] = "words"
    """How many, or how many for each word of the first answer (1 where nothing was rewritten)."""

    @property
    def name(self) -> str:
        """`answer_words.test`, or `length_ratio.test`."""
        return f"{'answer_words' if self.what == 'words' else 'length_ratio'}.{self.role}"

    @property
    def better(self) -> Better:
        """Neither longer nor shorter is better in itself: closer to the reference arm."""
        return "closer"

    def roles(self) -> frozenset[Role]:
        """The one role."""
        return frozenset({self.role})

    def measure(self, evaluation: Evaluation, against: Evaluation | None = None) -> Measurement:
        """The mean a request; a first answer of no words counts as one of a single word."""
        given = records(evaluation, self.role)
        scores = {}
        for sample in requests_of(evaluation, self.role):
            record = given[sample.id]
            first = words(str(record["attempts"][0]["text"])) if record["attempts"] else 0
            own = words(str(record["text"]))
            scores[sample.id] = float(own) if self.what == "words" else own / max(1, first)
        return mean_measurement(self.name, scores, self.better, version=self.version)


@spec
class Degenerate:
    """The share of chosen answers with a warning of the guard: much shorter, repetitive, an apology, off the task."""

    version: ClassVar[int] = 1
    needs_reference: ClassVar[bool] = False
    role: Role = "test"
    """Whose answers are looked at."""

    @property
    def name(self) -> str:
        """`degenerate.test`."""
        return f"degenerate.{self.role}"

    @property
    def better(self) -> Better:
        """Fewer is better."""
        return "lower"

    def roles(self) -> frozenset[Role]:
        """The one role."""
        return frozenset({self.role})

    def measure(self, evaluation: Evaluation, against: Evaluation | None = None) -> Measurement:
        """The share, with Wilson's interval."""
        given = records(evaluation, self.role)
        scores = {s.id: float(bool(chosen(given[s.id]).get("warnings"))) for s in requests_of(evaluation, self.role)}
        return share_measurement(self.name, scores, self.better, version=self.version)


def chosen(record: Mapping[str, Any]) -> Mapping[str, Any]:
    """The attempt that a record chose."""
    return record["attempts"][record["best"]]


def words(text: str) -> int:
    r"""Runs of letters, digits and underscores, as IFEval counts them.

    >>> words("Don't stop.")
    3
    """
    return len(re.findall(r"\w+", text))
