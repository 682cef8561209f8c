"""The loop in front of a server: what a proxy does with each conversation (`chat/proxy.py: Answer`).

The last message of the user is the request that is decomposed, criticised and refined; the system prompt and the turns before
it go along with every call to the model, so that it writes with them in mind. Constraints come from the request itself, or from
a sheet that holds for every request, such as a house style.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from amends.chat.client import BudgetSpent, Client, ClientError, Completion, Message, Params
from amends.constraints.constraint import Constraint, Request


@dataclass(frozen=True)
class Before:
    """A client whose every call begins with the conversation so far."""

    client: Client
    turns: tuple[Message, ...]

    @property
    def name(self) -> str:
        """The client's."""
        return self.client.name

    async def complete(self, messages: Sequence[Message], params: Params) -> Completion:
        """The client's answer; a system message of the caller's stays first, one of the loop's own is added to it."""
        own = [m.content for m in messages if m.role == "system"]
        rest = [m for m in messages if m.role != "system"]
        if not own or not self.turns or self.turns[0].role != "system":
            return await self.client.complete([*(m for m in messages if m.role == "system"), *self.turns, *rest], params)
        first = Message("system", "\n\n".join([self.turns[0].content, *own]))
        return await self.client.complete([first, *self.turns[1:], *rest], params)


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
        refined = await arm.answer(request, Before(client, tuple(messages[:last])))
        if not refined.text and refined.stopped in ("client_error", "budget"):
            raise (BudgetSpent if refined.stopped == "budget" else ClientError)("; ".join(refined.notes) or "no answer came")
        return Completion(refined.text, refined.usage)
