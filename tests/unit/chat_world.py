"""What tests of clients share: a client that repeats what it is told, and a way to ask one."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from amends.chat.client import Client, ClientError, Completion, Message, Params, Usage


@dataclass
class Echo:
    """A client that repeats the last message after some turns of the loop, and says what it was asked."""

    name: str = "echo"
    cost: Usage = field(default_factory=lambda: Usage(1, 5, 2))
    asked: list[str] = field(default_factory=list)
    fails_on: str | None = None
    turns: int = 3
    hangs: bool = False

    async def complete(self, messages: Sequence[Message], params: Params) -> Completion:
        self.asked.append(messages[-1].content)
        if self.hangs:
            await asyncio.Event().wait()
        for _ in range(self.turns):
            await asyncio.sleep(0)
        if messages[-1].content == self.fails_on:
            raise ClientError("http://x, small: no", 500)
        return Completion(f"{messages[-1].content}/{len(self.asked)}", self.cost, "length", {"a": -1.5})


def say(text: str) -> tuple[Message, ...]:
    """One user message."""
    return (Message("user", text),)


def ask(client: Client, *texts: str, **params: Any) -> list[Completion]:
    """All at once, in one event loop."""

    async def go() -> list[Completion]:
        return await asyncio.gather(*(client.complete(say(t), Params(**params)) for t in texts))

    return asyncio.run(go())
