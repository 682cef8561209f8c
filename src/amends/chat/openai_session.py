"""The connections of one event loop to an OpenAI-compatible server, and what its failures mean."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from typing import Any

from amends.chat import openai_wire as wire
from amends.chat.client import ClientError
from amends.chat.tries import Fault
from amends.core.errors import UserError

PLACEHOLDER = "none"
"""What the openai package holds for a key: the real one goes into the header of each request, and into no object of its."""


class Session:
    """Connections, the slots that bound how many calls run, and the only model's name once it was asked for."""

    def __init__(self, base_url: str, concurrency: int, timeout: float, key_env: str) -> None:
        from openai import AsyncOpenAI, DefaultAsyncHttpxClient

        self._address = wire.address_of(base_url)
        self._key = _key(key_env, base_url)
        self._needs_key = key_env if "//api.openai.com" in base_url else ""
        self.slots = asyncio.Semaphore(concurrency)
        self._naming = asyncio.Lock()
        self._model: str | None = None
        # a proxy of the environment is not asked for what is on this machine
        http = DefaultAsyncHttpxClient(trust_env=not wire.is_loopback(base_url))
        self._client = AsyncOpenAI(api_key=PLACEHOLDER, base_url=base_url, max_retries=0, timeout=timeout, http_client=http)

    async def close(self) -> None:
        """Closes the connections."""
        await self._client.close()

    async def chat(self, body: Mapping[str, Any], authorization: str | None) -> str:
        """The text that the server answers a chat completion with."""
        create: Any = self._client.chat.completions.with_raw_response.create
        answer = await create(
            model=body["model"], messages=body["messages"], extra_body=dict(body), extra_headers=self._headers(authorization)
        )
        return answer.http_response.text

    async def models(self, authorization: str | None) -> str:
        """The text of the server's list of models."""
        listing: Any = self._client.models.with_raw_response.list
        answer = await listing(extra_headers=self._headers(authorization))
        return answer.http_response.text

    async def only_model(self, authorization: str | None) -> str:
        """The one model that the server lists; raises ClientError where there are several or none."""
        async with self._naming:
            if self._model is None:
                names = wire.model_names(await self.models(authorization))
                if len(names) != 1:
                    raise ClientError(f"it lists {len(names)} models ({', '.join(names[:5])}): name one as `model`", 400)
                self._model = names[0]
            return self._model

    def without_secrets(self, text: str, authorization: str | None) -> str:
        """A text without the keys: a server may repeat what it was sent."""
        for secret in (self._key, *(authorization or "").split()[-1:]):
            text = text.replace(secret, "[key]") if secret else text
        return text

    def _headers(self, authorization: str | None) -> dict[str, Any]:
        from openai import Omit

        if not (authorization or self._key) and self._needs_key:
            raise UserError(f"{self._address} wants a key: set the environment variable {self._needs_key}")
        return {"Authorization": authorization or (f"Bearer {self._key}" if self._key else Omit())}


def _key(key_env: str, base_url: str) -> str | None:
    """The key of the environment; None where anyone on the way could read it."""
    plain = base_url.startswith("http://") and not wire.is_loopback(base_url)
    return None if plain else os.environ.get(key_env, "").strip() or None


def fault_of(error: Exception, timeout: float) -> Fault:
    """What an exception of a try says; one that is a defect of ours is raised again."""
    import openai

    if isinstance(error, (TimeoutError, openai.APITimeoutError)):
        return Fault.too_slow(timeout)
    if isinstance(error, openai.APIStatusError):
        said = error.body.get("message") if isinstance(error.body, dict) else error.response.text
        cause = f"status {error.status_code}, {wire.shown(str(said or error.message))}"
        may_pass = wire.worth_another_try(error.status_code, error.code)
        return Fault(cause, may_pass, error.status_code, error.response.headers)
    if isinstance(error, openai.APIConnectionError):
        deeper = error.__cause__ or error
        return Fault(f"the connection failed ({str(deeper) or type(deeper).__name__})", True)
    if isinstance(error, ClientError):
        return Fault(str(error), False, error.status or 502)
    if isinstance(error, openai.OpenAIError):
        return Fault(str(error).split("\n")[0], False)
    raise error
