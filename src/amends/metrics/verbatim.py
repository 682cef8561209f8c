"""Verbatim memorisation of text, MUSE's first criterion (arXiv 2407.06460, section 3.1).

VerbMem = mean over passages of ROUGE-L F1, without a stemmer, of the model's greedy continuation of a passage's beginning
against the true continuation, both of at most 128 tokens. 0.2 or so is what a model writes that never saw the text and
catches its small words: read it against the retrained model. MUSE writes it in per cent.

What differs from released code: there the true continuation is cut at 128 tokens with a BOS token among them, here at 128
tokens of text. A model whose closing token comes early is scored on what it wrote, in both.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

from amends.core.errors import UserError
from amends.core.spec import Count, spec
from amends.core.types import Better, Measurement, Role, Sample
from amends.metrics.evaluation import Evaluation
from amends.metrics.rouge import f_measure
from amends.metrics.rows import better_for, rows_of
from amends.metrics.stats import mean_measurement


@spec
class VerbatimMemory:
    """ROUGE-L F1 of the greedy continuation of a passage's beginning against the passage itself."""

    version: ClassVar[int] = 1
    needs_reference: ClassVar[bool] = False
    role: Role = "forget_verbatim"
    """Rows of `prompt`, the beginning, and `answer`, what follows it."""
    tokens: Count = 128
    """How much is written, and how much of the true continuation it is compared with."""

    @property
    def name(self) -> str:
        """`verbatim_memory.forget_verbatim`."""
        return f"verbatim_memory.{self.role}"

    @property
    def better(self) -> Better:
        """Lower where the text is to go."""
        return better_for(self.role)

    def roles(self) -> frozenset[Role]:
        """The one role."""
        return frozenset({self.role})

    def measure(self, evaluation: Evaluation, against: Evaluation | None = None) -> Measurement:
        """The mean over passages."""
        samples = rows_of(evaluation, self.role, ("prompt", "answer"))
        written = evaluation.answers(samples, self.tokens)
        expected = self._expected(evaluation, samples)
        scores = {s.id: f_measure(expected[s.id], written[s.id], f"role '{self.role}', row {s.id}") for s in samples}
        return mean_measurement(self.name, scores, self.better, version=self.version)

    def _expected(self, evaluation: Evaluation, samples: Iterable[Sample]) -> dict[str, str]:
        """The true continuations, cut at as many tokens as are written; kept, since the cut needs the tokenizer."""
        return evaluation.once(
            f"expected/{self.role}/{self.tokens}", lambda: {s.id: _cut(evaluation.subject, s, self.tokens) for s in samples}
        )


def _cut(subject: object, sample: Sample, tokens: int) -> str:
    tokenizer = getattr(subject, "tokenizer", None)
    if tokenizer is None:
        raise UserError(f"row {sample.id}: verbatim memory needs a model that reads tokens: use it with a language model")
    ids = tokenizer(sample.data["answer"], add_special_tokens=False)["input_ids"]
    return tokenizer.decode(ids[:tokens], skip_special_tokens=True).strip()
