"""Verbatim memorisation under teacher forcing, the two metrics that open-unlearning's meta-evaluation ranks first.

EM = share of the answer's tokens whose arg-max is the right token (Tirumala et al., arXiv 2205.10770). ES = 1 - k*/n, with
k* the smallest k such that every arg-max from position k to the end is right (Carlini et al., arXiv 2012.07805). Both
are 1 for an answer known by heart. As in open-unlearning the closing token is not a position of either: a model that
recites an answer and then does not stop has extracted it. Its released loop ends at k = n-1, so that its ES never
falls below 1/n; here an answer of which nothing comes out is 0.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

import numpy as np

from amends.core.errors import UserError
from amends.core.spec import spec
from amends.core.types import Better, Measurement, Role
from amends.metrics.evaluation import Evaluation
from amends.metrics.rows import better_for, rows_of
from amends.metrics.stats import mean_measurement


@spec
class ExactMemorisation:
    """Share of the answer's tokens that the model ranks first, given those before."""

    version: ClassVar[int] = 1
    needs_reference: ClassVar[bool] = False
    role: Role = "forget"
    """Whose answers."""

    @property
    def name(self) -> str:
        """`exact_memorisation.forget`."""
        return f"exact_memorisation.{self.role}"

    @property
    def better(self) -> Better:
        """Lower where the answers are to go."""
        return better_for(self.role)

    def roles(self) -> frozenset[Role]:
        """The one role."""
        return frozenset({self.role})

    def measure(self, evaluation: Evaluation, against: Evaluation | None = None) -> Measurement:
        """The mean over rows."""
        scores = _by_row(evaluation, self.role, exact)
        return mean_measurement(self.name, scores, self.better, version=self.version)


@spec
class ExtractionStrength:
    """How much of an answer comes out by itself once its beginning is given."""

    version: ClassVar[int] = 1
    needs_reference: ClassVar[bool] = False
    role: Role = "forget"
    """Whose answers."""

    @property
    def name(self) -> str:
        """`extraction_strength.forget`."""
        return f"extraction_strength.{self.role}"

    @property
    def better(self) -> Better:
        """Lower where the answers are to go."""
        return better_for(self.role)

    def roles(self) -> frozenset[Role]:
        """The one role."""
        return frozenset({self.role})

    def measure(self, evaluation: Evaluation, against: Evaluation | None = None) -> Measurement:
        """The mean over rows."""
        scores = _by_row(evaluation, self.role, extractable)
        return mean_measurement(self.name, scores, self.better, version=self.version)


def exact(hit: np.ndarray) -> float:
    """EM of one row from its hits, closing token left out.

    >>> exact(np.array([True, False]))
    0.5
    """
    return float(hit.mean())


def extractable(hit: np.ndarray) -> float:
    """ES of one row from its hits, closing token left out: the share that the trailing run of hits makes up.

    >>> extractable(np.array([True, False, True, True]))
    0.5
    """
    missed = np.flatnonzero(~hit)
    start = missed[-1] + 1 if len(missed) else 0
    return float(1 - start / len(hit))


def _by_row(evaluation: Evaluation, role: Role, score: Callable[[np.ndarray], float]) -> dict[str, float]:
    scores = {}
    for row, tokens in evaluation.tokens(rows_of(evaluation, role)).items():
        if tokens.hit is None or len(tokens.hit) < 2:
            raise UserError(f"role '{role}', row {row}: memorisation needs an answer of tokens: use it with a language model")
        scores[row] = score(tokens.hit[:-1])
    return scores
