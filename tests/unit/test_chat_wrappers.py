"""What stands around a client: cache, budget, trace, replay, and many prompts at once."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import sqlite3
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from chat_server import server
from hypothesis import given
from hypothesis import strategies as st

from amends.chat.budget import Budget, most_tokens
from amends.chat.cached import Cached
from amends.chat.client import BudgetSpent, Client, ClientError, Completion, Message, Params, Usage
from amends.chat.clients.openai_api import OpenAIAPI
from amends.chat.clients.replay import Replay
from amends.chat.pool import Book, mapped
from amends.chat.record import digest, request_of
from amends.chat.trace import Traced
from amends.core.errors import UserError
from amends.core.spec import build_use


@dataclass
class Echo:
    """A client that repeats the last message after some turns of the loop, and says what it was asked."""

    name: str = "echo"
    cost: Usage = field(default_factory=lambda: Usage(1, 5, 2))
    asked: list[str] = field(default_factory=list)
    fails_on: str | None = None
    turns: int = 3
    hangs: bool = False

    async def complete(self, messages: Sequence[Message], params: Params) -> Completion:
        self.asked.append(messages[-1].content)
        if self.hangs:
            await asyncio.Event().wait()
        for _ in range(self.turns):
            await asyncio.sleep(0)
        if messages[-1].content == self.fails_on:
            raise ClientError("http://x, small: no", 500)
        return Completion(f"{messages[-1].content}/{len(self.asked)}", self.cost, "length", {"a": -1.5})


def say(text: str) -> tuple[Message, ...]:
    """One user message."""
    return (Message("user", text),)


def ask(client: Client, *texts: str, **params: Any) -> list[Completion]:
    """All at once, in one event loop."""

    async def go() -> list[Completion]:
        return await asyncio.gather(*(client.complete(say(t), Params(**params)) for t in texts))

    return asyncio.run(go())


# ---------------------------------------------------------------------- cache


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


# ---------------------------------------------------------------------- budget


@given(st.integers(0, 12), st.integers(1, 9), st.integers(0, 4))
def test_calls_are_never_more_than_allowed_however_many_come_at_once(allowed: int, wanted: int, turns: int) -> None:
    echo = Echo(turns=turns)

    async def go() -> list[Any]:
        budget = Budget(echo, calls=allowed)
        return await asyncio.gather(*(budget.complete(say("a"), Params()) for _ in range(wanted)), return_exceptions=True)

    made = asyncio.run(go())
    assert len(echo.asked) == min(allowed, wanted)
    assert sum(isinstance(m, BudgetSpent) for m in made) == max(0, wanted - allowed)


@given(st.integers(0, 1200), st.lists(st.tuples(st.integers(1, 60), st.integers(0, 9)), min_size=1, max_size=8))
def test_tokens_are_never_more_than_allowed(allowed: int, calls: list[tuple[int, int]]) -> None:
    """Whatever each answer costs, up to the limits that it was asked with."""

    class Costly:
        name = "costly"
        spent = 0

        async def complete(self, messages: Sequence[Message], params: Params) -> Completion:
            new, turns = params.max_tokens, params.seed
            for _ in range(turns):
                await asyncio.sleep(0)
            prompt = most_tokens(messages, params) - params.max_tokens
            Costly.spent += prompt + new
            return Completion("x", Usage(1, prompt, new))

    Costly.spent = 0
    budget = Budget(Costly(), tokens=allowed)

    async def go() -> list[Any]:
        each = (budget.complete(say("a"), Params(max_tokens=m, seed=t)) for m, t in calls)
        return await asyncio.gather(*each, return_exceptions=True)

    made = asyncio.run(go())
    assert Costly.spent <= allowed and budget.spent.prompt_tokens + budget.spent.new_tokens == Costly.spent
    assert all(isinstance(m, (Completion, BudgetSpent)) for m in made)
    assert budget._aside == Usage()


def test_what_was_set_aside_and_not_used_is_given_back() -> None:
    """Calls may cost 100 at most and cost 7: one after another all four fit into 120, and at once they wait for it."""
    params = {"max_tokens": 27}
    assert most_tokens(say("a"), Params(**params)) == 100
    for at_once in (True, False):
        budget = Budget(Echo(), tokens=121)
        made = ask(budget, *"abcd", **params) if at_once else [m for t in "abcd" for m in ask(budget, t, **params)]
        assert len(made) == 4 and budget.spent.prompt_tokens + budget.spent.new_tokens == 28
    with pytest.raises(BudgetSpent, match=r"the 99 tokens that were allowed .* 0 calls and 0 tokens were spent"):
        ask(Budget(Echo(), tokens=99), "a", **params)


def test_a_server_that_tells_no_usage_is_charged_the_most() -> None:
    budget = Budget(Echo(cost=Usage(1)), tokens=250)
    ask(budget, "a", max_tokens=27)
    assert budget.spent.prompt_tokens + budget.spent.new_tokens == 100


def test_seconds_end_a_call_that_is_under_way_and_forbid_the_next() -> None:
    echo = Echo(hangs=True)
    budget = Budget(echo, seconds=0.3)
    for _ in range(2):
        with pytest.raises(BudgetSpent, match="the 0.3 seconds"):
            ask(budget, "a")
    assert echo.asked == ["a"]


def test_failed_and_cancelled_calls_are_calls() -> None:
    budget = Budget(Echo(fails_on="a"), calls=2)
    with pytest.raises(ClientError):
        ask(budget, "a")
    assert budget.spent == Usage(1)

    async def cancelled() -> None:
        await asyncio.wait_for(Budget(Echo(hangs=True), calls=2).complete(say("a"), Params()), 0.01)

    with pytest.raises(TimeoutError):  # the caller's own, not the budget's
        asyncio.run(cancelled())


def test_cached_answers_cost_nothing(tmp_path: Path) -> None:
    """Inside the cache a budget is asked for nothing that is kept; outside it has to allow a call before it knows."""
    inside = Cached(Budget(Echo(), calls=1), tmp_path / "c")
    assert len([ask(inside, "a") for _ in range(5)]) == 5
    with pytest.raises(BudgetSpent):
        ask(inside, "b")
    outside = Budget(Cached(Echo(), tmp_path / "c"), calls=1)
    assert len(ask(outside, *"aaaaa")) == 5 and outside.spent == Usage()


# ---------------------------------------------------------------------- traces


def test_a_replay_equals_the_run(tmp_path: Path) -> None:
    path = tmp_path / "t" / "trace.jsonl"
    traced = Traced(Echo(fails_on="bad"), path)
    made = ask(traced, "a", "b", "a", temperature=0.5) + ask(traced, "ü\n\u2028\ud800"[:3], seed=4)
    with pytest.raises(ClientError):
        ask(traced, "bad")
    again = Replay(path=path)
    assert again.name == "echo"
    assert sorted(m.text for m in ask(again, "a", "b", "a", temperature=0.5)) == sorted(m.text for m in made[:3])
    assert ask(again, "ü\n\u2028", seed=4) == made[3:]
    with pytest.raises(ClientError, match="small: no") as caught:
        ask(again, "bad")
    assert caught.value.status == 500


def test_what_was_not_asked_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "trace.jsonl"
    ask(Traced(Echo(), path), "a")
    again = Replay(path=path)
    with pytest.raises(ClientError, match=r"asked never: 'b' with Params\("):
        ask(again, "b")
    with pytest.raises(ClientError, match="asked never"):
        ask(again, "a", seed=1)
    ask(again, "a")
    with pytest.raises(ClientError, match="asked 1 times only"):
        ask(again, "a")


def test_traces_of_several_clients(tmp_path: Path) -> None:
    path = tmp_path / "trace.jsonl"
    for name in ("one", "two"):
        ask(Traced(Echo(name=name), path), "a")
    with pytest.raises(UserError, match=r"2 clients: name one as `client` \(one, two\)"):
        ask(Replay(path=path), "a")
    assert ask(Replay(path=path, client="two"), "a")[0].text == "a/1"
    with pytest.raises(UserError, match="no call of 'three'"):
        ask(Replay(path=path, client="three"), "a")


def test_a_line_that_was_cut_off_is_left_out_and_other_damage_is_named(tmp_path: Path) -> None:
    path = tmp_path / "trace.jsonl"
    ask(Traced(Echo(), path), "a", "b")
    whole = path.read_text()
    path.write_text(whole[:-20])
    assert ask(Replay(path=path), "a")[0].text == "a/2"
    path.write_text("{}\n" + whole)
    with pytest.raises(UserError, match=r"trace .*trace.jsonl, line 1: is no recorded call"):
        ask(Replay(path=path), "a")
    with pytest.raises(UserError, match="no such file"):
        ask(Replay(path=tmp_path / "none"), "a")


def test_they_nest_in_any_order(tmp_path: Path) -> None:
    for order in range(6):
        folder = tmp_path / str(order)
        wraps = [
            lambda c, f=folder: Cached(c, f / "c"),
            lambda c: Budget(c, calls=9, tokens=9000),
            lambda c, f=folder: Traced(c, f / "t"),
        ]
        wraps = wraps[order % 3 :] + wraps[: order % 3]
        if order > 2:
            wraps.reverse()
        client: Client = Echo()
        for wrap in wraps:
            client = wrap(client)
        assert isinstance(client, Client) and client.name == "echo"
        assert [m.text for m in ask(client, "a") + ask(client, "a")] == ["a/1", "a/1"]


@pytest.mark.enable_socket
def test_no_key_is_in_a_trace_or_a_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret-of-a-user")
    with server() as s:
        client = Traced(Cached(OpenAIAPI(base_url=s.base_url, model="small"), tmp_path / "c"), tmp_path / "t")
        ask(client, "a")
        assert s.headers[0]["Authorization"] == "Bearer sk-secret-of-a-user"
    for file in tmp_path.iterdir():
        assert b"sk-secret" not in file.read_bytes()


# ---------------------------------------------------------------------- many at once


def book(path: Path) -> Book[str]:
    """Texts in a file."""
    return Book(path, lambda text: text, str)


def run_mapped(echo: Client, texts: list[str], **options: Any) -> list[Any]:
    """Texts of the outcomes, or their errors."""

    async def work(text: str) -> str:
        return (await echo.complete(say(text), Params())).text.split("/")[0]

    made = asyncio.run(mapped(work, texts, **options))
    return [m.value if m.error is None else type(m.error).__name__ for m in made]


def test_a_failure_leaves_the_others_and_a_second_run_does_only_what_failed(tmp_path: Path) -> None:
    texts, path = list("abcde"), tmp_path / "book.jsonl"
    ended: list[int] = []
    options = {"keys": texts, "book": book(path), "at_once": 2, "done": lambda i, _: ended.append(i)}
    assert run_mapped(Echo(fails_on="c"), texts, **options) == ["a", "b", "ClientError", "d", "e"]
    assert sorted(ended) == [0, 1, 2, 3, 4]
    path.write_text(path.read_text() + '{"key": "c", "va')  # killed while it wrote
    echo = Echo()
    assert run_mapped(echo, texts, **options) == texts
    assert echo.asked == ["c"]
    assert [json.loads(line)["key"] for line in path.read_text().splitlines()][-1] == "c"


def test_after_the_budget_nothing_more_is_begun() -> None:
    echo = Echo()
    assert run_mapped(Budget(echo, calls=3), list("abcdefgh"), at_once=2).count("BudgetSpent") == 5
    assert len(echo.asked) == 3


@given(st.integers(1, 5), st.integers(0, 9))
def test_no_more_are_under_way_than_allowed_and_order_is_kept(at_once: int, num: int) -> None:
    now = most = 0

    async def work(i: int) -> int:
        nonlocal now, most
        now += 1
        most = max(most, now)
        for _ in range((i * 7) % 5):
            await asyncio.sleep(0)
        now -= 1
        return i

    made = asyncio.run(mapped(work, list(range(num)), at_once))
    assert [m.value for m in made] == list(range(num))
    assert most <= at_once


def test_a_defect_ends_the_map_as_itself_and_a_damaged_book_is_named(tmp_path: Path) -> None:
    async def broken(text: str) -> str:
        raise UserError("one sentence")

    with pytest.raises(UserError, match="one sentence"):
        asyncio.run(mapped(broken, ["a", "b"]))
    (tmp_path / "b").write_text('{"key": "a"}\n')
    with pytest.raises(UserError, match="line 1: is no finished item"):
        run_mapped(Echo(), ["a"], keys=["a"], book=book(tmp_path / "b"))


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
