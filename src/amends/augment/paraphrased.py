"""Other wordings of the rows, and wrong answers for another role: what ULD (arXiv 2406.08607) adds to its data.

ULD trains on the forget rows and two paraphrases of each, and puts each forget question with two wrong answers among the
retain rows, so that its assistant is sure of the true answer alone. Its paraphrases and wrong answers were written by
another model; here they are the data's own where it has them (`paraphrased_question`, `paraphrased_answer`,
`perturbed_answer`), else made by rule: the question put another way, and the answer of another row of the role.

Measurements that rest on the data's paraphrases and wrong answers (accuracy on paraphrases, truth ratio) are then
measured on what was trained on; `from_data: false` leaves those to the measurements.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated

from pydantic import Field

from amends.augment.rows import asking
from amends.core.errors import UserError
from amends.core.protocols import Context
from amends.core.rng import stream_seed
from amends.core.spec import Count, spec
from amends.core.types import Role, Sample
from amends.data.bundle import Bundle

WORDINGS = (
    "Can you tell me: {question}", "I would like to know: {question}", "Please answer this question: {question}",
    "Here is a question for you. {question}", "{question} Please answer.", "A friend of mine asks: {question}",
)  # fmt: skip


@spec
class Paraphrased:
    """Adds the rows of a role in other words, and on request their questions with wrong answers to another role."""

    role: Role = "forget"
    """Whose rows are put in other words."""
    times: Annotated[int, Field(ge=1, le=len(WORDINGS))] = 2
    """How many other wordings each row gets."""
    from_data: bool = True
    """Use the data's own paraphrases and wrong answers before any rule."""
    wrong_into: Role | None = None
    """The role that gets the questions with wrong answers (`retain` in ULD); None for no such rows."""
    wrong: Count = 2
    """How many wrong answers of each row go there."""

    def __call__(self, subject: object, data: Bundle, run: Context) -> Bundle:
        """The bundle with the added rows."""
        rows = asking(data, self.role, "paraphrased", ("question",))
        for text in self._told(rows):
            run.say(text)
        return self._made(data, run.seed)

    def objective_on(self, data: Bundle) -> Bundle:
        """The same rows; which wrong answer stands where depends on the run's seed."""
        return self._made(data, 0)

    def _made(self, data: Bundle, seed: int) -> Bundle:
        rows = asking(data, self.role, "paraphrased", ("question",))
        reworded = [(row, self._reworded(row)) for row in rows]
        others = {
            copy.id: copy.with_("other", answer=data.alternatives[row.id].data["answer"])
            for row, copies in reworded
            for copy in copies
            if row.id in data.alternatives
        }
        made = data.with_role(self.role, [*rows, *(copy for _, copies in reworded for copy in copies)])
        if self.wrong_into is not None:
            wrong = [w for row in rows for w in self._wrong(row, rows, seed)]
            made = made.with_role(self.wrong_into, [*made.roles.get(self.wrong_into, ()), *wrong])
        return replace(made, alternatives={**data.alternatives, **others})

    def _reworded(self, row: Sample) -> list[Sample]:
        asked, answer = row.data["question"], row.data["answer"]
        pairs = [*self._own(row), *((w.format(question=asked), answer) for w in WORDINGS)]
        return [row.with_(f"paraphrase-{k}", question=q, answer=a) for k, (q, a) in enumerate(pairs[: self.times])]

    def _own(self, row: Sample) -> list[tuple[str, str]]:
        """The data's paraphrases: both halves, then the question alone."""
        question = row.data.get("paraphrased_question") if self.from_data else None
        answer = row.data.get("paraphrased_answer") if self.from_data else None
        if question is None:
            return [] if answer is None else [(row.data["question"], answer)]
        return [*([] if answer is None else [(question, answer)]), (question, row.data["answer"])]

    def _wrong(self, row: Sample, rows: tuple[Sample, ...], seed: int) -> list[Sample]:
        answers = self._own_wrong(row)
        if len(answers) < self.wrong:
            known = {row.data["answer"], *answers}
            swapped = list(dict.fromkeys(r.data["answer"] for r in rows if r.data["answer"] not in known))
            answers += sorted(swapped, key=lambda a: stream_seed(seed, "wrong", row.id, a))
        if len(answers) < self.wrong:
            raise UserError(
                f"paraphrased.wrong: '{self.role}' has too few different answers to give row {row.id} {self.wrong} wrong ones: "
                "ask for fewer, or add some as `perturbed_answer`"
            )
        return [row.with_(f"wrong-{k}", answer=a) for k, a in enumerate(answers[: self.wrong])]

    def _own_wrong(self, row: Sample) -> list[str]:
        return list(row.data.get("perturbed_answer", ())) if self.from_data else []

    def _told(self, rows: tuple[Sample, ...]) -> list[str]:
        """What comes from the data and what is made by rule."""
        own = sum(min(self.times, len(self._own(row))) for row in rows)
        told = [f"'{self.role}' gets {self.times * len(rows)} rows in other words: {own} of the data, the others by rule"]
        if self.wrong_into is not None:
            own = sum(min(self.wrong, len(self._own_wrong(row))) for row in rows)
            total = self.wrong * len(rows)
            told.append(f"'{self.wrong_into}' gets {total} wrong answers: {own} of the data, the others those of other rows")
        return told
