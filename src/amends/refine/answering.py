"""What the arms share: versions without verdicts made into a result, so that every arm leaves the same thing behind.

An arm is a frozen spec with one method, `answer(request, client) -> Refined`. Arms that have no critic leave attempts
without verdicts and stop for "max_rounds"; whoever compares them judges all answers alike, afterwards.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, Protocol, runtime_checkable

from amends.chat.client import Client, Message, Params, Usage
from amends.constraints.constraint import Request
from amends.refine.asking import Asked, ask
from amends.refine.guard import guard
from amends.refine.parts import Attempt, Refined, StopReason


@runtime_checkable
class Arm(Protocol):
    """A way to get an answer."""

    async def answer(self, request: Request, client: Client) -> Refined:
        """The answer with its versions and their cost; raises nothing but a `UserError`."""
        ...


@dataclass
class Written:
    """The versions that an arm without a critic has so far."""

    request: Request
    client: Client
    attempts: list[Attempt] = field(default_factory=list)
    usage: Usage = field(default_factory=Usage)
    notes: list[str] = field(default_factory=list)

    async def ask(self, messages: Sequence[Message], params: Params, doing: str) -> Asked:
        """One call, booked."""
        asked = await ask(self.client, messages, params, doing)
        self.usage = self.usage + asked.usage
        self.notes += [asked.note] if asked.note else []
        return asked

    def add(
        self, text: str, usage: Usage, how: Literal["response", "refinement", "sample"], parent: int | None = None
    ) -> Attempt:
        """One version more."""
        first = self.attempts[0].text if self.attempts else text
        attempt = Attempt(len(self.attempts), text, usage=usage, parent=parent, how=how)
        self.attempts.append(replace(attempt, warnings=guard(text, first, self.request).warnings))
        return self.attempts[-1]

    def result(self, stopped: StopReason, best: int | None = None) -> Refined:
        """What is there; an empty answer where there is none, and the last version unless another is named."""
        attempts = tuple(self.attempts) or (Attempt(0, "", warnings=("empty",)),)
        best = len(attempts) - 1 if best is None else best
        return Refined(self.request, best, attempts, stopped, self.usage, tuple(dict.fromkeys(self.notes)))
