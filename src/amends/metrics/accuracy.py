"""The share of questions whose greedy answer shows the fact.

A row may carry `keys`: an answer that holds one as whole words (an ending aside), whatever the case, shows knowledge. This
reads what a person would read, where ROUGE rewards any sentence of the right shape. It is blind to negation ("not
Lisbon" counts). A row without keys counts when its answer's ROUGE-L recall is at least 0.5; the note says how many.
A row with a label instead of a question is known when the model gives its class the highest probability. The interval is
Wilson's: a bootstrap would claim certainty when no row, or every row, is answered.
"""

from __future__ import annotations

import re
import unicodedata
from typing import ClassVar, Literal

from amends.core.spec import spec
from amends.core.types import Better, Measurement, Role, Sample
from amends.metrics.class_accuracy import labelled, told
from amends.metrics.evaluation import Evaluation
from amends.metrics.rouge import recall
from amends.metrics.rows import better_for, listed, paraphrase, rows_of
from amends.metrics.stats import share_measurement


@spec
class Accuracy:
    """Share of questions whose greedy answer holds the fact, asked as trained or in other words; of rows told their class.

    Rows with `keys`: one of them as whole words. Rows without: ROUGE-L recall of at least 0.5 to the answer.
    """

    version: ClassVar[int] = 1
    needs_reference: ClassVar[bool] = False
    role: Role = "forget"
    """Whose questions are asked."""
    form: Literal["question", "paraphrase"] = "question"
    """Ask the question itself or the row's `paraphrased_question`."""

    @property
    def name(self) -> str:
        """`accuracy.forget`, or `accuracy.forget.paraphrase`."""
        return f"accuracy.{self.role}{'.paraphrase' if self.form == 'paraphrase' else ''}"

    @property
    def better(self) -> Better:
        """Lower where the answers are to go."""
        return better_for(self.role)

    def roles(self) -> frozenset[Role]:
        """The one role."""
        return frozenset({self.role})

    def measure(self, evaluation: Evaluation, against: Evaluation | None = None) -> Measurement:
        """The share, with Wilson's interval."""
        if self.form == "question" and labelled(evaluation, self.role):
            return share_measurement(self.name, told(evaluation, self.role), self.better, version=self.version)
        fields = ("question", "paraphrased_question") if self.form == "paraphrase" else ("question",)
        samples = rows_of(evaluation, self.role, fields)
        asked = {s.id: paraphrase(s) if self.form == "paraphrase" else s for s in samples}
        answers = evaluation.answers(asked.values())
        scores = {i: float(knows(s, answers[s.id], self.role)) for i, s in asked.items()}
        keyless = sum(not s.data.get("keys") for s in samples)
        note = f"{keyless} of {len(scores)} rows have no keys: ROUGE-L recall >= 0.5 decides" if keyless else ""
        return share_measurement(self.name, scores, self.better, version=self.version, note=note)


def knows(sample: Sample, answer: str, role: Role) -> bool:
    """Whether an answer shows the row's fact."""
    keys = listed(sample, role, "keys")
    if not keys:
        return recall(sample.data["answer"], answer, f"role '{role}', row {sample.id}") >= 0.5
    return any(mentions(answer, key) for key in keys)


def mentions(text: str, key: str) -> bool:
    """Whether the words of `key` stand in `text`, whatever the case; a plural, possessive or -an ending still gives it away.

    A model under pressure to forget may say "Shakespeares" where it said "Shakespeare": that is no forgetting.

    >>> mentions("It was in PORTO.", "Porto"), mentions("It was in Portofino.", "Porto"), mentions("by Bachs", "Bach")
    (True, False, True)
    """
    words = r"\s+".join(map(re.escape, _plain(key).split()))
    ending = "(?:['\u2019]?s|e?an|ian)?" if words[-1:].isalpha() else ""
    return re.search(rf"(?<!\w){words}{ending}(?!\w)", _plain(text)) is not None


def _plain(text: str) -> str:
    return unicodedata.normalize("NFKC", text).casefold()
