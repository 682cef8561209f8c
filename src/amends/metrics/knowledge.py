"""Knowledge memorisation, MUSE's second and fourth criterion (arXiv 2407.06460, section 3.1): questions about the text.

KnowMem = mean over questions of ROUGE-L F1, without a stemmer, of a greedy answer of at most 32 tokens against the true
one. The question comes after a few others with their answers ("Question: ... / Answer: ..."), so that a model that was
never taught to answer knows what is wanted; the answer ends where the next question would begin: at an empty line, at
"\\nQuestion", or at "Question:". On the forget set it is to fall, on the retain set it is MUSE's measure of utility.

What differs from released code: the prompt ends in "Answer:" and not in "Answer: ", whose last blank is a token of its own
for many tokenizers; models with a chat template get the examples as turns of a conversation.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from amends.core.spec import Count, spec
from amends.core.types import Better, Measurement, Role, Sample
from amends.metrics.evaluation import Evaluation
from amends.metrics.rouge import f_measure
from amends.metrics.rows import better_for, rows_of
from amends.metrics.stats import mean_measurement

ENDS = ("\n\n", "\nQuestion", "Question:")
"""Where an answer ends, cut one after the other."""


@spec
class KnowledgeMemory:
    """ROUGE-L F1 of short greedy answers to questions about the text, asked after a few examples."""

    version: ClassVar[int] = 1
    needs_reference: ClassVar[bool] = False
    role: Role = "forget_qa"
    """Rows of `question` and `answer`."""
    examples: Role | None = None
    """Rows of `question` and `answer` that are shown before each question; without them it is asked at once."""
    tokens: Count = 32
    """Longest answer."""

    @property
    def name(self) -> str:
        """`knowledge_memory.forget_qa`."""
        return f"knowledge_memory.{self.role}"

    @property
    def better(self) -> Better:
        """Lower where the knowledge is to go."""
        return better_for(self.role)

    def roles(self) -> frozenset[Role]:
        """The questions, and the examples."""
        return frozenset({self.role, *([self.examples] if self.examples else [])})

    def measure(self, evaluation: Evaluation, against: Evaluation | None = None) -> Measurement:
        """The mean over questions."""
        samples = rows_of(evaluation, self.role, ("question", "answer"))
        shown = rows_of(evaluation, self.examples, ("question", "answer")) if self.examples else ()
        asked = {s.id: self._after(shown, s) if shown else s for s in samples}
        texts = evaluation.texts(asked.values(), self.tokens)
        scores = {
            s.id: f_measure(s.data["answer"], cut(texts[asked[s.id].id]), f"role '{self.role}', row {s.id}") for s in samples
        }
        note = f"asked after {len(shown)} examples" if shown else ""
        return mean_measurement(self.name, scores, self.better, version=self.version, note=note)

    def _after(self, shown: Sequence[Sample], sample: Sample) -> Sample:
        turns = [{"question": s.data["question"], "answer": s.data["answer"]} for s in shown]
        return sample.with_(f"after-{self.examples}", before=[*turns, *sample.data.get("before", ())])


def cut(text: str) -> str:
    """What stands before the end of an answer.

    >>> cut(" In Porto.\\nQuestion: And"), cut("\\n\\nIn Porto.")
    (' In Porto.', '')
    """
    for end in ENDS:
        text = text.split(end)[0]
    return text
