"""The client of OpenAI's protocol against real servers that behave and misbehave."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from email.utils import formatdate
from typing import Any

import pytest
from chat_server import Handler, chat, server
from pydantic import ValidationError

from amends.chat import openai_wire as wire
from amends.chat.client import Client, ClientError, Completion, Message, Params, Usage
from amends.chat.clients.openai_api import OpenAIAPI
from amends.core.errors import UserError
from amends.core.spec import build_use

pytestmark = pytest.mark.enable_socket

KEY = "sk-very-secret-0123456789"
HI = (Message("system", "Be brief."), Message("user", "Hi"))


@pytest.fixture(autouse=True)
def quick_and_keyed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A key in the environment; the first waits are of milliseconds."""
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setattr(wire, "FIRST_WAIT", 0.005)


def ask(client: Client, messages: tuple[Message, ...] = HI, **params: Any) -> Completion:
    """One answer, in an event loop of its own."""
    return asyncio.run(client.complete(messages, Params(**params)))


def refusal(client: Client) -> ClientError:
    """Why there is no answer; the message names address and model, and holds no key."""
    with pytest.raises(ClientError) as caught:
        ask(client)
    assert "http://127.0.0.1" in str(caught.value) and KEY not in str(caught.value)
    return caught.value


def test_what_is_asked_for_is_what_goes_over_the_wire() -> None:
    schema = {"type": "object", "properties": {"b": {"type": "string"}, "a": {"type": "string"}}}
    with server() as s:
        client = OpenAIAPI(base_url=s.base_url, model="small")
        made = ask(client, max_tokens=9, temperature=0.5, seed=11, stop=("END",), schema=schema, top_logprobs=5)
        assert isinstance(client, Client)
    assert (made.text, made.finish, made.cached, made.logprobs) == ("echo: Hi", "stop", False, None)
    assert (made.usage.calls, made.usage.prompt_tokens, made.usage.new_tokens) == (1, 7, 3)
    (body,) = s.seen
    assert body["messages"] == [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
    assert (body["model"], body["max_tokens"], body["temperature"], body["seed"]) == ("small", 9, 0.5, 11)
    assert body["stop"] == ["END"] and body["logprobs"] is True and body["top_logprobs"] == 5
    assert body["response_format"]["json_schema"]["schema"] == schema
    assert s.headers[0]["Authorization"] == f"Bearer {KEY}"


def test_plain_calls_carry_no_field_that_was_not_asked_for() -> None:
    with server() as s:
        ask(OpenAIAPI(base_url=s.base_url, model="small"))
    assert set(s.seen[0]) == {"model", "messages", "max_tokens", "temperature", "seed"}


def test_it_is_built_from_a_recipe_and_works_in_one_event_loop_after_another() -> None:
    with server() as s:
        client = build_use("clients", {"use": "openai_api", "base_url": s.base_url, "model": "small"}, "client")
        assert [ask(client).text for _ in range(3)] == ["echo: Hi"] * 3


def test_the_only_model_need_not_be_named() -> None:
    with server() as s:
        ask(OpenAIAPI(base_url=s.base_url))
        assert s.seen[0]["model"] == "small"
    with server(models=["one", "two"]) as s:
        error = refusal(OpenAIAPI(base_url=s.base_url))
        assert "lists 2 models (one, two): name one as `model`" in str(error) and not s.seen


def failing(times: int, status: int, headers: dict[str, str] | None = None) -> Any:
    """A script: so many failures, then answers."""

    def script(handler: Handler, number: int) -> bool:
        if number > times:
            return False
        handler.answer(status, {"error": {"message": "not now", "type": "x"}}, headers)
        return True

    return script


@pytest.mark.parametrize("status", [429, 500, 503, 408])
def test_failures_that_pass_are_tried_again(status: int) -> None:
    with server(failing(2, status)) as s:
        assert ask(OpenAIAPI(base_url=s.base_url, model="small", retries=2)).text == "echo: Hi"
        assert len(s.seen) == 3


@pytest.mark.parametrize("status", [400, 401, 403, 404, 422])
def test_failures_that_stay_are_said_at_once(status: int) -> None:
    with server(failing(9, status)) as s:
        error = refusal(OpenAIAPI(base_url=s.base_url, model="small"))
        assert error.status == status and len(s.seen) == 1
        assert f"small: status {status}, 'not now'" in str(error)


def test_retries_end() -> None:
    with server(failing(99, 500)) as s:
        error = refusal(OpenAIAPI(base_url=s.base_url, model="small", retries=2))
        assert len(s.seen) == 3 and "tried 3 times" in str(error) and error.status == 500


def test_an_empty_account_is_not_tried_again() -> None:
    def script(handler: Handler, number: int) -> bool:
        handler.answer(429, {"error": {"message": "pay", "code": "insufficient_quota"}})
        return True

    with server(script) as s:
        refusal(OpenAIAPI(base_url=s.base_url, model="small"))
        assert len(s.seen) == 1


def test_retry_after_is_waited_for() -> None:
    with server(failing(1, 429, {"Retry-After": "0.3"})) as s:
        ask(OpenAIAPI(base_url=s.base_url, model="small"))
        assert s.times[1] - s.times[0] >= 0.3  # the backoff alone would be 0.005 s at most


def test_a_wait_beyond_the_deadline_is_not_begun() -> None:
    with server(failing(9, 429, {"Retry-After": "3600"})) as s:
        error = refusal(OpenAIAPI(base_url=s.base_url, model="small", deadline=5))
        assert "asks to be left alone for 3600 s" in str(error) and len(s.seen) == 1


def test_waits_double_with_jitter_and_dates_are_read() -> None:
    def waits(attempt: int) -> list[float]:
        return [wire.wait_before(attempt, {}) for _ in range(200)]

    assert 0.0025 <= min(waits(1)) < max(waits(1)) <= 0.005
    assert min(waits(3)) >= 0.01 and max(waits(3)) <= 0.02
    assert max(waits(60)) <= wire.LONGEST_WAIT
    date = formatdate(time.time() + 100, usegmt=True)
    assert 95 < wire.wait_before(1, {"retry-after": date}) <= 100
    assert wire.wait_before(1, {"retry-after": "soon"}) <= 0.005
    assert wire.wait_before(1, {"retry-after": "nan"}) <= 0.005
    assert wire.wait_before(1, {"retry-after": "-3"}) == 0


@pytest.mark.parametrize(
    ("raw", "cause"),
    [
        (b"<html>busy</html>", "answered with '<html>busy</html>' instead of a JSON object"),
        (b"", "answered with nothing instead of a JSON object"),
        (b"[1, 2]", "instead of a JSON object"),
        (b'{"choices": []}', "holds no choices"),
        (b"{}", "holds no choices"),
        (b'{"error": {"message": "out of memory"}}', "out of memory"),
        (b'{"choices": [{"message": null}]}', "not the shape of a chat completion"),
        (b'{"choices": [{"message": {"content": 3}}]}', "holds no text"),
        (b'{"choices": 5}', "not the shape of a chat completion"),
        (b'\xff\xfe{"choices"', "instead of a JSON object"),
    ],
)
def test_garbage_is_refused_in_one_sentence(raw: bytes, cause: str) -> None:
    def script(handler: Handler, number: int) -> bool:
        handler.answer(200, raw)
        return True

    with server(script) as s:
        error = refusal(OpenAIAPI(base_url=s.base_url, model="small"))
        assert cause in str(error) and "\n" not in str(error) and len(s.seen) == 1


def test_an_answer_without_words_or_usage_is_an_answer() -> None:
    def script(handler: Handler, number: int) -> bool:
        made = chat(None, usage=None)
        made["choices"][0]["finish_reason"] = "length" if number == 1 else "content_filter"
        handler.answer(200, made)
        return True

    with server(script) as s:
        client = OpenAIAPI(base_url=s.base_url, model="small")
        first, second = ask(client), ask(client)
    assert (first.text, first.finish, second.finish) == ("", "length", "other")
    assert first.usage == Usage(1, 0, 0, first.usage.seconds)


def test_log_probabilities_are_the_first_tokens() -> None:
    rows = [{"token": t, "logprob": p} for t, p in (("Yes", -0.1), ("No", -2.5), ("Yes", -9.0))]

    def script(handler: Handler, number: int) -> bool:
        made = chat("Yes")
        made["choices"][0]["logprobs"] = {"content": [{**rows[0], "top_logprobs": rows}, {"token": ".", "logprob": -0.2}]}
        handler.answer(200, made)
        return True

    with server(script) as s:
        assert ask(OpenAIAPI(base_url=s.base_url, model="small"), top_logprobs=3).logprobs == {"Yes": -0.1, "No": -2.5}


def test_a_connection_that_breaks_in_the_middle_is_tried_again() -> None:
    def script(handler: Handler, number: int) -> bool:
        if number > 1:
            return False
        handler.send_response(200)
        handler.send_header("Content-Length", "1000")
        handler.end_headers()
        handler.wfile.write(b'{"choices": [')
        handler.wfile.flush()
        handler.connection.shutdown(2)
        handler.close_connection = True
        return True

    with server(script) as s:
        assert ask(OpenAIAPI(base_url=s.base_url, model="small")).text == "echo: Hi"
        assert len(s.seen) == 2


def test_a_server_that_never_ends_is_left() -> None:
    """It sends a byte now and then, which no time-out between bytes would notice."""

    def script(handler: Handler, number: int) -> bool:
        handler.send_response(200)
        handler.send_header("Content-Length", "100000")
        handler.end_headers()
        for _ in range(200):
            handler.wfile.write(b" ")
            handler.wfile.flush()
            time.sleep(0.02)
        return True

    with server(script) as s:
        error = refusal(OpenAIAPI(base_url=s.base_url, model="small", timeout=0.15, retries=1))
        assert error.status == 504 and "no whole answer within 0.15 s; tried 2 times" in str(error)


def test_nobody_there() -> None:
    with server() as s:
        address = s.base_url
    error = refusal(OpenAIAPI(base_url=address, model="small", retries=1))
    assert error.status is None and "the connection failed" in str(error) and "tried 2 times" in str(error)


def test_no_more_calls_run_at_once_than_allowed() -> None:
    async def many(client: Client) -> list[Completion]:
        return await asyncio.gather(*(client.complete((Message("user", str(i)),), Params()) for i in range(12)))

    three = threading.Barrier(3)

    def script(handler: Handler, number: int) -> bool:
        three.wait(20)  # none is answered before three are there
        return False

    with server(script) as s:
        made = asyncio.run(many(OpenAIAPI(base_url=s.base_url, model="small", concurrency=3)))
        assert [m.text for m in made] == [f"echo: {i}" for i in range(12)]
        assert s.most_at_once == 3


def test_the_key_is_seen_nowhere(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not in names, representations, logs at any level, or errors, even where the server repeats it."""

    def script(handler: Handler, number: int) -> bool:
        handler.answer(401, {"error": {"message": f"bad key {handler.headers['Authorization']}"}})
        return True

    caplog.set_level(logging.DEBUG)
    for name in ("openai", "httpx2", "httpcore2"):
        monkeypatch.setattr(logging.getLogger(name), "level", logging.DEBUG)
    with server(script) as s:
        client = OpenAIAPI(base_url=s.base_url, model="small")
        error = refusal(client)
        assert s.headers[0]["Authorization"].endswith(KEY) and "bad key Bearer [key]" in str(error)
        other = client.asked_as(authorization="Bearer sk-of-a-caller")
        with pytest.raises(ClientError) as caught:
            ask(other)
        assert s.headers[1]["Authorization"] == "Bearer sk-of-a-caller"
    shown = " ".join([repr(client), str(client), client.name, repr(error), repr(other), str(vars(other)), str(caught.value)])
    for secret in (KEY, "sk-of-a-caller"):
        assert secret not in shown and secret not in caplog.text
    assert caplog.records


def test_a_key_goes_to_no_other_machine_in_the_clear(monkeypatch: pytest.MonkeyPatch) -> None:
    from amends.chat.openai_session import Session

    async def header(url: str) -> Any:
        session = Session(url, 1, 1, "OPENAI_API_KEY")
        try:
            return session._headers(None)["Authorization"]
        finally:
            await session.close()

    assert asyncio.run(header("https://example.org/v1")) == f"Bearer {KEY}"
    assert asyncio.run(header("http://127.0.0.1:9/v1")) == f"Bearer {KEY}"
    assert not isinstance(asyncio.run(header("http://example.org/v1")), str)
    monkeypatch.delenv("OPENAI_API_KEY")
    assert not isinstance(asyncio.run(header("https://example.org/v1")), str)
    with pytest.raises(UserError, match="set the environment variable OPENAI_API_KEY"):
        asyncio.run(header("https://api.openai.com/v1"))


def test_without_a_key_none_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY")
    with server() as s:
        ask(OpenAIAPI(base_url=s.base_url, model="small"))
        assert "Authorization" not in s.headers[0]


@pytest.mark.parametrize("url", ["http://user:word@127.0.0.1/v1", "http://127.0.0.1/v1?key=word", "127.0.0.1:80", "ftp://x"])
def test_addresses_that_hold_a_secret_or_are_none_are_refused(url: str) -> None:
    with pytest.raises(ValidationError, match="base_url"):
        OpenAIAPI(base_url=url)


def test_a_caller_that_goes_away_frees_its_slot() -> None:
    async def go(client: Client) -> str:
        first = asyncio.create_task(client.complete(HI, Params()))
        await asyncio.sleep(0.1)
        first.cancel()
        return (await asyncio.wait_for(client.complete(HI, Params()), 5)).text

    def script(handler: Handler, number: int) -> bool:
        time.sleep(1.0 if number == 1 else 0)
        return False

    with server(script) as s:
        assert asyncio.run(go(OpenAIAPI(base_url=s.base_url, model="small", concurrency=1))) == "echo: Hi"
