"""How a chat model is asked: one method, whatever stands behind it.

A client answers `complete(messages, params)`. Back ends (an OpenAI-compatible server, a model of this process) and what is
put around one (a cache, a budget, a trace) are clients alike, so that they nest in any order.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, Protocol, runtime_checkable

from pydantic import Field

from amends.core.spec import Count, Natural, spec


@dataclass(frozen=True, slots=True)
class Message:
    """One turn."""

    role: Literal["system", "user", "assistant"]
    content: str


@spec
class Params:
    """How an answer is drawn."""

    max_tokens: Count = 512
    """The longest answer, in tokens."""
    temperature: Annotated[float, Field(ge=0)] = 0.0
    """0 takes the likeliest token each time."""
    seed: int = 0
    """Equal seeds draw equal answers where the back end keeps its word; part of the cache's key in any case."""
    stop: tuple[str, ...] = ()
    """Texts at which an answer ends."""
    schema: Mapping[str, Any] | None = None
    """A JSON schema that the back end is to hold the answer to, where it can; None asks for plain text."""
    top_logprobs: Natural = 0
    """How many of the first token's likeliest words are wanted with their log-probabilities; 0 asks for none."""


@dataclass(frozen=True, slots=True)
class Usage:
    """What answers cost, wherever they came from: arms are compared by what they would cost without a cache."""

    calls: int = 0
    """Answers that were asked for."""
    prompt_tokens: int = 0
    new_tokens: int = 0
    seconds: float = 0.0
    cached: int = 0
    """How many of the calls a cache answered, for nothing."""

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            self.calls + other.calls, self.prompt_tokens + other.prompt_tokens, self.new_tokens + other.new_tokens,
            self.seconds + other.seconds, self.cached + other.cached,
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Completion:
    """One answer."""

    text: str
    usage: Usage = field(default_factory=Usage)
    finish: Literal["stop", "length", "other"] = "stop"
    """Whether the model ended, or the limit did."""
    logprobs: Mapping[str, float] | None = None
    """Log-probabilities of the first token's likeliest words, where the back end gives them; for yes/no judges."""
    cached: bool = False


class ClientError(Exception):
    """A call that failed for good, after its retries; the message names the address, the model and the cause.

    `status` is the HTTP status that the server ended with, 504 where it was too slow; None where there was no answer at all.
    """

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


class BudgetSpent(Exception):
    """No more calls: tokens, calls or seconds that were allowed are used up."""


@runtime_checkable
class Client(Protocol):
    """Something that answers messages. Calls may be made at once: a back end bounds how many run."""

    @property
    def name(self) -> str:
        """The model and where it runs, for caches, ledgers and reports; never a key."""
        ...

    async def complete(self, messages: Sequence[Message], params: Params) -> Completion:
        """One answer. Raises ClientError when there is none to be had, BudgetSpent when none is allowed."""
        ...
