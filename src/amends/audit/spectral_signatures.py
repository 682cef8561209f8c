"""Spectral signatures (Tran, Li and Madry, arXiv 1811.00636): poisoned rows stretch their class's features in one direction.

For each class, of the features R(x) that the last layer reads, with mean R^ over the class's rows and v the top right
singular vector of the matrix of R(x) - R^:

    tau(x) = ((R(x) - R^) . v)^2,

and the 1.5 eps n rows of the class with the highest tau are flagged, eps being the share of a class that is expected to be
poisoned. In the paper as here a class is told by the label in the data, which for a poisoned row is the attacker's. The
attacker's class is not known, so rows of every class are flagged: on a clean set, and in every clean class, the rule flags
1.5 eps of all rows. `within: all` ranks the rows of all classes together and flags 1.5 eps of all rows: fewer clean rows where
one class holds the poison, and then eps is its share of all rows.

The score is t / (1 + t) with t = tau / (mean of tau over the class): in 0..1, in tau's order within a class, comparable between
classes, 1/2 for a row that is as far out as the class's rows are on average.

The theory asks for a poisoned minority. Where half of a class is poisoned, both halves are equally far out, and nothing is
found; above that the class's own rows are flagged.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from amends.audit.rows import by_class, check_classifier, highest, stacked
from amends.core.protocols import Context
from amends.core.spec import Fraction, Positive, spec
from amends.core.types import Role, Scores
from amends.data.bundle import Bundle
from amends.engine.features import features


@spec
class SpectralSignatures:
    """How far a row lies out along the direction in which its class's features vary most (needs the expected rate)."""

    name: ClassVar[str] = "spectral_signatures"
    rate: Annotated[float, Field(gt=0, lt=1)]
    """The paper's eps: the share of a class's rows (with `within: all`, of all rows) that is expected to be poisoned."""
    factor: Positive = 1.5
    """Rows that are flagged, as a multiple of the expected number."""
    within: Literal["class", "all"] = "class"
    """Whether so many are flagged of each class (the paper), or of all rows together."""
    layer: int | Fraction | None = None
    """The block whose features are read; None for what the last layer reads."""
    role: Role = "train"
    """The rows that are audited."""

    def check(self, data: Bundle, subject: Any | None) -> None:
        """Rows with classes, and a classifier that has such features."""
        check_classifier(data, self.role, subject, self.name)
        if subject is not None:
            features(subject, data[self.role][:1], self.layer)

    def scores(self, subject: Any, data: Bundle, run: Context) -> Scores:
        """tau of every row, brought into 0..1, and the flags of the paper's rule."""
        table = features(subject, data[self.role], self.layer)
        score: dict[str, float] = {}
        flagged: set[str] = set()
        for rows in by_class(data[self.role]).values():
            tau_N = signature(stacked(table, rows))
            own = {row.id: relative(tau, float(tau_N.mean())) for row, tau in zip(rows, tau_N.tolist(), strict=True)}
            score |= own
            flagged |= highest(own, self.num_flags(len(rows))) if self.within == "class" else frozenset()
        if self.within == "all":
            flagged |= highest(score, self.num_flags(len(score)))
        return Scores({row.id: score[row.id] for row in data[self.role]}, frozenset(flagged))

    def num_flags(self, num_rows: int) -> int:
        """1.5 eps n, rounded, and at most n."""
        return min(num_rows, round(self.factor * self.rate * num_rows))


def signature(centred_NC: np.ndarray) -> np.ndarray:
    """[N] the squared projections on the top right singular vector.

    >>> signature(np.array([[3.0, 0.0], [-1.0, 1.0], [-2.0, -1.0]])).argmax()
    np.int64(0)
    """
    _, _, right_CC = np.linalg.svd(centred_NC, full_matrices=False)
    return np.square(centred_NC @ right_CC[0])


def relative(value: float, mean: float) -> float:
    """t / (1 + t) of t = value / mean, and 0 where every row lies on the mean.

    >>> relative(2.0, 2.0), relative(6.0, 2.0), relative(0.0, 0.0)
    (0.5, 0.75, 0.0)
    """
    return value / (value + mean) if value + mean > 0 else 0.0
