"""Asks in other words: what was forgotten in the wording of training alone is found again in another one.

By default the row's own `paraphrased_question`, as TOFU's evaluation asks it (arXiv 2401.06121). `by: rule` rewords any
question by a few fixed rules: a weaker attack, which needs no second wording. The answer that is looked for stays the
row's own.
"""

from __future__ import annotations

import re
from typing import Any, ClassVar, Literal

from amends.attack.asking import asked_otherwise, questions, told
from amends.core.errors import UserError
from amends.core.protocols import Context
from amends.core.rng import stream_seed
from amends.core.spec import spec
from amends.core.types import Role, Sample
from amends.data.bundle import Bundle

RULES = (
    (r"(?i)^what (?:is|was|are|were) the ([^?]+?) of ([^?]+)\?$", r"Tell me the \1 of \2."),
    (r"(?i)^who (wrote|made|won|found|founded|invented|discovered|painted|directed|composed|built|led) ([^?]+)\?$",
     r"Give the name of the one who \1 \2."),
)  # fmt: skip
"""Questions whose wording says where the parts go."""

FRAMES = (
    "Here is something I would like to know: {}",
    "One more question before we end: {}",
    "A friend asked me this, and I could not help: {}",
)
"""What any other question is put into."""


@spec
class Paraphrase:
    """Asks each question in other words: those of the row, or by rule."""

    keeps_weights: ClassVar[bool] = True
    by: Literal["row", "rule"] = "row"
    """Ask the row's `paraphrased_question`, or reword the question by rules."""
    role: Role = "forget"
    """Whose questions are asked so."""

    @property
    def name(self) -> str:
        """`paraphrase` or `paraphrase-rule`."""
        return "paraphrase" if self.by == "row" else "paraphrase-rule"

    @property
    def label(self) -> str:
        """`asking in other words`."""
        return "asking in other words" if self.by == "row" else "asking in other words, by rule"

    def __call__(self, subject: Any, data: Bundle, run: Context) -> Bundle:
        """The rows with other questions."""
        self.objective_on(data)

        def change(row: Sample) -> tuple[Sample]:
            key = "question" if "question" in row.data else "prompt"
            bare = row.data[key].strip()
            if self.by == "row":
                new = row.data["paraphrased_question"]
            else:
                new = reworded(bare, stream_seed(run.seed, "paraphrase", row.id))
            space = row.data[key][len(row.data[key].rstrip()) :]  # what parts a prompt from its answer
            return (told(row, **{key: new.rstrip() + space}),)

        return asked_otherwise(subject, data, self.role, change, run)

    def objective_on(self, data: Bundle) -> tuple[()]:
        """Raises UserError for a missing role, or for a row that asks nothing or has no other words."""
        bare = [s.id for s in questions(data, self.role) if not s.data.get("paraphrased_question")]
        if self.by == "row" and bare:
            raise UserError(
                f"role '{self.role}', row {bare[0]}: has no 'paraphrased_question': add one to each row, or set `by: rule`"
            )
        return ()


def reworded(question: str, choice: int) -> str:
    """The question by the first rule that reads it, else in one of the frames, which `choice` decides.

    >>> reworded("What is the capital of France?", 0)
    'Tell me the capital of France.'
    >>> reworded("Where was Dmitar Oduya born?", 0)
    'Here is something I would like to know: Where was Dmitar Oduya born?'
    """
    for pattern, form in RULES:
        if re.match(pattern, question):
            return re.sub(pattern, form, question)
    return FRAMES[choice % len(FRAMES)].format(question)
