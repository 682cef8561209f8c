"""The proxy on a real socket, in front of a real server."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import logging
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
import uvicorn
from chat_server import Handler, chat, server

from amends.chat import proxy as proxies
from amends.chat.client import BudgetSpent, Client, ClientError, Completion, Message, Params
from amends.chat.clients.openai_api import OpenAIAPI
from amends.chat.proxy import Proxy
from amends.cli import serve as commands
from amends.constraints.checkers.cases import NoComma
from amends.constraints.constraint import Constraint
from amends.core.errors import UserError
from amends.refine.arms.decrim import DeCRIM
from amends.refine.critics.programmatic import Programmatic
from amends.refine.decomposers.gold import Gold
from amends.refine.in_front import Looped

pytestmark = pytest.mark.enable_socket

HI = [{"role": "user", "content": "Hi"}]


@contextmanager
def running(proxy: Proxy) -> Iterator[int]:
    """Its port, while a thread serves it."""
    listening = socket.create_server(("127.0.0.1", 0))
    served = uvicorn.Server(uvicorn.Config(proxy.app(), log_level="warning", access_log=False, lifespan="off"))
    thread = threading.Thread(target=lambda: asyncio.run(served.serve(sockets=[listening])), daemon=True)
    thread.start()
    try:
        yield listening.getsockname()[1]
    finally:
        served.should_exit = True
        thread.join(10)
        listening.close()


def behind(base_url: str, **options: Any) -> OpenAIAPI:
    """The client of the server behind, as `amends proxy` makes it."""
    return OpenAIAPI(base_url=base_url, key_env="", retries=0, **options)


def call(port: int, body: Any = None, path: str = "/v1/chat/completions", **headers: str) -> tuple[int, str]:
    """Status and text; GET where there is no body."""
    link = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    raw = body if isinstance(body, (bytes, type(None))) else json.dumps(body)
    link.request("GET" if body is None else "POST", path, raw, {"Content-Type": "application/json", **headers})
    with contextlib.closing(link):
        answer = link.getresponse()
        return answer.status, answer.read().decode()


def fault(port: int, body: Any, **headers: str) -> tuple[int, str]:
    """Status and message of an error, which has OpenAI's shape."""
    status, text = call(port, body, **headers)
    found = json.loads(text)["error"]
    assert set(found) == {"message", "type", "param", "code"} and status >= 400
    return status, found["message"]


def events(text: str) -> list[Any]:
    """What a stream says, without comments and its closing mark."""
    lines = [line for line in text.split("\n\n") if line and not line.startswith(":")]
    assert lines[-1] == "data: [DONE]" and all(line.startswith("data: ") for line in lines)
    return [json.loads(line[6:]) for line in lines[:-1]]


def streamed(text: str) -> str:
    """The whole text of a stream."""
    return "".join(e["choices"][0]["delta"].get("content", "") for e in events(text) if e["choices"])


async def shouting(messages: Sequence[Message], params: Params, client: Client) -> Completion:
    """Asks twice, and answers in capitals."""
    first = await client.complete(messages, params)
    second = await client.complete([*messages, Message("assistant", first.text), Message("user", "again")], params)
    return Completion(f"{first.text}! {second.text}!".upper(), first.usage + second.usage, "length", {"A": -0.5, "B": -1.0})


def test_answers_pass_through_with_the_callers_key_and_further_fields(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    with server() as s, running(Proxy(behind(s.base_url))) as port:
        body = {"model": "small", "messages": HI, "top_p": 0.5, "max_tokens": 5, "stop": "X", "seed": 2}
        status, text = call(port, body, Authorization="Bearer sk-of-a-caller")
        made = json.loads(text)
        assert status == 200 and made["object"] == "chat.completion" and made["model"] == "small"
        assert made["choices"][0]["message"] == {"role": "assistant", "content": "echo: Hi"}
        assert made["choices"][0]["finish_reason"] == "stop"
        assert made["usage"] == {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}
        sent = s.seen[0]
        assert (sent["top_p"], sent["max_tokens"], sent["stop"], sent["seed"], sent["temperature"]) == (0.5, 5, ["X"], 2, 1.0)
        assert "stream" not in sent and "n" not in sent
        assert s.headers[0]["Authorization"] == "Bearer sk-of-a-caller"
        assert call(port, body)[0] == 200 and s.headers[1]["Authorization"] is None
        assert json.loads(call(port, path="/v1/models")[1])["data"][0]["id"] == "small"
        assert json.loads(call(port, path="/health")[1]) == {"status": "ok"}
    assert "sk-of-a-caller" not in caplog.text


def test_the_openai_package_is_a_caller_like_any_other() -> None:
    async def ask(port: int) -> list[Completion]:
        client = OpenAIAPI(base_url=f"http://127.0.0.1:{port}/v1", model="small")
        rows = [[Message("user", str(i))] for i in range(6)]
        return await asyncio.gather(*(client.complete(row, Params(top_logprobs=2)) for row in rows))

    with server() as s, running(Proxy(behind(s.base_url), shouting)) as port:
        made = asyncio.run(ask(port))
    assert [m.text for m in made] == [f"ECHO: {i}! ECHO: AGAIN!" for i in range(6)]
    assert made[0].usage.prompt_tokens == 14 and made[0].usage.new_tokens == 6
    assert made[0].finish == "length" and made[0].logprobs == {"A": -0.5, "B": -1.0}


def test_a_stream_says_the_same_in_pieces() -> None:
    body = {"model": "small", "messages": HI * 3, "stream": True, "stream_options": {"include_usage": True}}
    with server() as s, running(Proxy(behind(s.base_url), shouting)) as port:
        status, text = call(port, body)
    assert status == 200 and streamed(text) == "ECHO: HI! ECHO: AGAIN!"
    found = events(text)
    assert found[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert found[-2]["choices"][0]["finish_reason"] == "length"
    assert found[-1]["choices"] == [] and found[-1]["usage"]["total_tokens"] == 20
    assert len({e["id"] for e in found}) == 1 and len(found) == 4


@pytest.mark.parametrize("error", [None, TimeoutError(), ClientError("odd", 429)])
def test_a_stream_that_waits_is_kept_alive_and_may_end_in_an_error(error: Exception | None) -> None:
    """The answer comes only when the caller has seen that the stream is alive."""
    seen = threading.Event()

    async def answer(messages: Sequence[Message], params: Params, client: Client) -> Completion:
        await asyncio.to_thread(seen.wait, 20)
        if error is not None:
            raise error
        return Completion("at last")

    with running(Proxy(behind("http://127.0.0.1:9/v1"), answer, keep_alive=0.02)) as port:
        link = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
        link.request("POST", "/v1/chat/completions", json.dumps({"messages": HI, "stream": True}))
        with contextlib.closing(link), link.getresponse() as answered:
            assert answered.status == 200 and answered.headers["Content-Type"].startswith("text/event-stream")
            assert [answered.readline() for _ in range(4)] == [b": still working\n", b"\n"] * 2
            seen.set()
            text = answered.read().decode()
    if error is None:
        assert streamed(text) == "at last"
    else:
        assert events(text)[0]["error"]["code"] == (504 if isinstance(error, TimeoutError) else 429)


def test_a_failure_before_the_stream_has_begun_has_its_own_status() -> None:
    with running(Proxy(behind("http://127.0.0.1:9/v1", model="m"))) as port:
        assert fault(port, {"messages": HI, "stream": True})[0] == 502


def test_the_openai_package_reads_the_stream() -> None:
    async def read(port: int) -> str:
        from openai import AsyncOpenAI

        async with AsyncOpenAI(api_key="none", base_url=f"http://127.0.0.1:{port}/v1") as client:
            stream = await client.chat.completions.create(model="small", messages=HI, stream=True)  # type: ignore[call-overload]
            return "".join([event.choices[0].delta.content or "" async for event in stream])

    with server(delay=0.2) as s, running(Proxy(behind(s.base_url), keep_alive=0.05)) as port:
        assert asyncio.run(read(port)) == "echo: Hi"


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"{no json", "the body is no JSON"),
        (b"\xff\xfe", "the body is no JSON"),
        (b"[]", "no JSON object"),
        ({}, "messages: needs a list"),
        ({"messages": []}, "messages: needs a list"),
        ({"messages": [{"role": "king", "content": "x"}]}, "messages[0].role: one of system"),
        ({"messages": [{"role": [], "content": "x"}]}, "messages[0].role"),
        ({"messages": [*HI, {"role": "user", "content": [{"type": "image_url"}]}]}, "messages[1].content: needs a text"),
        ({"messages": HI, "temperature": -1}, "temperature: Input should be greater"),
        ({"messages": HI, "max_tokens": "many"}, "max_tokens: Input should be a valid integer"),
        ({"messages": HI, "n": 3}, "n: one answer"),
        ({"messages": HI, "tools": [{"type": "function"}]}, "tools: not supported"),
        ({"messages": HI, "response_format": {"type": "xml"}}, "response_format: text, json_object"),
        ({"messages": HI, "model": 3}, "model: is no name"),
    ],
)
def test_bad_requests_are_told_the_field(body: Any, said: str) -> None:
    with server() as s, running(Proxy(behind(s.base_url))) as port:
        status, message = fault(port, body)
        assert status == 400 and said in message and not s.seen


def test_parts_developers_and_schemas_are_understood() -> None:
    messages = [
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "H"}, {"type": "text", "text": "i"}]},
    ]
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "array"}}}
    with server() as s, running(Proxy(behind(s.base_url))) as port:
        assert call(port, {"messages": messages, "response_format": form, "tools": [], "n": 1})[0] == 200
        assert s.seen[0]["messages"] == [{"role": "system", "content": "Be brief."}, *HI]
        assert s.seen[0]["response_format"]["json_schema"]["schema"] == {"type": "array"}
        assert s.seen[0]["model"] == "small"  # the only one there


def test_other_paths_and_bodies_without_end() -> None:
    with server() as s, running(Proxy(behind(s.base_url))) as port:
        assert call(port, path="/v1/other")[0] == 404 and call(port)[0] == 405
        assert "there are POST /v1/chat/completions" in call(port, path="/")[1]
        limit, proxies.LARGEST = proxies.LARGEST, 1000
        try:
            assert fault(port, {"messages": [{"role": "user", "content": "x" * 2000}]})[0] == 400
        finally:
            proxies.LARGEST = limit


def test_failures_behind_come_through_as_clean_errors() -> None:
    def script(handler: Handler, number: int) -> bool:
        status = int(handler.headers["Authorization"].split()[-1])
        if status == 200:
            handler.answer(200, b"<html>")
        else:
            handler.answer(status, {"error": {"message": f"no: {handler.headers['Authorization']}"}})
        return True

    with server(script) as s, running(Proxy(behind(s.base_url, model="m"))) as port:
        for sent, got in ((401, 401), (429, 429), (404, 404), (500, 500), (200, 502)):
            status, message = fault(port, {"messages": HI}, Authorization=f"Bearer {sent}")
            assert status == got and "http://127.0.0.1" in message and f"Bearer {sent}" not in message
    with running(Proxy(behind("http://127.0.0.1:9/v1", model="m"))) as port:
        status, message = fault(port, {"messages": HI})
        assert status == 502 and "the connection failed" in message
        assert call(port, path="/v1/models")[0] == 502


def raising(error: Exception) -> Callable[..., Any]:
    """An answer that fails."""

    async def answer(messages: Sequence[Message], params: Params, client: Client) -> Completion:
        raise error

    return answer


def test_failures_of_the_function_are_told_and_the_proxy_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    with server() as s:
        for error, want in ((BudgetSpent("no more"), 429), (ClientError("odd", None), 502), (KeyError("inner"), 500)):
            with running(Proxy(behind(s.base_url), raising(error))) as port:
                for _ in range(2):
                    assert fault(port, {"messages": HI})[0] == want
    assert "a request failed: KeyError" in caplog.text


def test_a_request_that_takes_too_long_is_given_up() -> None:
    with server(delay=1.0) as s, running(Proxy(behind(s.base_url), timeout=0.1)) as port:
        assert fault(port, {"messages": HI}) == (504, "no answer within the time that a request may take")


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("keep_alive", [0.05, 60.0])
def test_a_caller_that_goes_away_ends_the_work(stream: bool, keep_alive: float) -> None:
    begun, ended = threading.Event(), threading.Event()

    async def answer(messages: Sequence[Message], params: Params, client: Client) -> Completion:
        begun.set()
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            ended.set()
            raise
        return Completion("late")

    with running(Proxy(behind("http://127.0.0.1:9/v1"), answer, keep_alive=keep_alive)) as port:
        link = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
        link.request("POST", "/v1/chat/completions", json.dumps({"messages": HI, "stream": stream}))
        assert begun.wait(10)
        time.sleep(0.15)  # into the stream, where there is one
        link.sock.close()
        link.close()
        assert ended.wait(10)


def test_it_listens_on_this_machine_alone_unless_told() -> None:
    assert all(map(proxies.is_loopback, ("127.0.0.1", "127.9.9.9", "::1", "localhost")))
    assert not any(map(proxies.is_loopback, ("0.0.0.0", "::", "10.0.0.1", "example.org")))


def test_mistakes_on_the_command_line_are_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UserError, match="--to 127.0.0.1:80: is no address"):
        commands.proxy(to="127.0.0.1:80", plain=True)
    with pytest.raises(UserError, match="no_model.gguf: no such GGUF file"):
        commands.serve(model="no_model.gguf")
    with server() as s, pytest.raises(UserError, match="give another one, or 0 for a free one"):
        commands.proxy(to="http://127.0.0.1:9/v1", host="0.0.0.0", port=int(s.base_url.split(":")[2][:-3]))
    assert "warning: listening on 0.0.0.0" in capsys.readouterr().err


# ---------------------------------------------------------------------- the loop in front


def obedient(handler: Handler, number: int) -> bool:
    """Writes a comma, until a message tells it not to."""
    said = " ".join(m["content"] for m in handler.state.seen[number - 1]["messages"])
    handler.answer(200, chat("a b" if "comma" in said else "a, b"))
    return True


def test_the_loop_in_front_mends_answers_and_keeps_the_conversation() -> None:
    arm = DeCRIM(decomposer=Gold(), critic=Programmatic(), repair=False, rounds=2)
    looped = Looped(arm, (Constraint(id="c1", text="No commas.", checker=NoComma()),))
    talk = [
        {"role": "system", "content": "Be brief."}, {"role": "user", "content": "First?"},
        {"role": "assistant", "content": "One."}, {"role": "user", "content": "And then?"},
    ]  # fmt: skip
    with server(obedient) as s, running(Proxy(behind(s.base_url, model="small"), answer=looped)) as port:
        status, text = call(port, {"model": "small", "messages": talk})
        assert status == 200 and json.loads(text)["choices"][0]["message"]["content"] == "a b"
        assert json.loads(text)["usage"]["completion_tokens"] == 6  # of both calls
        assert len(s.seen) == 2
        for body in s.seen:
            roles = [m["role"] for m in body["messages"]]
            assert roles[:3] == ["system", "user", "assistant"] and roles.count("system") == 1
            assert body["messages"][0]["content"].startswith("Be brief.")
        assert streamed(call(port, {"model": "small", "messages": talk, "stream": True})[1]) == "a b"


def test_a_loop_without_any_answer_is_an_error_of_the_server_behind() -> None:
    def broken(handler: Handler, number: int) -> bool:
        handler.answer(500, {"error": {"message": "out of order"}})
        return True

    arm = DeCRIM(decomposer=Gold(), critic=Programmatic(), rounds=1)
    with server(broken) as s, running(Proxy(behind(s.base_url, model="small"), answer=Looped(arm))) as port:
        status, said = fault(port, {"model": "small", "messages": HI})
        assert status >= 500 and "out of order" in said


def test_the_status_of_the_server_behind_reaches_the_caller_through_the_loop() -> None:
    """A client waits after 429 and asks for a key after 401; after 502 it does neither."""

    def refuses(handler: Handler, number: int) -> bool:
        status = 401 if "key" in handler.state.seen[-1]["messages"][-1]["content"] else 429
        handler.answer(status, {"error": {"message": "not now"}}, {"Retry-After": "0"})
        return True

    arm = DeCRIM(decomposer=Gold(), critic=Programmatic(), rounds=1)
    with server(refuses) as s, running(Proxy(behind(s.base_url, model="small"), answer=Looped(arm))) as port:
        for text, status in (("key?", 401), ("again?", 429)):
            got, said = fault(port, {"model": "small", "messages": [{"role": "user", "content": text}]})
            assert got == status and "not now" in said


def test_a_place_to_listen_that_is_none() -> None:
    with server() as s, pytest.raises(UserError, match=r"256\.0\.0\.1: is no address to listen on .*127\.0\.0\.1"):
        proxies.run(Proxy(behind(s.base_url)), "256.0.0.1", 0, lambda _: None)
