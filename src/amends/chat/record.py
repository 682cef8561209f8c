"""Calls and answers as JSON: what a cache is keyed by, and what a trace holds."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from amends.chat.client import Completion, Message, Params, Usage
from amends.core import fingerprint


def request_of(client: str, messages: Sequence[Message], params: Params) -> dict[str, Any]:
    """A call as plain JSON values: who is asked, the messages, and every field of the parameters, later ones included."""
    return {"client": client, "messages": [asdict(m) for m in messages], "params": fingerprint.plain(params)}


def digest(request: Mapping[str, Any], repetition: int = 0) -> str:
    """The sha256 of a call and of which repetition of it this is; the order of a schema's keys counts, a model sees it."""
    return hashlib.sha256(json.dumps([request, repetition]).encode()).hexdigest()


def completion_as_json(completion: Completion) -> dict[str, Any]:
    """An answer as plain JSON values."""
    return {
        "text": completion.text,
        "usage": asdict(completion.usage),
        "finish": completion.finish,
        "logprobs": None if completion.logprobs is None else dict(completion.logprobs),
        "cached": completion.cached,
    }


def completion_from_json(data: Any) -> Completion:
    """The answer that was written; raises ValueError where it is none."""
    try:
        text, finish, logprobs = data["text"], data["finish"], data["logprobs"]
        usage, cached = Usage(**data["usage"]), bool(data["cached"])
    except (KeyError, TypeError) as error:
        raise ValueError(f"it is no recorded answer ({error})") from None
    if not isinstance(text, str) or finish not in ("stop", "length", "other"):
        raise ValueError("it is no recorded answer")
    return Completion(text, usage, finish, logprobs, cached)


def innermost(client: Any) -> Any:
    """The back end behind any number of caches, budgets and traces."""
    while (inner := getattr(client, "inner", None)) is not None:
        client = inner
    return client
