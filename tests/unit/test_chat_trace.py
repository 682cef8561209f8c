"""Traces and what answers from them, and all that stands around a client in any order."""

from __future__ import annotations

from pathlib import Path

import pytest
from chat_server import server
from chat_world import Echo, ask

from amends.chat.budget import Budget
from amends.chat.cached import Cached
from amends.chat.client import Client, ClientError
from amends.chat.clients.openai_api import OpenAIAPI
from amends.chat.clients.replay import Replay
from amends.chat.trace import Traced
from amends.core.errors import UserError


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
