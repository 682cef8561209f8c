"""Whether the model still writes: n-gram entropy of its greedy answers, and how much they repeat themselves.

Entropy is RWKU's fluency (arXiv 2406.10890; from ROME, arXiv 2202.05262): with H_n the entropy in bits of an answer's
n-grams, (2/3 H_2 + 4/3 H_3) / 2, mean over rows. It grows with the length of an answer (at most log2 of its number of
n-grams), so compare models on the same rows, never one data set with another. The authors split words with NLTK's
downloaded tokenizer; here a word is a run of letters and digits and any other visible character is a token of its own.
An answer too short for an n-gram has entropy 0.
"""

from __future__ import annotations

import re
from collections import Counter
from typing import ClassVar

from scipy.stats import entropy

from amends.core.spec import spec
from amends.core.types import Better, Measurement, Role
from amends.engine.guards import repeated
from amends.metrics.evaluation import Evaluation
from amends.metrics.rows import rows_of
from amends.metrics.stats import mean_measurement

WEIGHTS = {2: 2 / 3, 3: 4 / 3}
"""n -> the weight of its entropy."""


@spec
class Fluency:
    """Entropy of the 2- and 3-grams of greedy answers, in bits: low means loops, or very short answers."""

    version: ClassVar[int] = 1
    better: ClassVar[Better] = "higher"
    needs_reference: ClassVar[bool] = False
    role: Role = "forget"
    """Whose questions are asked."""

    @property
    def name(self) -> str:
        """`fluency.forget`."""
        return f"fluency.{self.role}"

    def roles(self) -> frozenset[Role]:
        """The one role."""
        return frozenset({self.role})

    def measure(self, evaluation: Evaluation, against: Evaluation | None = None) -> Measurement:
        """The mean over rows."""
        answers = evaluation.answers(rows_of(evaluation, self.role, ("question",)))
        scores = {row: ngram_entropy(text) for row, text in answers.items()}
        return mean_measurement(self.name, scores, self.better, version=self.version, unit="bits")


@spec
class Repetition:
    """Share of the 3-grams of greedy answers that occurred before in the same answer."""

    version: ClassVar[int] = 1
    better: ClassVar[Better] = "lower"
    needs_reference: ClassVar[bool] = False
    role: Role = "forget"
    """Whose questions are asked."""

    @property
    def name(self) -> str:
        """`repetition.forget`."""
        return f"repetition.{self.role}"

    def roles(self) -> frozenset[Role]:
        """The one role."""
        return frozenset({self.role})

    def measure(self, evaluation: Evaluation, against: Evaluation | None = None) -> Measurement:
        """The mean over rows; answers of fewer than eight words cannot repeat."""
        answers = evaluation.answers(rows_of(evaluation, self.role, ("question",)))
        scores = {row: repeated(text) for row, text in answers.items()}
        return mean_measurement(self.name, scores, self.better, version=self.version)


def ngram_entropy(text: str) -> float:
    """The weighted mean of the text's 2- and 3-gram entropies, in bits.

    >>> ngram_entropy("yes yes yes yes")
    0.0
    """
    words = re.findall(r"\w+|[^\w\s]", text)
    return sum(weight * _entropy(words, n) for n, weight in WEIGHTS.items()) / len(WEIGHTS)


def _entropy(words: list[str], n: int) -> float:
    counts = Counter(zip(*(words[i:] for i in range(n)), strict=False))
    return float(entropy(list(counts.values()), base=2)) if counts else 0.0
