"""What goes over the wire to an OpenAI-compatible server, how its answer is read, and which failures are worth another try."""

from __future__ import annotations

import email.utils
import json
import random
import re
import time
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

from amends.chat.client import ClientError, Completion, Message, Params, Usage

FIRST_WAIT, LONGEST_WAIT = 0.5, 30.0
"""Seconds before the first retry, doubled each time, and the most that is waited unless the server asks for more."""


def body(model: str, messages: Sequence[Message], params: Params, address: str) -> dict[str, Any]:
    """The JSON of a chat completion."""
    limit = "max_completion_tokens" if urlsplit(address).hostname == "api.openai.com" else "max_tokens"
    made: dict[str, Any] = {
        "model": model,
        "messages": [{"role": m.role, "content": m.content} for m in messages],
        limit: params.max_tokens,
        "temperature": params.temperature,
        "seed": params.seed,
    }
    if params.stop:
        made["stop"] = list(params.stop)
    if params.schema is not None:
        shape = {"name": "answer", "schema": dict(params.schema)}
        made["response_format"] = {"type": "json_schema", "json_schema": shape}
    if params.top_logprobs:
        made |= {"logprobs": True, "top_logprobs": params.top_logprobs}
    return made


def read_json(text: str) -> Any:
    """The body of an answer; raises ClientError where it is no JSON object."""
    try:
        data = json.loads(text)
    except ValueError:
        data = None
    if not isinstance(data, dict):
        raise ClientError(f"it answered with {shown(text)} instead of a JSON object")
    return data


def completion(text: str, seconds: float) -> Completion:
    """The first choice of an answer; raises ClientError where there is none."""
    data = read_json(text)
    choices = data.get("choices")
    if not choices:
        fault = data.get("error")
        raise ClientError(f"it reported {shown(json.dumps(fault))}" if fault else "its answer holds no choices")
    try:
        message, finish = choices[0]["message"], choices[0].get("finish_reason")
        content = message.get("content")
        said = "" if content is None else content
        used = data.get("usage") or {}
        usage = Usage(1, int(used.get("prompt_tokens") or 0), int(used.get("completion_tokens") or 0), seconds)
        first = _first_logprobs(choices[0])
    except (AttributeError, IndexError, KeyError, TypeError, ValueError):
        raise ClientError(f"its answer has not the shape of a chat completion: {shown(text)}") from None
    if not isinstance(said, str):
        raise ClientError(f"its answer holds no text: {shown(text)}")
    said = re.sub(r"[\ud800-\udfff]", "\ufffd", said)  # half a character, which no file, cache or terminal takes
    return Completion(said, usage, finish if finish in ("stop", "length") else "other", first)


def _first_logprobs(choice: Mapping[str, Any]) -> dict[str, float] | None:
    content = (choice.get("logprobs") or {}).get("content")
    if not content:
        return None
    found: dict[str, float] = {}
    for entry in content[0].get("top_logprobs") or [content[0]]:
        found.setdefault(entry["token"], float(entry["logprob"]))  # two tokens may be spelt alike: the likelier one counts
    return found


def model_names(text: str) -> list[str]:
    """The models that a server lists."""
    rows = read_json(text).get("data")
    names = [row.get("id") for row in rows if isinstance(row, dict)] if isinstance(rows, list) else []
    return [name for name in names if isinstance(name, str)]


def worth_another_try(status: int | None, code: str | None) -> bool:
    """Whether a failure may pass by itself: no connection at all, time-outs, too many requests, the server's own faults."""
    if code == "insufficient_quota":  # a 429 that stays
        return False
    return status is None or status in (408, 409, 425, 429) or status >= 500


def wait_before(attempt: int, headers: Mapping[str, str]) -> float:
    """Seconds to wait before attempt 1, 2, ...: what the server asked for, else doubled each time, with up to half off.

    The jitter keeps clients that failed together from coming back together; no result depends on it.
    """
    asked = _retry_after(headers)
    if asked is not None:
        return asked
    return min(FIRST_WAIT * 2 ** (attempt - 1), LONGEST_WAIT) * random.SystemRandom().uniform(0.5, 1)


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """`Retry-After` as seconds or as a date; None where it says nothing that can be read."""
    said = headers.get("retry-after")
    if not said:
        return None
    try:
        seconds = float(said)
    except ValueError:
        try:
            seconds = email.utils.parsedate_to_datetime(said).timestamp() - time.time()
        except (TypeError, ValueError):
            return None
    return max(0.0, seconds) if seconds < float("inf") else None  # also False for nan


def shown(text: str, most: int = 120) -> str:
    """The beginning of what a server said, on one line and in quotes."""
    one_line = " ".join(text.split())
    return repr(one_line if len(one_line) <= most else f"{one_line[:most]}...") if one_line else "nothing"


def address_of(base_url: str) -> str:
    """An address without what may be secret in it: user, password and query."""
    parts = urlsplit(base_url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path.rstrip('/')}"


def is_loopback(base_url: str) -> bool:
    """Whether an address is this machine."""
    host = urlsplit(base_url).hostname or ""
    return host in ("localhost", "::1") or host.startswith("127.")


def without_credentials(base_url: str) -> str:
    """An address that can be printed; raises ValueError where it is none, or where something secret stands in it."""
    parts = urlsplit(base_url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("is no address such as http://127.0.0.1:8080/v1")
    if "@" in parts.netloc or parts.query:
        raise ValueError("must hold no password and no query: keys stand in an environment variable (key_env)")
    return base_url.rstrip("/")
