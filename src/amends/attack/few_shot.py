"""Few-shot elicitation: questions and answers that went before, so that the model falls into answering.

The turns shown are rows of the retain set, or other forget rows (`shown: forget`: an attacker who knows a part of what
was forgotten asks for the rest). They never give the answer away: not the row itself, nor one with the same question,
nor one whose text holds the row's answer or one of its keys.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import torch

from amends.attack.asking import asked_otherwise, asks, questions, tag, told
from amends.core.errors import UserError
from amends.core.protocols import Context
from amends.core.rng import rng
from amends.core.spec import Count, spec
from amends.core.types import Role, Sample
from amends.data.bundle import Bundle


@spec
class FewShot:
    """Shows answered questions before each question: retained ones, or other forgotten ones."""

    keeps_weights: ClassVar[bool] = True
    shots: Count = 4
    """Turns before the question; fewer where the model's context ends."""
    shown: Role = "retain"
    """Whose rows are shown."""
    pick: Literal["random", "similar"] = "random"
    """Which ones: drawn for each question, or those that share most of its rare words, such as a name."""
    role: Role = "forget"
    """Whose questions are asked so."""

    @property
    def name(self) -> str:
        """`few_shot-4`, `few_shot-4-forget-similar`."""
        where = [tag(self.shown)] if self.shown != "retain" else []
        return "-".join(["few_shot", str(self.shots), *where, *(["similar"] if self.pick == "similar" else [])])

    @property
    def label(self) -> str:
        """`showing 4 answered questions`, `showing 4 similar answered questions of forget`."""
        of = f" of {self.shown}" if self.shown != "retain" else ""
        return f"showing {self.shots}{' similar' if self.pick == 'similar' else ''} answered questions{of}"

    def __call__(self, subject: Any, data: Bundle, run: Context) -> Bundle:
        """The rows with turns before their questions."""
        pool = self._pool(data)
        words = {s.id: _words(s) for s in (*pool, *data[self.role])}
        common = Counter(w for s in pool for w in words[s.id])

        def change(row: Sample) -> list[Sample]:
            shots = self._chosen(row, pool, words, common, run.seed)
            return [_after(row, shots[i:]) for i in range(len(shots))]

        return asked_otherwise(subject, data, self.role, change, run)

    def _pool(self, data: Bundle) -> list[Sample]:
        return [s for s in data[self.shown] if asks(s)]

    def _chosen(
        self, row: Sample, pool: Sequence[Sample], words: Mapping[str, frozenset[str]], common: Counter[str], seed: int
    ) -> list[Sample]:
        """The turns for one row, the nearest one last."""
        order = torch.randperm(len(pool), generator=rng(seed, "few_shot", row.id)).tolist()
        if self.pick == "similar":
            near = {i: sum(1 / common[w] for w in words[row.id] & words[pool[i].id]) for i in order}
            order.sort(key=lambda i: -near[i])
        harmless = (pool[i] for i in order if not gives_away(pool[i], row))
        return [s for s, _ in zip(harmless, range(self.shots), strict=False)][::-1]

    def objective_on(self, data: Bundle) -> tuple[()]:
        """Raises UserError for a missing role, a row that asks nothing, or a role with nothing to show."""
        questions(data, self.role)
        if len({s.id for s in self._pool(data)}) < (2 if self.shown == self.role else 1):
            raise UserError(f"shown: the role '{self.shown}' has no other questions with answers that could be shown")
        return ()


def gives_away(shot: Sample, asked: Sample) -> bool:
    """Whether a turn tells the answer of a row."""
    if _question(shot).lower() == _question(asked).lower():
        return True
    text = f"{_question(shot)} {shot.data['answer']}".lower()
    secrets = [str(asked.data["answer"]).strip().rstrip("."), *asked.data.get("keys", ())]
    return any(secret.lower() in text for secret in secrets)


def _after(row: Sample, shots: Sequence[Sample]) -> Sample:
    if "question" in row.data:
        return told(row, before=[{"question": _question(s), "answer": s.data["answer"].strip()} for s in shots])
    shown = "".join(f"{s.data.get('prompt') or _question(s) + ' '}{s.data['answer'].strip()}\n\n" for s in shots)
    return told(row, prompt=shown + row.data["prompt"])


def _question(sample: Sample) -> str:
    return str(sample.data.get("question") or sample.data["prompt"]).strip()


def _words(sample: Sample) -> frozenset[str]:
    return frozenset(re.findall(r"\w+", _question(sample).lower()))
