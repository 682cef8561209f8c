"""Models behind a server that speaks OpenAI's protocol: hosted ones, vLLM, Ollama, llama.cpp, `amends serve`.

Rests on the openai package for the protocol; retries are ours (`chat/tries.py`), so that one deadline holds for all of them.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from time import monotonic
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator

from amends.chat import openai_wire as wire
from amends.chat.client import Client, Completion, Message, Params
from amends.chat.openai_session import Session, fault_of
from amends.chat.per_loop import PerLoop
from amends.chat.tries import Limits, tried
from amends.core.spec import Count, Natural, Positive, spec

T = TypeVar("T")


@dataclass(frozen=True)
class _Asked:
    """What one caller asks differently: another model, a key of its own, fields that `Params` does not have."""

    model: str | None = None
    authorization: str | None = field(default=None, repr=False)
    extra: Mapping[str, Any] = field(default_factory=dict)


@spec
class OpenAIAPI:
    """A model behind an OpenAI-compatible server, hosted or local."""

    base_url: Annotated[str, AfterValidator(wire.without_credentials)]
    """Where the server is, up to and with `/v1`."""
    model: str | None = None
    """Its name there; may be left out where the server lists exactly one, but not where answers are cached."""
    key_env: str = "OPENAI_API_KEY"
    """The environment variable that holds the key; no key is sent where it is not set, or over http to another machine."""
    label: str | None = None
    """What caches, ledgers and reports call it instead of model and address, such as where the port changes."""
    concurrency: Count = 8
    """Calls at once, at most; further ones wait."""
    retries: Natural = 4
    """More tries after a time-out, a lost connection, or a status of 408, 409, 425, 429 or 5xx."""
    timeout: Positive = 120.0
    """Seconds that one try may take in all, however steadily the server goes on."""
    deadline: Positive = 600.0
    """Seconds that a call may take with its retries and the waits between them, once it has begun."""

    def content(self) -> str:
        """Its fields say all that can be known from here."""
        return ""

    @property
    def address(self) -> str:
        """`base_url` without what may be secret in it."""
        return wire.address_of(self.base_url)

    @property
    def name(self) -> str:
        """The label, else model and address."""
        return self.label or f"{self.model or 'the only model'} at {self.address}"

    async def complete(self, messages: Sequence[Message], params: Params) -> Completion:
        """One answer; see `Client.complete`."""
        return await self._complete(messages, params, _Asked())

    def asked_as(
        self, model: str | None = None, authorization: str | None = None, extra: Mapping[str, Any] | None = None
    ) -> Client:
        """This client over the same connections, with another model, `Authorization` header or further fields of the body."""
        return _As(self, _Asked(model, authorization, dict(extra or {})))

    async def models(self, authorization: str | None = None) -> str:
        """The JSON text of the server's list of models; raises ClientError as `complete` does."""
        return await self._call(authorization, lambda session: session.models(authorization))

    @cached_property
    def _sessions(self) -> PerLoop[Session]:
        return PerLoop(lambda: Session(self.base_url, self.concurrency, self.timeout, self.key_env))

    async def _complete(self, messages: Sequence[Message], params: Params, asked: _Asked) -> Completion:
        async def once(session: Session) -> Completion:
            model = asked.model or self.model or await session.only_model(asked.authorization)
            sent = {**asked.extra, **wire.body(model, messages, params, self.base_url)}
            began = monotonic()
            text = await session.chat(sent, asked.authorization)
            return wire.completion(text, monotonic() - began)

        return await self._call(asked.authorization, once, asked.model)

    async def _call(
        self, authorization: str | None, once: Callable[[Session], Awaitable[T]], model: str | None = None
    ) -> T:  # fmt: skip
        session = await self._sessions.get()
        who = f"{self.address}, {model or self.model or 'the only model'}"
        async with session.slots:
            limits = Limits(self.retries, self.timeout, self.deadline)
            return await tried(
                lambda: once(session), lambda error: fault_of(error, self.timeout), limits, who,
                lambda text: session.without_secrets(text, authorization),
            )  # fmt: skip


class _As:
    """An `OpenAIAPI` asked differently."""

    def __init__(self, inner: OpenAIAPI, asked: _Asked) -> None:
        self._api, self._asked = inner, asked
        self.model = asked.model or inner.model

    @property
    def name(self) -> str:
        """Model and address."""
        return f"{self.model or 'the only model'} at {self._api.address}"

    async def complete(self, messages: Sequence[Message], params: Params) -> Completion:
        """One answer."""
        return await self._api._complete(messages, params, self._asked)
