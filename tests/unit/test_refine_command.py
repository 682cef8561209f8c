"""`amends refine` as a user meets it: what is shown, what is refused, and what a stop leaves."""

from __future__ import annotations

import asyncio
import io
import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from chat_server import Handler, chat, server

from amends.chat.client import Completion, Message, Params
from amends.chat.stoppable import Stop, Stoppable
from amends.cli.app import main
from amends.core.shown import shown

pytestmark = pytest.mark.enable_socket
SHEET = """
prompt: Say hi.
constraints:
- {id: c1, text: No commas., use: no_comma}
- {id: c2, text: Three words., use: number_words, args: {num_words: 3, relation: at most}}
"""


class Said(NamedTuple):
    """How a command ended, and what it wrote."""

    code: int
    out: str
    err: str


Amends = Callable[..., Said]


@pytest.fixture
def amends(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Amends:
    """Runs a command in this process, in a folder that holds `sheet.yaml`."""
    (tmp_path / "sheet.yaml").write_text(SHEET)
    (tmp_path / "answer.txt").write_text("Hello there.")
    monkeypatch.chdir(tmp_path)

    def call(*words: object, stdin: bytes = b"") -> Said:
        monkeypatch.setattr(sys, "argv", ["amends", *map(str, words)])
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin), "utf-8", errors="surrogateescape"))
        capsys.readouterr()
        try:
            main()
            code = 0
        except SystemExit as ended:
            code = int(ended.code or 0)
        said = capsys.readouterr()
        return Said(code, said.out, said.err)

    return call


def says(*texts: str) -> Callable[[Handler, int], bool]:
    """A script of answers; the last one goes on."""

    def script(handler: Handler, number: int) -> bool:
        handler.answer(200, chat(texts[min(number, len(texts)) - 1]))
        return True

    return script


def test_control_characters_are_shown_and_not_sent() -> None:
    assert shown("a\tb\r\nc") == "a\tb\nc"
    assert shown("\x1b]0;t\x07\x9b2J\x7f\r") == r"\x1b]0;t\x07\x9b2J\x7f\r"
    assert shown("Grüße, 你好 [bold] \u200d") == "Grüße, 你好 [bold] \u200d"
    shown("\udcff").encode()


def test_an_answer_cannot_command_the_terminal(amends: Amends) -> None:
    wild = "hi\x1b[31m, \x1b]0;title\x07\x9b2J\x08 you [red]and[/red] me"
    with server(says(wild)) as s:
        said = amends(
            "refine", "Say \x1b[2Jhi", "--model", s.base_url, "--sheet", "sheet.yaml", "--no-repair", "--out", "o.json"
        )
    assert not any(ord(c) < 32 and c != "\n" for c in said.out + said.err)
    assert not any(0x7F <= ord(c) < 0xA0 for c in said.out + said.err)
    assert r"hi\x1b[31m" in said.out and "[red]and[/red]" in said.out
    assert json.loads(Path("o.json").read_text())["attempts"][0]["text"] == wild


def test_a_check_cannot_command_the_terminal_either(amends: Amends) -> None:
    Path("answer.txt").write_text("a, \x1b[31mb")
    Path("s.yaml").write_text('constraints: [{id: "\\e[1mc", text: "\\e[31mred", use: no_comma}]')
    said = amends("refine", "--check", "--sheet", "s.yaml", "--answer", "answer.txt")
    assert said.code == 1 and "\x1b" not in said.out + said.err
    bad = amends("refine", "--check", "--sheet", "\x1b[31m.yaml", "--answer", "answer.txt")
    assert bad.code == 2 and "\x1b" not in bad.err


def test_a_second_run_asks_nothing_and_says_so(amends: Amends) -> None:
    with server(says("one two three four", "hi all")) as s:
        words = ("refine", "--model", s.base_url, "--name", "small", "--sheet", "sheet.yaml", "--cache", "c.sqlite")
        first, second = amends(*words), amends(*words)
        assert len(s.seen) == 2
    assert "In all: 2 calls, 14" in first.err
    assert "In all: 2 calls (from the cache), 14" in second.err
    assert first.out == second.out == "hi all\n"


def test_ctrl_c_returns_the_best_so_far(amends: Amends) -> None:
    def script(handler: Handler, number: int) -> bool:
        if number == 1:
            handler.answer(200, chat("hello, my good friends"))
        else:
            os.kill(os.getpid(), signal.SIGINT)
        return True

    before = signal.getsignal(signal.SIGINT)
    with server(script) as s:
        said = amends("refine", "--model", s.base_url, "--sheet", "sheet.yaml", "--out", "o.json")
    assert (said.code, said.out) == (130, "hello my good friends\n")
    assert "stopped by Ctrl-C: this is the best so far" in said.err
    assert len(json.loads(Path("o.json").read_text())["attempts"]) == 2
    assert signal.getsignal(signal.SIGINT) is before


def test_ctrl_c_before_an_answer(amends: Amends) -> None:
    def script(handler: Handler, number: int) -> bool:
        os.kill(os.getpid(), signal.SIGINT)
        return True

    with server(script) as s:
        said = amends("refine", "--model", s.base_url, "--sheet", "sheet.yaml")
    assert (said.code, said.out) == (130, "")
    assert said.err.splitlines()[-1] == "stopped by Ctrl-C before there was an answer"


def test_a_stoppable_client_hands_on_answers_and_failures() -> None:
    class Inner:
        name = "inner"

        async def complete(self, messages: Any, params: Params) -> Completion:
            if messages[0].content == "no":
                raise ValueError("a defect")
            return Completion("yes")

    client = Stoppable(Inner(), Stop())
    assert client.name == "inner"
    assert asyncio.run(client.complete([Message("user", "a")], Params())).text == "yes"
    with pytest.raises(ValueError, match="a defect"):
        asyncio.run(client.complete([Message("user", "no")], Params()))


@pytest.mark.parametrize("option", ["--out", "--save-sheet"])
def test_where_nothing_can_be_written_nothing_is_paid_for(amends: Amends, option: str) -> None:
    with server() as s:
        for path, sentence in (("none/o.json", "there is no folder none"), (".", "is a folder")):
            said = amends("refine", "--model", s.base_url, "--sheet", "sheet.yaml", option, path)
            assert said.code == 2 and f"error: {option} {path}: {sentence}" in said.err
        assert s.seen == []


CHECK = ("--check", "--sheet", "sheet.yaml", "--answer", "answer.txt")
REFUSED: list[tuple[tuple[str, ...], str]] = [
    (("hi", *CHECK), "PROMPT: does nothing beside --check"),
    ((*CHECK, "--judge", "packaged"), "--judge: does nothing beside --check"),
    ((*CHECK, "--save-sheet", "s.yaml"), "--save-sheet: does nothing beside --check"),
    (("hi", "--loose"), "--loose: is for --check alone"),
    (("hi", "--judge-name", "x"), "--judge-name: there is no --judge"),
    (("hi", "--judge", "packaged", "--critic", "programmatic"), "--judge: --critic programmatic asks no model"),
    (("hi", "--name", "x"), "--name: is for a model at a server"),
    (("hi", "--judge", "packaged", "--judge-name", "x"), "--judge-name: is for a model at a server"),
    (("hi", "--model", "http://127.0.0.1:1/v1", "--cache", "c.sqlite"), "and another model may be there tomorrow: give --name"),
    (("hi", "--model", "127.0.0.1:1/v1"), "--model 127.0.0.1:1/v1: is no address"),
    (("hi", "--model", "http//a/v1"), "--model http//a/v1: is no address"),
    (("hi", "--model", "ftp://a/v1"), "--model ftp://a/v1: is no address"),
    (("hi", "--model", "http://127.0.0.1:99999/v1"), "look at its host and port"),
    (("hi", "--model", "http:///v1"), "look at its host and port"),
    (("hi", "--model", "http://127.0.0.1:1/v1/chat/completions"), "give the address up to /v1; the rest is added"),
    (("hi", "--model", "http://127.0.0.1:1/v1", "--judge", "a:1"), "--judge a:1: is no address"),
    (("-", "--answer", "-"), "--answer -: the prompt is read from standard input already"),
    (("hi", "--answer", "none.txt"), "--answer none.txt: cannot be read (No such file or directory): give a text file"),
]


@pytest.mark.parametrize(("words", "sentence"), REFUSED)
def test_what_would_do_nothing_or_cannot_be_done_is_refused(amends: Amends, words: tuple[str, ...], sentence: str) -> None:
    said = amends("refine", *words)
    assert said.code == 2 and said.out == ""
    assert [line for line in said.err.splitlines() if line.startswith("error: ")] == said.err.splitlines()
    assert sentence in said.err


def test_texts_that_are_no_utf_8_and_byte_order_marks(amends: Amends) -> None:
    assert "prompt standard input: is no UTF-8 text" in amends("refine", "-", stdin="Grüße".encode("latin-1")).err
    Path("answer.txt").write_bytes("Grüße".encode("latin-1"))
    assert "--answer answer.txt: is no UTF-8 text" in amends("refine", *CHECK).err
    Path("answer.txt").write_bytes(b'\xef\xbb\xbf"hi"')
    Path("sheet.yaml").write_text("constraints: [{id: a, use: quotation}]")
    assert amends("refine", *CHECK).code == 0


def test_a_gate_that_looks_at_nothing_is_not_green(amends: Amends) -> None:
    Path("sheet.yaml").write_text("constraints: [{id: a, text: Be polite.}]")
    said = amends("refine", *CHECK)
    assert said.code == 2 and "sheet.yaml: holds nothing that code can check" in said.err


def test_a_judge_at_a_server_can_be_cached_by_its_name(amends: Amends) -> None:
    Path("sheet.yaml").write_text("prompt: Hi\nconstraints: [{id: a, text: Be polite.}]")
    with server(says("Good day"), models=["small"]) as s, server(says("It is.\nVerdict: yes")) as judge:
        words = ("--model", s.base_url, "--name", "a", "--judge", judge.base_url, "--judge-name", "b", "--cache", "c.sqlite")
        assert all(amends("refine", "--sheet", "sheet.yaml", *words).code == 0 for _ in range(2))
        assert [len(s.seen), len(judge.seen), judge.seen[0]["model"]] == [1, 1, "b"]


def test_no_answer_at_all_is_one_sentence_with_a_remedy(amends: Amends) -> None:
    def missing(handler: Handler, number: int) -> bool:
        handler.answer(404, {"error": {"message": "no model \x1b[31mb"}})
        return True

    with server(missing, models=["a", "b"]) as s:
        several = amends("refine", "--model", s.base_url, "--sheet", "sheet.yaml")
        wrong = amends("refine", "--model", s.base_url, "--name", "b", "--sheet", "sheet.yaml")
    assert several.code == wrong.code == 2 and several.out == wrong.out == ""
    assert several.err.splitlines()[-1].endswith("it lists 2 models (a, b): name one by --name")
    assert "status 404" in wrong.err.splitlines()[-1] and "\x1b" not in wrong.err


def test_what_refine_kept_is_exported_like_a_run(amends: Amends) -> None:
    with server(says("one, two three", "one two three")) as s:
        words = ("--model", s.base_url, "--sheet", "sheet.yaml", "--no-repair", "--out", "o.json")
        assert amends("refine", *words).out == "one two three\n"
    said = amends("export", "o.json", "--pairs", "p.jsonl", "--critic", "c.jsonl")
    assert (said.code, said.out) == (0, "1 pairs: p.jsonl\n4 rows: c.jsonl\n")
    pair = json.loads(Path("p.jsonl").read_text())
    assert (pair["chosen"], pair["rejected"], pair["gained"]) == ("one two three", "one, two three", ["c1"])
    whole = Path("o.json").read_text()
    for text, sentence in ((whole[:-9], "is no whole JSON file"), ("{}", "not a refined answer"), ("\x00", "is no whole JSON")):
        Path("cut.json").write_text(text)
        said = amends("export", "cut.json", "--pairs", "p2.jsonl")
        assert said.code == 2 and f"error: cut.json: {sentence}" in said.err and not Path("p2.jsonl").exists()


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("export", "nowhere", "--pairs", "p.jsonl"), "nowhere: no such folder or file"),
        (("export", ".", "--pairs", "none/p.jsonl"), "--pairs none/p.jsonl: there is no folder none"),
        (("export", "answer.txt", "--pairs", "p.jsonl", "--stages", "a"), "--stages: answer.txt is one answer"),
        (("proxy", "--to", "127.0.0.1:80/v1"), "--to 127.0.0.1:80/v1: is no address"),
        (("proxy", "--to", "packaged"), "--to packaged: is no address"),
        (("proxy", "--to", "http://a:99999/v1"), "look at its host and port"),
        (
            ("proxy", "--to", "http://127.0.0.1:1/v1", "--plain", "--sheet", "sheet.yaml"),
            "--sheet: does nothing beside --plain",
        ),
    ],
)
def test_mistakes_beside_refine(amends: Amends, words: tuple[str, ...], sentence: str) -> None:
    said = amends(*words)
    assert said.code == 2 and said.err.startswith("error: ") and sentence in said.err


@pytest.mark.parametrize("command", ["refine", "serve", "proxy", "export"])
def test_help_has_examples_one_a_line(amends: Amends, monkeypatch: pytest.MonkeyPatch, command: str) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    lines = [line.strip() for line in amends(command, "--help").out.splitlines()]
    found = [line for line in lines[lines.index("Examples:") :] if line][1:]
    assert len(found) >= 2 and all(line.startswith(f"amends {command}") and "  # " in line for line in found), found
