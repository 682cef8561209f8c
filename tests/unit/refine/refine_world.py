"""What tests of refining share: three small checkers, and a model whose words are the test's input."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from amends.chat.client import BudgetSpent, ClientError, Completion, Message, Params, Usage
from amends.constraints.constraint import Constraint, Finding, Request
from amends.core.spec import spec
from amends.refine.parts import Refined

Reply = str | Exception | Callable[[str], str]


@spec
class AtMost:
    """So many words at most; code cannot mend it."""

    n: int

    def check(self, text: str) -> Finding:
        count = len(text.split())
        over = max(count - self.n, 0)
        return Finding(not over, count, f"at most {self.n} words", over, f"{count} words" if over else "")

    def told(self) -> str:
        return f"Use at most {self.n} words."


@spec
class Lower:
    """No capital letters; code can mend it."""

    def check(self, text: str) -> Finding:
        found = re.search(r"[A-Z]", text)
        span = found.span() if found else None
        return Finding(not found, bool(found), "no capitals", float(bool(found)), "it has capitals" if found else "", span)

    def told(self) -> str:
        return "Use no capitals."

    def repair(self, text: str) -> str | None:
        return text.lower()


@spec
class Has:
    """A word occurs; code cannot mend it."""

    word: str

    def check(self, text: str) -> Finding:
        there = self.word in text
        return Finding(there, there, f"the word {self.word}", float(not there), "" if there else f"{self.word} is missing")

    def told(self) -> str:
        return f"Use the word {self.word}."


class Scripted:
    """A model that says what the test hands it, by what it is asked for; the last of a list is said again."""

    def __init__(self, **replies: Sequence[Reply] | Reply) -> None:
        self.replies = {k: list(v) if isinstance(v, (list, tuple)) else [v] for k, v in replies.items()}
        self.asked: list[tuple[str, str, Params]] = []
        self.logprobs: dict[str, float] | None = None
        self.dies_at: int | None = None
        self.spent_at: int | None = None

    @property
    def name(self) -> str:
        return "scripted"

    def count(self, kind: str) -> int:
        return sum(k == kind for k, _, _ in self.asked)

    async def complete(self, messages: Sequence[Message], params: Params) -> Completion:
        prompt = "\n\n".join(m.content for m in messages)
        kind = kind_of(prompt)
        self.asked.append((kind, prompt, params))
        if self.dies_at is not None and len(self.asked) >= self.dies_at:
            raise ClientError("http://nowhere: no answer")
        if self.spent_at is not None and len(self.asked) >= self.spent_at:
            raise BudgetSpent("2 of 2 calls")
        replies = self.replies[kind]
        reply = replies.pop(0) if len(replies) > 1 else replies[0]
        if isinstance(reply, Exception):
            raise reply
        text = reply(prompt) if callable(reply) else reply
        return Completion(text, Usage(1, len(prompt.split()), len(text.split()), 0.5), logprobs=self.logprobs)


def kind_of(prompt: str) -> str:
    """What a prompt asks for."""
    signs = {
        "Mend an answer": "rewrite", "You check answers": "judge", "List the constraints": "decompose",
        "Improve an answer": "blind", "Say what should be": "feedback", "Rewrite the answer by this": "by_feedback",
        "Does the answer satisfy the constraint? Reply yes or no.": "supervised",
    }  # fmt: skip
    return next((kind for sign, kind in signs.items() if sign in prompt), "respond")


class Nobody:
    """A client that must not be asked."""

    name = "nobody"

    async def complete(self, messages: Sequence[Message], params: Params) -> Completion:
        raise AssertionError("asked")


def constraint(id: str, checker: Any = None, text: str = "", **fields: Any) -> Constraint:
    """One constraint; its text is the checker's where none is given."""
    return Constraint(id=id, text=text or checker.told(), checker=checker, **({"depends_on": ()} | fields))


SHORT, LOWER, OVEN = constraint("short", AtMost(n=6)), constraint("lower", Lower()), constraint("oven", Has(word="oven"))
KIND = constraint("kind", text="Be kind.", category="tone")


def request(*constraints: Constraint, prompt: str = "How is bread baked?") -> Request:
    """A request with these constraints."""
    return Request("r1", prompt, constraints)


def run(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """What the coroutine returns."""
    return asyncio.run(coroutine)


def said(refined: Refined, k: int) -> dict[str, bool | None]:
    """Constraint -> verdict of version k."""
    return {v.constraint: v.passed for v in refined.attempts[k].verdicts}
