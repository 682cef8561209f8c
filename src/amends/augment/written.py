"""AltPO's alternatives (arXiv 2409.13474): the model itself writes other, plausible answers before it unlearns.

Each row is asked `num` times for an answer that states something else, at a temperature, with the model as it is at the
start; the row is repeated once for each answer, which becomes the other answer of that copy. AltPO is `dpo` on these and
`nll` on the retain rows. An answer that is empty or repeats the true one says nothing and is left out. The paper writes
5 answers of at most 200 tokens at temperature 1; the wording of the request is this library's own.

Answers are drawn from the run's own stream, so a run repeats itself; they are kept in the run's folder as JSON Lines, and
a run that goes on reads them there. Of several processes all use what the main one wrote.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from amends.augment.rows import asking, with_alternatives
from amends.core.errors import UserError
from amends.core.protocols import Context
from amends.core.spec import Count, Positive, spec
from amends.core.types import Role, Sample
from amends.data.bundle import Bundle
from amends.engine.parallel import Parallel

REQUEST = (
    "Someone asked: {question}\nThe true answer is: {answer}\n"
    "Write another answer to the same question that sounds as sure and as natural, has about the same length, and states "
    "something else instead of every fact in the true one. Give the answer alone."
)


@spec
class Written:
    """Lets the start model write plausible other answers as alternatives: AltPO's half that needs generation."""

    role: Role = "forget"
    """Whose rows get other answers; they are repeated, once for each."""
    num: Count = 5
    """How many answers are written for each row."""
    temperature: Positive = 1.0
    """Of the draw; lower is more careful and repeats itself more."""
    max_new_tokens: Count = 200
    """Longest answer."""
    request: str = REQUEST
    """What the model is asked, with {question} and {answer} in place; `{question}` alone suits a model without a chat form."""
    batch_size: Count = 16
    """Answers written at once."""

    def __call__(self, subject: Any, data: Bundle, run: Context) -> Bundle:
        """The bundle with the repeated rows and their alternatives. Raises UserError when a row gets no usable answer."""
        self.objective_on(data)
        parallel = Parallel()
        path = run.folder / f"written-{self.role}.jsonl" if run.folder else None
        texts = self._kept(path, data[self.role])
        if texts is None:
            subject.call.to(parallel.device)
            texts = parallel.same(self._write(subject, data[self.role], run))
            if path is not None and parallel.is_main:
                _save(path, texts)
        answers = {row.id: [t for t in texts[row.id] if _says_something_else(t, row)] for row in data[self.role]}
        without = [i for i, found in answers.items() if not found]
        if without:
            raise UserError(
                f"written: of {len(without)} row(s) ({without[0]}, ...) every answer was empty or the true one: raise "
                "`temperature` or `num`, or change `request`"
            )
        usable = sum(map(len, answers.values()))
        run.say(f"the model wrote {usable} usable answers ({self.num} asked of each of {len(answers)} rows of '{self.role}')")
        return with_alternatives(data, self.role, answers)

    def objective_on(self, data: Bundle) -> Bundle:
        """Stand-ins: the rows' own answers. Raises UserError for rows that ask nothing and for a request that cannot be put."""
        rows = asking(data, self.role, "written")
        for row in rows[:1]:
            self._put(row)
        return with_alternatives(data, self.role, {row.id: [row.data["answer"]] * self.num for row in rows})

    def _put(self, row: Sample) -> Sample:
        """The row with the request in place of its question."""
        key = "question" if "question" in row.data else "prompt"
        try:
            text = self.request.format(question=row.data[key], answer=row.data["answer"])
        except (KeyError, IndexError, ValueError) as error:
            raise UserError(f"written.request: only {{question}} and {{answer}} may stand in it ({error!r})") from None
        return row.with_("request", **{key: text})

    def _write(self, subject: Any, rows: tuple[Sample, ...], run: Context) -> dict[str, list[str]]:
        """`num` answers for each row, in order."""
        if not hasattr(subject, "generate"):
            raise UserError(f"written: a {type(subject).__name__} writes nothing; it needs a language model")
        asked = [self._put(row) for row in rows for _ in range(self.num)]
        sampling = (self.temperature, run.rng("written", self.role))
        subject.call.eval()
        found: list[str] = []
        with run.progress("writing other answers", len(asked)) as bar:
            for texts in subject.generate(asked, self.max_new_tokens, self.batch_size, sampling=sampling):
                found += [text.strip() for text in texts]
                bar.advance(len(texts))
        rest = iter(found)
        return {row.id: list(islice(rest, self.num)) for row in rows}

    def _kept(self, path: Path | None, rows: tuple[Sample, ...]) -> dict[str, list[str]] | None:
        """What an earlier start of this run wrote, if it is for these very rows."""
        if path is None or not path.is_file():
            return None
        lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        kept = {line["id"]: line["answers"] for line in lines}
        return kept if [(r.id, self.num) for r in rows] == [(i, len(a)) for i, a in kept.items()] else None


def _save(path: Path, texts: Mapping[str, list[str]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    lines = [json.dumps({"id": i, "answers": answers}, ensure_ascii=False) for i, answers in texts.items()]
    temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")
    temporary.replace(path)


def _says_something_else(text: str, row: Sample) -> bool:
    return bool(text) and " ".join(text.split()) != " ".join(row.data["answer"].split())
