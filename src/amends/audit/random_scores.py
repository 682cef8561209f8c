"""Random scores: the control. What cannot beat it finds nothing."""

from __future__ import annotations

from typing import Any, ClassVar

from amends.audit.rows import highest
from amends.core.errors import UserError
from amends.core.protocols import Context
from amends.core.rng import stream_seed
from amends.core.spec import Fraction, spec
from amends.core.types import Role, Scores
from amends.data.bundle import Bundle

_RANGE = 2**32


@spec
class RandomScores:
    """A uniform score for each row, and the highest flagged: the control that an auditor has to beat."""

    name: ClassVar[str] = "random_scores"
    rate: Fraction = 0.1
    """The share of rows that is flagged."""
    role: Role = "train"
    """The rows that are audited."""

    def check(self, data: Bundle, subject: Any | None) -> None:
        """Some rows."""
        if not data[self.role]:
            raise UserError(f"random_scores: role '{self.role}' is empty: there is nothing to audit")

    def scores(self, subject: Any, data: Bundle, run: Context) -> Scores:
        """Each row's own draw, by its id and the run's seed."""
        score = {row.id: stream_seed(run.seed, self.name, row.id) % _RANGE / _RANGE for row in data[self.role]}
        return Scores(score, highest(score, round(self.rate * len(score))))
