"""Models of the providers that Mozilla's SDK any-llm knows: Anthropic, Gemini, Mistral, Bedrock, and several dozen others.

The SDK speaks each provider's own protocol, through its maker's package where there is one. Servers that speak OpenAI's need
no more than `openai_api`, which is lighter. Retries and the deadline are the same code for both; a provider whose package
tries again by itself, and cannot be told not to, does so inside one of our tries.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from time import monotonic
from typing import Annotated

from pydantic import AfterValidator

from amends.chat import openai_wire as wire
from amends.chat.any_llm_session import AnySession, fault_of
from amends.chat.client import Completion, Message, Params
from amends.chat.per_loop import PerLoop
from amends.chat.tries import Limits, tried
from amends.core.spec import Count, Natural, Positive, spec


@spec
class AnyLLM:
    """A model of any provider that the SDK any-llm knows (`pip install "amends[any-llm]"`)."""

    provider: str
    """Who answers, as any-llm calls it: `anthropic`, `gemini`, `mistral`, `bedrock`, `ollama`, ..."""
    model: str
    """The model's name there."""
    api_base: Annotated[str, AfterValidator(wire.without_credentials)] | None = None
    """Where the provider's server is, if not at its usual address; an address in the environment is refused, not taken."""
    key_env: str | None = None
    """The environment variable that holds the key; the provider's own by default. Over http to another machine none is sent."""
    label: str | None = None
    """What caches, ledgers and reports call it instead of model, provider and address."""
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
    def name(self) -> str:
        """The label, else model, provider and, where one is given, the address."""
        at = f" at {wire.address_of(self.api_base)}" if self.api_base else ""
        return self.label or f"{self.model} of {self.provider}{at}"

    async def complete(self, messages: Sequence[Message], params: Params) -> Completion:
        """One answer; see `Client.complete`. Raises UserError without the SDK, the provider's package or its key."""
        session = await self._sessions.get()

        async def once() -> Completion:
            began = monotonic()
            text = await session.chat(self.model, messages, params)
            return wire.completion(text, monotonic() - began)

        limits = Limits(self.retries, self.timeout, self.deadline)
        async with session.slots:
            return await tried(
                once, lambda error: fault_of(error, self.timeout), limits, self.name, session.without_secrets
            )  # fmt: skip

    @cached_property
    def _sessions(self) -> PerLoop[AnySession]:
        return PerLoop(lambda: AnySession(self.provider, self.api_base, self.key_env, self.concurrency, self.timeout))
