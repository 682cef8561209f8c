"""The loop in front of a server: what a proxy does with each conversation (`chat/proxy.py: Answer`).

The last message of the user is the request that is decomposed, criticised and refined; the system prompt and the turns before
it go along with every call to the model, so that it writes with them in mind. Constraints come from the request itself, or from
a sheet that holds for every request, such as a house style.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from amends.chat.client import BudgetSpent, Client, ClientError, Completion, Message, Params
from amends.constraints.constraint import Constraint, Request


@dataclass(frozen=True)
class Before:
    """A client whose every call begins with the conversation so far."""

    client: Client
    turns: tuple[Message, ...]
    failed: list[ClientError] = field(default_factory=list, compare=False)
    """What went wrong, for whoever has to say so with the status that the server gave."""

    @property
    def name(self) -> str:
        """The client's."""
        return self.client.name

    async def complete(self, messages: Sequence[Message], params: Params) -> Completion:
        """The client's answer; a system message of the caller's stays first, one of the loop's own is added to it."""
        own = [m.content for m in messages if m.role == "system"]
        rest = [m for m in messages if m.role != "system"]
        if not own or not self.turns or self.turns[0].role != "system":
            return await self._asked([*(m for m in messages if m.role == "system"), *self.turns, *rest], params)
        first = Message("system", "\n\n".join([self.turns[0].content, *own]))
        return await self._asked([first, *self.turns[1:], *rest], params)

    async def _asked(self, messages: Sequence[Message], params: Params) -> Completion:
        try:
            return await self.client.complete(messages, params)
        except ClientError as error:
            self.failed.append(error)
            raise


@dataclass(frozen=True)
class Looped:
    """Answers conversations by an arm; `constraints` hold for every request, whatever it says."""

    arm: Any
    """A `DeCRIM`; how answers are drawn is the caller's."""
    constraints: tuple[Constraint, ...] = ()

    async def __call__(self, messages: Sequence[Message], params: Params, client: Client) -> Completion:
        """The best version. Raises ClientError or BudgetSpent where there is none at all."""
        last = max((i for i, m in enumerate(messages) if m.role == "user"), default=None)
        if last is None:
            return await client.complete(messages, params)
        request = Request("request", messages[last].content, self.constraints)
        arm = replace(self.arm, params=replace(params, schema=None))
        before = Before(client, tuple(messages[:last]))
        refined = await arm.answer(request, before)
        if not refined.text and refined.stopped in ("client_error", "budget"):
            if before.failed:  # a caller acts on the status: a 429 is no 502
                raise before.failed[0]
            raise (BudgetSpent if refined.stopped == "budget" else ClientError)("; ".join(refined.notes) or "no answer came")
        return Completion(refined.text, refined.usage)
