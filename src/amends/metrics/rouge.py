"""ROUGE-L of greedy answers (ROUGE: Lin 2004), by the `rouge_score` package: TOFU's recall (arXiv 2401.06121, section 2.2.1).

The share of the expected answer's words that the greedy answer holds in the same order, with Porter's stemmer. The
package's tokenizer keeps a-z and 0-9 alone: an expected answer without any is refused here, where the package would
score every answer 0. A paraphrased question is still compared with the row's own answer, as in open-unlearning.
"""

from __future__ import annotations

from functools import cache
from typing import Any, ClassVar

from amends.core.errors import UserError
from amends.core.spec import spec
from amends.core.types import Better, Measurement, Role
from amends.metrics.evaluation import Evaluation
from amends.metrics.rows import better_for, paraphrase, rows_of
from amends.metrics.stats import mean_measurement


@spec
class Rouge:
    """ROUGE-L recall of the greedy answer against the expected one."""

    version: ClassVar[int] = 1
    needs_reference: ClassVar[bool] = False
    role: Role = "forget"
    """Whose questions are asked."""
    paraphrased_question: bool = False
    """Ask each row's `paraphrased_question` in place of its question."""

    @property
    def name(self) -> str:
        """`rouge.forget`, or `rouge.forget.paraphrase`."""
        return f"rouge.{self.role}{'.paraphrase' if self.paraphrased_question else ''}"

    @property
    def better(self) -> Better:
        """Lower where the answers are to go."""
        return better_for(self.role)

    def roles(self) -> frozenset[Role]:
        """The one role."""
        return frozenset({self.role})

    def fields(self) -> tuple[str, ...]:
        """What each row must have."""
        return ("question", "paraphrased_question") if self.paraphrased_question else ("question",)

    def scores(self, evaluation: Evaluation) -> dict[str, float]:
        """Each row's own recall."""
        samples = rows_of(evaluation, self.role, self.fields())
        asked = {s.id: paraphrase(s) if self.paraphrased_question else s for s in samples}
        answers = evaluation.answers(asked.values())
        return {s.id: recall(s.data["answer"], answers[asked[s.id].id], f"role '{self.role}', row {s.id}") for s in samples}

    def measure(self, evaluation: Evaluation, against: Evaluation | None = None) -> Measurement:
        """The mean over rows."""
        return mean_measurement(self.name, self.scores(evaluation), self.better, version=self.version)


def recall(expected: str, answer: str, at: str) -> float:
    """ROUGE-L recall with the stemmer; `at` names the row in errors.

    >>> recall("the cat sat", "a cat was sitting", "row 1")
    0.3333333333333333
    """
    return float(_score(expected, answer, at, stemmer=True).recall)


def f_measure(expected: str, answer: str, at: str) -> float:
    """ROUGE-L F1 without the stemmer, as MUSE has it; `at` names the row in errors.

    >>> f_measure("the cat sat", "the cat", "row 1")
    0.8
    """
    return float(_score(expected, answer, at, stemmer=False).fmeasure)


def _score(expected: str, answer: str, at: str, *, stemmer: bool) -> Any:
    if not any(c.isascii() and c.isalnum() for c in expected):
        raise UserError(
            f"{at}: ROUGE reads Latin letters and digits only and the answer {expected!r} has none: use accuracy with keys"
        )
    return _scorer(stemmer).score(expected, answer)["rougeL"]


@cache
def _scorer(stemmer: bool) -> Any:
    try:
        from rouge_score.rouge_scorer import RougeScorer
    except ImportError:
        raise UserError("rouge needs the package rouge-score: pip install 'amends[lm]'") from None
    return RougeScorer(["rougeL"], use_stemmer=stemmer)
