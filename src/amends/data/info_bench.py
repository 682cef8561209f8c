"""InFoBench (Qin et al. 2024, arXiv 2401.03601): 500 instructions taken apart into 2,250 questions answered yes or no.

A row has `instruction`, perhaps an `input` that is appended after a blank line as the paper's own code does,
`decomposed_questions` and `question_label`, a list of kinds for each question, of which the first is its constraint's
category. The share of all questions answered yes is the paper's DRFR, which is `constraint_rate` here. All are for a judge.
MIT licence.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field

from amends.core.errors import UserError
from amends.core.spec import Count, spec
from amends.core.types import Sample
from amends.data.bundle import Bundle
from amends.data.instructed import bundled, chosen, list_of, located, unlike, words_of
from amends.data.text import FilePath

HUB = "kqsong/InFoBench"


@spec
class InFoBench:
    """InFoBench: 500 instructions with 2,250 yes/no questions for a judge; from its file or the hub."""

    file: FilePath | None = None
    """The file as published (InfoBench.json), or JSON Lines of it; downloaded from the hub when absent."""
    name: str = HUB
    """The data set on the hub, where no file is given."""
    revision: str | None = None
    """A commit on the hub."""
    subsets: Annotated[tuple[str, ...], Field(default=())]
    """Only these: `Easy_set`, `Hard_set`, in any case; empty means both."""
    limit: Count | None = None
    """At most this many instructions, drawn by the seed."""
    longest: Count | None = None
    """Only instructions of at most this many characters, input included."""
    without: Annotated[tuple[str, ...], Field(default=())]
    """Leave out instructions with a question of such a kind: `content`, `format`, `number`, `style`, `linguistic`."""

    def load(self, seed: int) -> Bundle:
        """Role test. Raises UserError with file, line and key for bad rows."""
        seen: dict[str, str] = {}
        rows = located(self.file, self.name, "train", self.revision)
        samples = [unlike(where, _sample(row, where), seen) for where, row in rows]
        wanted = {name.lower() for name in self.subsets}
        samples = [s for s in samples if not wanted or s.data["subset"].lower() in wanted]
        filters: dict[str, Any] = {k: getattr(self, k) for k in ("limit", "longest", "without")}
        return bundled({"test": chosen(samples, seed, **filters)})


def _sample(row: Mapping[str, Any], where: str) -> Sample:
    instruction, extra = words_of(row, "instruction", where), str(row.get("input") or "").strip()
    questions = list_of(_read(row, "decomposed_questions", where), "decomposed_questions", where, str, "questions")
    labels = _labels(row, where, len(questions))
    constraints = [
        {"id": f"q{i}", "text": question, "category": kinds[0] if kinds else ""}
        for i, (question, kinds) in enumerate(zip(questions, labels, strict=True), 1)
    ]
    data = {"prompt": f"{instruction}\n\n{extra}" if extra else instruction, "constraints": constraints, "task": instruction}
    told: dict[str, Any] = {"context": extra, "subset": str(row.get("subset") or ""), "domain": str(row.get("category") or "")}
    told["kinds"] = sorted({kind for kinds in labels for kind in kinds})
    return Sample(f"infobench-{words_of(row, 'id', where)}", {**data, **told})


def _labels(row: Mapping[str, Any], where: str, count: int) -> list[list[str]]:
    """The kinds of each question, in lower case; none are said where the file has no labels."""
    if not row.get("question_label"):
        return [[]] * count
    found = list_of(_read(row, "question_label", where), "question_label", where, (str, list), "kinds")
    if len(found) != count:
        raise UserError(f"{where}: {count} questions and {len(found)} entries in 'question_label': mend or remove the row")
    return [[str(kind).lower() for kind in ([label] if isinstance(label, str) else label)] for label in found]


def _read(row: Mapping[str, Any], key: str, where: str) -> Mapping[str, Any]:
    """A list may be written as a text (CSV): as JSON, or as Python writes it."""
    value = row.get(key)
    if not isinstance(value, str):
        return row
    for reader in (json.loads, ast.literal_eval):
        try:
            return {**row, key: reader(value)}
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            continue
    raise UserError(f"{where}: key '{key}' is a text that is no list: write it as JSON")
