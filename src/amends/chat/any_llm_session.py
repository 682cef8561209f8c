"""One provider of the SDK any-llm in one event loop: its connections, its key, and what its failures mean.

What a provider has no setting for (Anthropic knows neither seeds nor log-probabilities) its package refuses before anything
is sent; it is left out from then on, as `Params` says of what a back end cannot do. A JSON schema is not: the call is refused.
"""

from __future__ import annotations

import asyncio
import importlib
import inspect
import os
import re
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import ValidationError

from amends.chat import openai_wire as wire
from amends.chat.client import ClientError, Message, Params
from amends.chat.openai_session import PLACEHOLDER
from amends.chat.tries import Fault
from amends.core.errors import UserError, nearest

SOFT = {"seed": ("seed",), "logprobs": ("logprobs", "top_logprobs"), "top_logprobs": ("logprobs", "top_logprobs")}
"""What is asked for only where a provider has it: a setting that is refused, and the settings that go with it."""
UNKNOWN = re.compile(r"unexpected keyword argument '(\w+)'")
"""How Python refuses a setting that the provider's package has no argument for."""


class AnySession:
    """Connections, and the slots that bound how many calls run."""

    def __init__(self, provider: str, api_base: str | None, key_env: str | None, concurrency: int, timeout: float) -> None:
        kind = _provider_class(provider)
        self._key = _key(provider, kind, api_base, key_env)
        self._more: dict[str, Any] = {"timeout": timeout} if kind.TIMEOUT_SUPPORT != "unsupported" else {}
        self._left_out: set[str] = set()
        self.slots = asyncio.Semaphore(concurrency)
        self._provider = _made(provider, kind, self._key or _stand_in(api_base), api_base)

    async def close(self) -> None:
        """Closes the connections, where the provider's package lets them be closed."""
        client = getattr(self._provider, "client", None)
        close = getattr(client, "close", None) or getattr(client, "aclose", None)
        closing = close() if callable(close) else None
        if inspect.isawaitable(closing):
            await closing

    async def chat(self, model: str, messages: Sequence[Message], params: Params) -> str:
        """An answer as the JSON text of a chat completion of OpenAI's shape, which the SDK makes of every provider's."""
        asked = wire.body(model, messages, params, "") | self._more
        while True:
            sent = {name: value for name, value in asked.items() if name not in self._left_out}
            try:
                answer = await self._provider.acompletion(**sent)
            except _sdk().AnyLLMError as error:
                new = set(SOFT.get(_refused(error), ())) & sent.keys()
                if not new:
                    raise
                self._left_out |= new
            else:
                return answer.model_dump_json(warnings=False)

    def without_secrets(self, text: str) -> str:
        """A text without the key."""
        return text.replace(self._key, "[key]") if self._key else text


def _sdk() -> Any:
    """The package any-llm. Raises UserError where it is not installed."""
    try:
        return importlib.import_module("any_llm")
    except ImportError:
        raise UserError('the client any_llm needs the package any-llm-sdk: pip install "amends[any-llm]"') from None


def _provider_class(provider: str) -> Any:
    sdk = _sdk()
    try:
        kind = sdk.AnyLLM.get_provider_class(provider)
    except sdk.UnsupportedProviderError:
        known = sdk.AnyLLM.get_supported_providers()
        raise UserError(f"any_llm.provider: any-llm knows no provider {provider!r}{nearest(provider, known)}") from None
    if not kind.SUPPORTS_COMPLETION:
        raise UserError(f"any_llm.provider: {provider} has no chat models: name a provider that has")
    return kind


def _made(provider: str, kind: Any, key: str | None, api_base: str | None) -> Any:
    sdk = _sdk()
    retries = {} if kind.MAX_RETRIES_SUPPORT == "unsupported" else {"max_retries": 0}  # ours alone count, where they can be off
    try:
        return sdk.AnyLLM.create(provider, api_key=key, api_base=api_base, unified_exceptions=True, **retries)
    except sdk.MissingApiKeyError as error:
        raise UserError(f"{provider} wants a key: set the environment variable {error.env_var_name}") from None
    except ImportError:
        raise UserError(f"any-llm's provider {provider} needs more: pip install 'any-llm-sdk[{provider}]'") from None


def _key(provider: str, kind: Any, api_base: str | None, key_env: str | None) -> str | None:
    """The key of the environment; None where there is none, or where anyone on the way could read it."""
    elsewhere = kind.ENV_API_BASE_NAME
    if not api_base and elsewhere and os.environ.get(elsewhere):
        raise UserError(f"the environment variable {elsewhere} sends {provider} elsewhere: give that address as api_base")
    if _in_the_clear(api_base):
        return None
    key = os.environ.get(key_env or kind.ENV_API_KEY_NAME or "", "").strip() or None
    if key_env and not key and not _stand_in(api_base):
        raise UserError(f"{provider} wants a key: set the environment variable {key_env}")
    return key


def _in_the_clear(api_base: str | None) -> bool:
    return api_base is not None and api_base.startswith("http://") and not wire.is_loopback(api_base)


def _stand_in(api_base: str | None) -> str | None:
    """What the SDK is given for a key where none may be sent or none is needed, so that it looks for none by itself."""
    local = api_base is not None and wire.is_loopback(api_base)
    return PLACEHOLDER if local or _in_the_clear(api_base) else None


def _refused(error: Any) -> str:
    """The setting that a provider's package refused before anything was sent, or nothing."""
    named = getattr(error, "parameter_name", None)
    found = UNKNOWN.search(str(error)) if isinstance(error.original_exception, TypeError) else None
    return str(named) if named else found[1] if found else ""


# ---------------------------------------------------------------------- what failures mean


def fault_of(error: Exception, timeout: float) -> Fault:
    """What an exception of a try says; one that is a defect of ours or a user's mistake is raised again."""
    known = _sdk().AnyLLMError
    if isinstance(error, TimeoutError):
        return Fault.too_slow(timeout)
    if isinstance(error, ClientError):
        return Fault(str(error), False, error.status or 502)
    if isinstance(error, ValidationError):
        return Fault("its answer has not the shape of a chat completion", False, 502)
    if isinstance(error, known) and _refused(error):
        return Fault(f"the provider's package refuses the call: {wire.shown(str(error), 300)}", False, 400)
    if isinstance(error, known):
        return _of_sdk(error, timeout)
    raise error


def _of_sdk(error: Any, timeout: float) -> Fault:
    source = error.original_exception or error
    if error.status_code is None:
        kinds = " ".join(kind.__name__.lower() for kind in type(source).__mro__)
        if "timeout" in kinds:
            return Fault.too_slow(timeout)
        if any(word in kinds for word in ("connect", "transport", "network", "oserror")):
            deeper = source.__cause__ or source
            return Fault(f"the connection failed ({str(deeper) or type(deeper).__name__})", True)
        return Fault(f"no answer that the SDK can read: {wire.shown(error.message)}", False, 502)
    headers = getattr(getattr(source, "response", None), "headers", None)
    cause = f"status {error.status_code}, {wire.shown(_said(source, error.message))}"
    may_pass = wire.worth_another_try(error.status_code, error.code)
    return Fault(cause, may_pass, error.status_code, headers if isinstance(headers, Mapping) else {})


def _said(source: Any, otherwise: str) -> str:
    """The server's own words in an error's body, where a provider's package keeps it."""
    body = getattr(source, "body", None)
    inner = body.get("error", body) if isinstance(body, dict) else None
    said = inner.get("message") if isinstance(inner, dict) else None
    return str(said or otherwise)
