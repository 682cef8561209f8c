"""Whatever a file holds, reading it gives rows or one sentence: never another exception, never two lines."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from amends.core.errors import UserError
from amends.core.types import Sample
from amends.data.bundle import Bundle
from amends.data.text import KNOWN, default_refusals, read_refusals, read_rows, with_refusals

SUFFIXES = st.sampled_from(["jsonl", "json", "csv", "JSON"])
TEXTS = st.text(st.characters(exclude_categories=[]), max_size=12)  # lone surrogates too
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | TEXTS
VALUES = st.recursive(SCALARS, lambda v: st.lists(v, max_size=3) | st.dictionaries(TEXTS, v, max_size=3), max_leaves=8)
KEYS = st.sampled_from(KNOWN) | TEXTS | st.sampled_from([f"{key}s" for key in KNOWN])
ROWS = st.dictionaries(KEYS, TEXTS | st.lists(TEXTS, max_size=3) | SCALARS, max_size=6)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder for all examples, which write the same file over and over."""
    return tmp_path_factory.mktemp("rows")


def rows_or_one_sentence(path: Path, content: bytes) -> tuple[Sample, ...] | None:
    """Reads, and then does with the rows what a run does first."""
    path.write_bytes(content)
    try:
        rows = read_rows(path, "forget")
    except UserError as error:
        assert len(str(error).splitlines()) == 1
        assert str(error).startswith(str(path))
        return None
    assert isinstance(rows, tuple)
    assert rows
    assert len({row.id for row in rows}) == len(rows)
    with_refusals(Bundle({"forget": rows}), default_refusals(), 0).check().fingerprint()
    return rows


@settings(max_examples=300)
@given(content=st.binary(max_size=200), suffix=SUFFIXES)
@example(content=b"\x00", suffix="csv")
@example(content=b"a\rb", suffix="csv")
@example(content=b"text\n" + b"a" * 200_000, suffix="csv")
@example(content=b"[", suffix="json")
@example(content=b"[{},", suffix="json")
@example(content=b"[" * 50_000, suffix="json")
@example(content=b"\xef\xbb\xbf", suffix="jsonl")
@example(content=b'{"text": -Infinity}', suffix="jsonl")
def test_any_bytes(folder: Path, content: bytes, suffix: str) -> None:
    rows_or_one_sentence(folder / f"r.{suffix}", content)


@settings(max_examples=500)
@given(
    pieces=st.lists(st.sampled_from([*'[]{}",:\\ \n\r\t1-', '"text"', '{"text": "a"}', "\ufeff", "\u2028", "\x00", "text"])),
    suffix=SUFFIXES,
)
def test_any_pieces_of_syntax(folder: Path, pieces: list[str], suffix: str) -> None:
    rows_or_one_sentence(folder / f"r.{suffix}", "".join(pieces).encode())


@settings(max_examples=300)
@given(values=st.lists(VALUES, max_size=4), as_array=st.booleans())
def test_any_json_values(folder: Path, values: list[object], as_array: bool) -> None:
    text = json.dumps(values, indent=1) if as_array else "\n".join(map(json.dumps, values))
    rows_or_one_sentence(folder / "r.json", text.encode())


@settings(max_examples=500)
@given(rows=st.lists(ROWS, min_size=1, max_size=3), as_array=st.booleans())
def test_any_rows(folder: Path, rows: list[dict[str, object]], as_array: bool) -> None:
    text = json.dumps(rows, indent=1) if as_array else "\n".join(map(json.dumps, rows))
    read = rows_or_one_sentence(folder / "r.json", text.encode())
    assert read is None or len(read) == len(rows)


@settings(max_examples=300)
@given(rows=st.lists(st.lists(st.text(max_size=8), min_size=1, max_size=4), max_size=4), head=st.lists(KEYS, max_size=4))
def test_any_csv(folder: Path, rows: list[list[str]], head: list[str]) -> None:
    out = io.StringIO()
    csv.writer(out).writerows([head, *rows])
    rows_or_one_sentence(folder / "r.csv", out.getvalue().encode("utf-8", "replace"))


SOUND = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20).filter(str.strip)


@given(pairs=st.lists(st.tuples(SOUND, SOUND), min_size=1, max_size=5), suffix=st.sampled_from(["jsonl", "json", "csv"]))
def test_sound_rows_come_back_unchanged(folder: Path, pairs: list[tuple[str, str]], suffix: str) -> None:
    rows = [{"question": q, "answer": a} for q, a in pairs]
    if suffix == "csv":
        out = io.StringIO()
        csv.writer(out, quoting=csv.QUOTE_ALL).writerows([["question", "answer"], *pairs])
        text = out.getvalue()
    else:
        text = json.dumps(rows, ensure_ascii=False) if suffix == "json" else "\n".join(map(json.dumps, rows))
    (folder / f"s.{suffix}").write_bytes(text.encode())
    read = read_rows(folder / f"s.{suffix}", "r")
    assert [dict(s.data) for s in read] == rows


@given(content=st.binary(max_size=100))
def test_any_refusals(folder: Path, content: bytes) -> None:
    (folder / "no.txt").write_bytes(content)
    try:
        assert all(line.strip() for line in read_refusals(folder / "no.txt"))
    except UserError as error:
        assert len(str(error).splitlines()) == 1
