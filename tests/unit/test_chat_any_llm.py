"""The client of Mozilla's any-llm: the real SDK against real servers of OpenAI's and of Anthropic's shape."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import logging
import sys
import threading
from typing import Any

import pytest
from chat_server import Handler, chat, server
from pydantic import ValidationError

from amends.chat import openai_wire as wire
from amends.chat.client import Client, ClientError, Completion, Message, Params
from amends.chat.clients.any_llm import AnyLLM
from amends.core.errors import UserError
from amends.core.spec import build_use

pytestmark = pytest.mark.enable_socket
with_sdk = pytest.mark.skipif(
    importlib.util.find_spec("any_llm") is None, reason="any-llm-sdk is not installed: pip install 'amends[any-llm]'"
)
KEY = "sk-very-secret-0123456789"
HI = (Message("system", "Be brief."), Message("user", "Hi"))


@pytest.fixture(autouse=True)
def quick_and_keyed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keys in the environment, no address; the first waits are of milliseconds."""
    for name in ("OPENAI_BASE_URL", "ANTHROPIC_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    for name in ("OPENAI_API_KEY", "ANTHROPIC_API_KEY"):
        monkeypatch.setenv(name, KEY)
    monkeypatch.setattr(wire, "FIRST_WAIT", 0.005)


def ask(client: Client, messages: tuple[Message, ...] = HI, **params: Any) -> Completion:
    """One answer, in an event loop of its own."""
    return asyncio.run(client.complete(messages, Params(**params)))


def refusal(client: Client, **params: Any) -> ClientError:
    """Why there is no answer: one line that names the model and the provider, and holds no key."""
    with pytest.raises(ClientError) as caught:
        ask(client, **params)
    said = str(caught.value)
    assert said.startswith(client.name) and KEY not in said and "\n" not in said
    return caught.value


def failing(times: int, status: int, headers: dict[str, str] | None = None) -> Any:
    """A script: so many failures, then answers."""

    def script(handler: Handler, number: int) -> bool:
        if number > times:
            return False
        handler.answer(status, {"error": {"message": "not now", "type": "x"}}, headers)
        return True

    return script


def openai(base_url: str, **fields: Any) -> AnyLLM:
    """The SDK's provider of OpenAI's protocol at another address."""
    return AnyLLM(provider="openai", model="small", api_base=base_url, **fields)


def test_without_the_sdk_one_sentence_says_how_to_have_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "any_llm", None)
    client = build_use("clients", {"use": "any_llm", "provider": "mistral", "model": "m"}, "client")
    assert client.name == "m of mistral"
    with pytest.raises(UserError, match=r'^the client any_llm needs the package any-llm-sdk: pip install "amends\[any-llm\]"$'):
        ask(client)


def test_its_name_holds_what_is_asked_and_addresses_with_a_secret_are_refused() -> None:
    assert openai("https://example.org/v1/").name == "small of openai at https://example.org/v1"
    assert openai("https://example.org/v1", label="it").name == "it"
    with pytest.raises(ValidationError, match="api_base"):
        openai("https://user:word@example.org/v1")


@with_sdk
class TestOpenAIsProtocol:
    def test_what_is_asked_for_is_what_goes_over_the_wire(self) -> None:
        schema = {"type": "object", "properties": {"b": {"type": "string"}, "a": {"type": "string"}}}
        rows = [{"token": t, "logprob": p, "bytes": None} for t, p in (("Yes", -0.1), ("No", -2.5))]

        def script(handler: Handler, number: int) -> bool:
            made = chat("Yes")
            made["choices"][0]["logprobs"] = {"content": [{**rows[0], "top_logprobs": rows}]}
            handler.answer(200, made)
            return True

        with server(script) as s:
            client = openai(s.base_url)
            assert isinstance(client, Client)
            made = ask(client, max_tokens=9, temperature=0.5, seed=11, stop=("END",), schema=schema, top_logprobs=2)
            ask(client)
        assert (made.text, made.finish, made.cached, made.logprobs) == ("Yes", "stop", False, {"Yes": -0.1, "No": -2.5})
        assert (made.usage.calls, made.usage.prompt_tokens, made.usage.new_tokens) == (1, 7, 3) and made.usage.seconds > 0
        body, plain = s.seen
        assert body["messages"] == [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
        assert (body["model"], body["max_completion_tokens"], body["temperature"], body["seed"]) == ("small", 9, 0.5, 11)
        assert body["stop"] == ["END"] and body["logprobs"] is True and body["top_logprobs"] == 2
        assert body["response_format"]["json_schema"]["schema"] == schema
        assert s.headers[0]["Authorization"] == f"Bearer {KEY}"
        assert set(plain) == {"model", "messages", "max_completion_tokens", "temperature", "seed"}

    def test_the_end_of_an_answer_is_told(self) -> None:
        def script(handler: Handler, number: int) -> bool:
            made = chat(None, usage=None)
            made["choices"][0]["finish_reason"] = "length" if number == 1 else "content_filter"
            handler.answer(200, made)
            return True

        with server(script) as s:
            first, second = ask(openai(s.base_url)), ask(openai(s.base_url))
        assert (first.text, first.finish, second.finish, first.usage.new_tokens) == ("", "length", "other", 0)

    @pytest.mark.parametrize("status", [429, 503, 408])
    def test_failures_that_pass_are_tried_again_by_us_alone(self, status: int) -> None:
        with server(failing(2, status)) as s:
            assert ask(openai(s.base_url, retries=2)).text == "echo: Hi"
            assert len(s.seen) == 3
        with server(failing(9, status)) as s:
            error = refusal(openai(s.base_url, retries=1))
            assert len(s.seen) == 2 and error.status == status
            assert str(error).endswith(f": status {status}, 'not now'; tried 2 times")

    @pytest.mark.parametrize("status", [400, 401, 404, 422])
    def test_failures_that_stay_are_said_at_once(self, status: int) -> None:
        with server(failing(9, status)) as s:
            error = refusal(openai(s.base_url))
            assert error.status == status and len(s.seen) == 1

    def test_an_empty_account_is_not_tried_again(self) -> None:
        def script(handler: Handler, number: int) -> bool:
            handler.answer(429, {"error": {"message": "pay", "code": "insufficient_quota"}})
            return True

        with server(script) as s:
            refusal(openai(s.base_url))
            assert len(s.seen) == 1

    @pytest.mark.parametrize("status", [429, 503])
    def test_a_wait_that_the_server_asks_for_is_kept_to(self, status: int) -> None:
        with server(failing(1, status, {"Retry-After": "0.3"})) as s:
            ask(openai(s.base_url))
            assert s.times[1] - s.times[0] >= 0.3  # the backoff alone would be 0.005 s at most
        with server(failing(9, status, {"Retry-After": "3600"})) as s:
            assert "asks to be left alone for 3600 s" in str(refusal(openai(s.base_url, deadline=5)))

    @pytest.mark.parametrize(
        "raw",
        [
            b"<html>busy</html>",
            b"",
            b"[1, 2]",
            b'{"choices": []}',
            b"{}",
            b'{"choices": 5}',
            b'{"choices": [{"message": null}]}',
        ],
    )
    def test_garbage_is_refused(self, raw: bytes) -> None:
        def script(handler: Handler, number: int) -> bool:
            handler.answer(200, raw)
            return True

        with server(script) as s:
            assert refusal(openai(s.base_url)).status in (None, 502) and len(s.seen) == 1

    def test_a_server_that_hangs_or_is_not_there(self) -> None:
        release = threading.Event()

        def script(handler: Handler, number: int) -> bool:
            release.wait(20)
            return False

        with server(script) as s:
            error = refusal(openai(s.base_url, timeout=0.15, retries=1))
            release.set()
            assert error.status == 504 and "no whole answer within 0.15 s; tried 2 times" in str(error)
        error = refusal(openai(s.base_url, retries=1))
        assert error.status is None and "the connection failed" in str(error) and "tried 2 times" in str(error)

    def test_no_more_calls_run_at_once_than_allowed(self) -> None:
        async def many(client: Client) -> list[Completion]:
            return await asyncio.gather(*(client.complete((Message("user", str(i)),), Params()) for i in range(9)))

        three = threading.Barrier(3)

        def script(handler: Handler, number: int) -> bool:
            three.wait(20)  # none is answered before three are there
            return False

        with server(script) as s:
            made = asyncio.run(many(openai(s.base_url, concurrency=3)))
            assert [m.text for m in made] == [f"echo: {i}" for i in range(9)] and s.most_at_once == 3


@with_sdk
class TestKeys:
    def test_the_key_is_seen_nowhere(self, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
        """Not in names, representations, logs at any level, or errors, even where the server repeats it."""

        def script(handler: Handler, number: int) -> bool:
            handler.answer(401, {"error": {"message": f"bad key {handler.headers['Authorization']}"}})
            return True

        caplog.set_level(logging.DEBUG)
        for name in ("any_llm", "openai", "httpx", "httpx2", "httpcore2"):
            monkeypatch.setattr(logging.getLogger(name), "level", logging.DEBUG)
        with server(script) as s:
            client = openai(s.base_url)
            error = refusal(client)
        assert s.headers[0]["Authorization"].endswith(KEY) and "bad key Bearer [key]" in str(error)
        shown = " ".join([repr(client), str(client), client.name, repr(error), repr(error.__context__), repr(error.__cause__)])
        assert KEY not in shown and KEY not in caplog.text and caplog.records

    def test_a_variable_of_ones_own(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("MINE", "sk-of-mine")
        with server() as s:
            ask(openai(s.base_url, key_env="MINE"))
        assert s.headers[0]["Authorization"] == "Bearer sk-of-mine"
        with pytest.raises(UserError, match="openai wants a key: set the environment variable NOT_SET$"):
            ask(AnyLLM(provider="openai", model="small", key_env="NOT_SET"))

    def test_where_there_is_none_and_where_none_may_go(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A server of this machine gets a stand-in; one elsewhere over http never sees the key, in the environment or not."""
        from amends.chat.any_llm_session import AnySession

        def key(url: str) -> str:
            return AnySession("openai", url, None, 1, 1)._provider.client.api_key

        assert key("http://example.org/v1") == "none" and key("https://example.org/v1") == KEY
        monkeypatch.delenv("OPENAI_API_KEY")
        with server() as s:
            ask(openai(s.base_url))
        assert s.headers[0]["Authorization"] == "Bearer none"
        with pytest.raises(UserError, match="openai wants a key: set the environment variable OPENAI_API_KEY$"):
            ask(AnyLLM(provider="openai", model="small"))

    def test_an_address_of_the_environment_is_refused(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("OPENAI_BASE_URL", "https://example.org/v1")
        with pytest.raises(UserError, match="OPENAI_BASE_URL sends openai elsewhere: give that address as api_base"):
            ask(AnyLLM(provider="openai", model="small"))


@with_sdk
class TestOtherProviders:
    def test_unknown_ones_and_those_whose_package_is_missing(self) -> None:
        with pytest.raises(UserError, match=r"any-llm knows no provider 'antropic' \(did you mean 'anthropic'\?\)"):
            ask(AnyLLM(provider="antropic", model="m"))
        with pytest.raises(UserError, match=r"voyage has no chat models"):
            ask(AnyLLM(provider="voyage", model="m"))
        if importlib.util.find_spec("mistralai") is None:
            with pytest.raises(UserError, match=r"needs more: pip install 'any-llm-sdk\[mistral\]'$"):
                ask(AnyLLM(provider="mistral", model="m"))

    def test_what_a_provider_has_no_setting_for_is_left_out(self) -> None:
        """Anthropic's own protocol, through Anthropic's own package: it knows no seed, and no log-probabilities."""

        def script(handler: Handler, number: int) -> bool:
            text, usage = [{"type": "text", "text": "Yes"}], {"input_tokens": 8, "output_tokens": 2}
            made = {"id": "m", "type": "message", "role": "assistant", "model": "small", "content": text, "usage": usage}
            handler.answer(200, {**made, "stop_reason": "end_turn", "stop_sequence": None})
            return True

        schema = {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"], "additionalProperties": False}
        with server(script) as s:
            client = AnyLLM(provider="anthropic", model="small", api_base=s.base_url.removesuffix("/v1"))
            for _ in range(2):
                made = ask(client, max_tokens=9, seed=3, top_logprobs=2, stop=("END",), schema=schema)
        assert (made.text, made.finish, made.logprobs) == ("Yes", "stop", None)
        assert (made.usage.prompt_tokens, made.usage.new_tokens) == (8, 2)
        assert len(s.seen) == 2 and not {"seed", "logprobs", "top_logprobs"} & set(s.seen[0])
        assert (s.seen[0]["system"], s.seen[0]["max_tokens"], s.seen[0]["stop_sequences"]) == ("Be brief.", 9, ["END"])
        assert '"additionalProperties": false' in json.dumps(s.seen[0]["output_config"])
        assert s.headers[0]["x-api-key"] == KEY
