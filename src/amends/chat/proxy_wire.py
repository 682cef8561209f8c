"""OpenAI's protocol from the server's side: what a request asks for, and how an answer, a stream or an error is written."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, cast

from pydantic import ValidationError

from amends.chat.client import Completion, Message, Params

OURS = {
    "model", "messages", "max_tokens", "max_completion_tokens", "temperature", "seed", "stop", "response_format", "logprobs",
    "top_logprobs", "stream", "stream_options", "n",
}  # fmt: skip
"""Fields that are read here; others, such as `top_p`, are passed on as they are."""
REFUSED = ("tools", "tool_choice", "functions", "function_call", "audio", "modalities", "prediction", "web_search_options")
"""What an answer of one text cannot hold."""
ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}
CHUNK = 24
"""Characters of a piece of a stream."""


class BadRequest(Exception):
    """A request that cannot be met as it stands."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A request for a chat completion."""

    messages: tuple[Message, ...]
    params: Params
    model: str | None
    extra: Mapping[str, Any] = field(default_factory=dict)
    stream: bool = False
    stream_usage: bool = False


def read_request(data: bytes, max_tokens: int) -> Asked:
    """The request; raises BadRequest that names the field. `max_tokens` is for requests that name no limit."""
    try:
        body = json.loads(data)
    except ValueError as error:
        raise BadRequest(f"the body is no JSON ({error})") from None
    if not isinstance(body, dict):
        raise BadRequest("the body is no JSON object")
    for name in REFUSED:
        if body.get(name) not in (None, [], "none", ["text"]):
            raise BadRequest(f"{name}: not supported here, an answer is one text")
    if body.get("n") not in (None, 1):
        raise BadRequest("n: one answer at a time")
    model = body.get("model")
    if model is not None and not isinstance(model, str):
        raise BadRequest("model: is no name")
    options = body.get("stream_options") or {}
    return Asked(
        _messages(body.get("messages")), _params(body, max_tokens), model or None,
        {key: value for key, value in body.items() if key not in OURS and key not in REFUSED},
        bool(body.get("stream")), bool(isinstance(options, dict) and options.get("include_usage")),
    )  # fmt: skip


def _messages(rows: Any) -> tuple[Message, ...]:
    if not isinstance(rows, list) or not rows:
        raise BadRequest("messages: needs a list with at least one message")
    return tuple(_message(row, f"messages[{i}]") for i, row in enumerate(rows))


def _message(row: Any, at: str) -> Message:
    role = ROLES.get(row.get("role")) if isinstance(row, dict) and isinstance(row.get("role"), str) else None
    if role is None:
        raise BadRequest(f"{at}.role: one of {', '.join(ROLES)}")
    content = row.get("content")
    if isinstance(content, list):
        texts = [
            p["text"] for p in content if isinstance(p, dict) and p.get("type") == "text" and isinstance(p.get("text"), str)
        ]
        content = "".join(texts) if len(texts) == len(content) else None
    if not isinstance(content, str):
        raise BadRequest(f"{at}.content: needs a text, or parts of type text")
    return Message(cast(Any, role), content)


def _params(body: Mapping[str, Any], max_tokens: int) -> Params:
    """OpenAI's own defaults where a field is left out: temperature 1."""

    def given(*names: str, default: Any) -> Any:
        return next((body[name] for name in names if body.get(name) is not None), default)

    stop = given("stop", default=[])
    values = {
        "max_tokens": given("max_completion_tokens", "max_tokens", default=max_tokens),
        "temperature": given("temperature", default=1.0),
        "seed": given("seed", default=0),
        "stop": (stop,) if isinstance(stop, str) else stop,
        "schema": _schema(given("response_format", default={})),
        "top_logprobs": given("top_logprobs", default=1) if body.get("logprobs") else 0,
    }
    try:
        return Params(**values)
    except ValidationError as error:
        first = error.errors()[0]
        raise BadRequest(f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from None


def _schema(asked: Any) -> Any:
    kind = asked.get("type", "text") if isinstance(asked, dict) else None
    if kind == "text":
        return None
    if kind == "json_object":
        return {"type": "object"}
    if kind == "json_schema" and isinstance(asked.get("json_schema"), dict) and "schema" in asked["json_schema"]:
        return asked["json_schema"]["schema"]
    raise BadRequest("response_format: text, json_object, or json_schema with a schema")


def whole(completion: Completion, model: str) -> dict[str, Any]:
    """A chat completion; log-probabilities are those of the first token alone."""
    message = {"role": "assistant", "content": completion.text}
    choice = {"index": 0, "message": message, "finish_reason": _finish(completion), "logprobs": _logprobs(completion)}
    return {**_head("chat.completion", model), "choices": [choice], "usage": _usage(completion)}


def pieces(completion: Completion, model: str, usage: bool) -> Iterator[str]:
    """The events of a stream: the role, the text piece by piece, the end, and the usage where it was asked for."""
    head = _head("chat.completion.chunk", model)

    def event(delta: dict[str, str], finish: str | None = None) -> str:
        return data({**head, "choices": [{"index": 0, "delta": delta, "finish_reason": finish}]})

    yield event({"role": "assistant", "content": ""})
    for start in range(0, len(completion.text), CHUNK):
        yield event({"content": completion.text[start : start + CHUNK]})
    yield event({}, _finish(completion))
    if usage:
        yield data({**head, "choices": [], "usage": _usage(completion)})
    yield "data: [DONE]\n\n"


def data(value: Any) -> str:
    """One server-sent event."""
    return f"data: {json.dumps(value)}\n\n"


def error(message: str, status: int) -> dict[str, Any]:
    """An error as OpenAI's servers write it."""
    kind = "invalid_request_error" if 400 <= status < 500 else "server_error"
    return {"error": {"message": message, "type": kind, "param": None, "code": status}}


def _head(kind: str, model: str) -> dict[str, Any]:
    return {"id": f"chatcmpl-{uuid.uuid4().hex}", "object": kind, "created": int(time.time()), "model": model}


def _finish(completion: Completion) -> str:
    return "length" if completion.finish == "length" else "stop"


def _usage(completion: Completion) -> dict[str, int]:
    used = completion.usage
    return {
        "prompt_tokens": used.prompt_tokens, "completion_tokens": used.new_tokens,
        "total_tokens": used.prompt_tokens + used.new_tokens,
    }  # fmt: skip


def _logprobs(completion: Completion) -> dict[str, Any] | None:
    if not completion.logprobs:
        return None
    rows = [{"token": t, "logprob": p, "bytes": list(t.encode())} for t, p in completion.logprobs.items()]
    first = max(rows, key=lambda row: float(row["logprob"]))  # type: ignore[arg-type]
    return {"content": [{**first, "top_logprobs": rows}]}
