"""Calls to a client, with what they cost, and what went wrong as a value instead of an exception."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

from amends.chat.client import BudgetSpent, Client, ClientError, Completion, Message, Params, Usage
from amends.constraints.constraint import Request
from amends.core.errors import UserError
from amends.refine.parts import StopReason


def drawn(**values: Any) -> Params:
    """How an answer is drawn, where only some of the settings are named."""
    return Params(**values)


@dataclass(frozen=True, slots=True)
class Asked:
    """One answer, or why there is none."""

    text: str = ""
    usage: Usage = field(default_factory=Usage)
    failed: StopReason | None = None
    note: str = ""


class Meter:
    """A client that keeps what each answer cost, so that a critic which fails halfway does not take its bill with it.

    Answers of other clients count too where they were asked for by `ask_all` inside `metered`; no answer counts twice.
    """

    def __init__(self, client: Client) -> None:
        self.client = client
        self._answers: list[Completion] = []

    @property
    def name(self) -> str:
        """The client's."""
        return self.client.name

    async def complete(self, messages: Sequence[Message], params: Params) -> Completion:
        """The client's answer."""
        done = await self.client.complete(messages, params)
        self.note(done)
        return done

    def note(self, done: Completion) -> None:
        """Counts an answer, unless this very one was counted."""
        if not any(done is other for other in self._answers):
            self._answers.append(done)

    @property
    def usage(self) -> Usage:
        """What all answers so far cost."""
        return sum((done.usage for done in self._answers), Usage())


_METER: ContextVar[Meter | None] = ContextVar("meter", default=None)


@contextmanager
def metered(client: Client) -> Iterator[Meter]:
    """A meter in place of a client, for as long as the block lasts."""
    meter = Meter(client)
    token = _METER.set(meter)
    try:
        yield meter
    finally:
        _METER.reset(token)


async def ask(client: Client, messages: Sequence[Message], params: Params, doing: str) -> Asked:
    """One call. A failure of the client or a spent budget is told in the result; a `UserError` is the user's to mend."""
    try:
        done = await client.complete(messages, params)
    except UserError:
        raise
    except BudgetSpent as error:
        return Asked(failed="budget", note=f"the budget was spent while {doing}: {_said(error)}")
    except Exception as error:
        return Asked(failed="client_error", note=f"{client.name} failed while {doing}: {_said(error)}")
    cut = f"{client.name} was cut off at {params.max_tokens} tokens while {doing}" if done.finish == "length" else ""
    return Asked(done.text, done.usage, None, cut)


async def ask_all(client: Client, prompts: Sequence[Sequence[Message]], params: Params) -> list[Completion | str]:
    """Several calls at once, in order; a failed one is its cause. Where every call failed the first failure is raised."""
    done = await asyncio.gather(*(client.complete(messages, params) for messages in prompts), return_exceptions=True)
    if (meter := _METER.get()) is not None:
        for answer in done:
            if isinstance(answer, Completion):
                meter.note(answer)
    broken = [d for d in done if isinstance(d, BaseException)]
    for error in broken:
        if not isinstance(error, (ClientError, BudgetSpent)):
            raise error
    if broken and len(broken) == len(done):
        raise broken[0]
    return [_said(d) if isinstance(d, BaseException) else d for d in done]


def respond(request: Request) -> list[Message]:
    """The plain question: the request as it stands."""
    return [Message("user", request.prompt)]


def calls_for(calls: int | Mapping[str, int] | None, request: Request) -> int | None:
    """How many calls this request is allowed; a mapping goes by the request's id."""
    if not isinstance(calls, Mapping):
        return calls
    if request.id not in calls:
        raise UserError(f"calls.{request.id}: no number of calls for this request; the mapping needs every request's id")
    return max(1, calls[request.id])


def _said(error: BaseException) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__


def cause(error: Exception) -> str:
    """An exception as a clause of a note."""
    return f"{type(error).__name__}: {_said(error)}"
