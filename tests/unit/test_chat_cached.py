"""The cache around a client, in a file that several processes share, and as a part of a recipe."""

from __future__ import annotations

import asyncio
import dataclasses
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from chat_server import server
from chat_world import Echo, ask, say
from hypothesis import given
from hypothesis import strategies as st

from amends.chat.budget import Budget
from amends.chat.cached import Cached
from amends.chat.client import ClientError, Completion, Message, Params, Usage
from amends.chat.clients.openai_api import OpenAIAPI
from amends.chat.record import digest, request_of
from amends.core.errors import UserError
from amends.core.spec import build_use


def test_a_second_run_makes_no_calls_and_gives_the_same_answers(tmp_path: Path) -> None:
    file = tmp_path / "kept" / "answers.sqlite"
    first, second = Echo(), Echo()
    made = ask(Cached(first, file), "a", "b", "a")
    again = ask(Cached(second, file), "b", "a", "a")
    assert sorted(first.asked) == ["a", "b"] and second.asked == []  # equal calls at once are one
    assert [m.text for m in again] == [made[1].text, made[0].text, made[0].text]
    assert all(
        m.cached and m.usage == Usage(1, 5, 2, cached=1) for m in again
    )  # what they cost once, and that they did not now
    assert (again[0].finish, again[0].logprobs) == (made[1].finish, made[1].logprobs)
    assert len(Cached(second, file)) == 2
    assert [m.cached for m in made] == [False, False, True]


CHANGES = {
    "max_tokens": 7, "temperature": 0.5, "seed": 3, "stop": ("x",), "schema": {"type": "object"}, "top_logprobs": 4,
}  # fmt: skip


def test_every_field_of_the_parameters_is_part_of_the_key(tmp_path: Path) -> None:
    assert set(CHANGES) == {f.name for f in dataclasses.fields(Params)}  # type: ignore[arg-type]
    echo = Echo()
    cached = Cached(echo, tmp_path / "c")
    ask(cached, "a")
    for name, value in CHANGES.items():
        ask(cached, "a", **{name: value})
    assert len(echo.asked) == 1 + len(CHANGES)


def test_client_role_order_and_repetition_are_part_of_the_key() -> None:
    base = request_of("m", say("a"), Params())
    others = [
        request_of("n", say("a"), Params()),
        request_of("m", (Message("system", "a"),), Params()),
        request_of("m", (*say("a"), *say("")), Params()),
        request_of("m", say("a "), Params()),
        request_of("m", say("a"), Params(schema={"x": 1, "y": 2})),
        request_of("m", say("a"), Params(schema={"y": 2, "x": 1})),  # a model writes keys in the order that it is shown
    ]
    keys = [digest(base), digest(base, 1), digest(base, 2), *map(digest, others)]
    assert len(set(keys)) == len(keys)


@given(*[st.lists(st.text('ab,"\\', max_size=3), min_size=1, max_size=3)] * 2)
def test_different_messages_have_different_keys(one: list[str], two: list[str]) -> None:
    def key(texts: list[str]) -> str:
        return digest(request_of("m", [Message("user", t) for t in texts], Params()))

    assert (key(one) == key(two)) == (one == two)


def test_repetitions_are_draws_of_their_own(tmp_path: Path) -> None:
    echo = Echo()
    cached = Cached(echo, tmp_path / "c")
    texts = [ask(cached.again(n), "a", temperature=1.0)[0].text for n in (0, 1, 2, 1)]
    assert texts == ["a/1", "a/2", "a/3", "a/2"]


def test_a_failed_call_is_not_kept(tmp_path: Path) -> None:
    echo = Echo(fails_on="a")
    cached = Cached(echo, tmp_path / "c")
    for _ in range(2):
        with pytest.raises(ClientError):
            ask(cached, "a")
    assert echo.asked == ["a", "a"]


def test_a_caller_that_goes_away_leaves_the_call_to_the_next(tmp_path: Path) -> None:
    async def go() -> Completion:
        cached = Cached(Echo(turns=20), tmp_path / "c")
        first = asyncio.create_task(cached.complete(say("a"), Params()))
        second = asyncio.create_task(cached.complete(say("a"), Params()))
        await asyncio.sleep(0)
        first.cancel()
        return await second

    assert asyncio.run(go()).text == "a/2"


def foreign(path: Path) -> None:
    """Another program's database."""
    with sqlite3.connect(path) as file:
        file.execute("CREATE TABLE other (x)")
    file.close()


@pytest.mark.parametrize(
    ("write", "cause"),
    [
        (lambda p: p.write_bytes(b"no database at all, but long enough to be read as one" * 40), "file is not a database"),
        (foreign, "is another program's database"),
        (lambda p: p.mkdir(), "unable to open"),
    ],
)
def test_a_file_that_is_no_cache_is_refused_in_one_sentence(tmp_path: Path, write: Any, cause: str) -> None:
    path = tmp_path / "c"
    write(path)
    with pytest.raises(UserError, match=cause) as caught:
        Cached(Echo(), path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_a_cache_that_breaks_later_is_said_as_well(tmp_path: Path) -> None:
    path = tmp_path / "c"
    cached = Cached(Echo(), path)
    ask(cached, "a")
    with sqlite3.connect(path) as file:
        file.execute("UPDATE answers SET answer = '{\"text\": 3}'")
    file.close()
    with pytest.raises(UserError, match="is damaged"):
        ask(cached, "a")
    path.write_bytes(path.read_bytes()[:100] + b"\xff" * 5000)
    with pytest.raises(UserError, match="cache .*c: "):
        ask(cached, "a")


FILL = """
import asyncio, sys
from pathlib import Path
from amends.chat.cached import Cached
from amends.chat.client import Completion, Message, Params

class Echo:
    def __init__(self, name): self.name = name
    async def complete(self, messages, params):
        await asyncio.sleep(0)
        return Completion(sys.argv[2])

async def go():
    for name in ("one", sys.argv[2]):
        cached = Cached(Echo(name), Path(sys.argv[1]))
        made = [cached.complete([Message("user", str(i))], Params()) for i in range(20)]
        await asyncio.gather(*made)

asyncio.run(go())
"""


def test_two_processes_write_one_cache(tmp_path: Path) -> None:
    """They begin with a file that is not there, and ask the same things and things of their own."""
    path = tmp_path / "c"
    started = [
        subprocess.Popen([sys.executable, "-c", FILL, str(path), f"p{i}"], stderr=subprocess.PIPE, text=True) for i in range(2)
    ]
    for process in started:
        assert process.communicate(timeout=60)[1] == "" and process.returncode == 0
    echo = Echo(name="one")
    kept = ask(Cached(echo, path), *(f"{i}" for i in range(20)))
    assert echo.asked == [] and len(Cached(echo, path)) == 60
    assert {m.text for m in kept} <= {"p0", "p1"}


def test_a_model_that_the_server_chooses_cannot_be_cached(tmp_path: Path) -> None:
    unnamed = OpenAIAPI(base_url="http://127.0.0.1:9/v1")
    with pytest.raises(UserError, match="name it"):
        Cached(Budget(unnamed, calls=3), tmp_path / "c")


@pytest.mark.enable_socket
def test_a_recipe_can_keep_the_answers_of_a_judge(tmp_path: Path) -> None:
    with server() as s:
        inner = {"use": "openai_api", "base_url": s.base_url, "model": "small"}
        kept = [
            build_use("clients", {"use": "kept", "file": str(tmp_path / "k.sqlite"), "of": inner}, "client") for _ in range(2)
        ]
        first, second = (ask(client, "a", "b") for client in kept)
        assert [c.text for c in first] == [c.text for c in second] and len(s.seen) == 2
        assert [c.usage.cached for c in second] == [1, 1] and [c.usage.calls for c in second] == [1, 1]
        assert kept[0].name == kept[0].of.name
