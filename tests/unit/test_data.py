"""Rows from files, refusals, and what a bundle refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from amends.core import catalog, spec
from amends.core.errors import UserError
from amends.core.types import Sample
from amends.data.bundle import Bundle
from amends.data.rows import numbered_rows
from amends.data.text import Text, default_refusals, read_refusals, read_rows, with_refusals


def write(path: Path, *rows: Any) -> str:
    """JSON Lines; a string row goes in as it is."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(r if isinstance(r, str) else json.dumps(r) for r in rows) + "\n", encoding="utf-8")
    return str(path)


def qa(i: int, **more: Any) -> dict[str, Any]:
    return {"question": f"What is number {i}?", "answer": f"It is {i}.", **more}


def test_the_catalog_finds_the_sources_and_no_other() -> None:
    language = {"facts", "folders", "requests", "stories", "text", "tofu"}
    labelled = {
        "labelled",
        "poison",
        "digits",
        "fashion_mnist",
        "hub",
        "image_folder",
        "mnist5k",
        "npz",
        "tiny_imagenet",
        "torchvision",
    }
    labelled |= {"noisy", "joined"}
    texts = {"newsgroups", "text_classes", "topics"}
    instructed = {"real_requests", "ifeval", "ifbench", "info_bench", "follow_bench", "wild_ifeval", "critic_rows"}
    others = {"patterns", "links", "devices"}
    assert {entry.name for entry in catalog.list_kind("data")} == language | labelled | texts | instructed | others
    assert all(entry.summary for entry in catalog.list_kind("data"))


# ---------------------------------------------------------------------- rows


@pytest.mark.parametrize("suffix", ["jsonl", "json", "array.json", "csv"])
def test_the_same_rows_come_out_of_every_format(tmp_path: Path, suffix: str) -> None:
    rows = [qa(0, perturbed_answer=["It, is 1.", 'It "is" 2.'], keys=["0"]), qa(1, id="mine")]
    path = tmp_path / f"rows.{suffix}"
    if suffix == "csv":
        wrong = json.dumps(rows[0]["perturbed_answer"]).replace('"', '""')
        path.write_text(
            "\ufeffid, question,answer,perturbed_answer,keys\r\n"
            f',What is number 0?,It is 0.,"{wrong}","[""0""]"\r\n\r\nmine,What is number 1?,It is 1.,,\r\n',
            encoding="utf-8",
            newline="",
        )
    else:
        path.write_text(
            json.dumps(rows, indent=2) if "array" in suffix else "\n\n".join(map(json.dumps, rows)), encoding="utf-8"
        )
    expected = (Sample("forget-0000", rows[0]), Sample("mine", {k: rows[1][k] for k in ("question", "answer")}))
    assert read_rows(path, "forget") == expected


def test_completions_are_answers_and_foreign_fields_stay_behind(tmp_path: Path) -> None:
    path = write(
        tmp_path / "r.jsonl",
        {"prompt": "Once", "completion": " upon a time", "source": "tales", "answers": 3},
        {"text": "A plain text.", "id": 7, "keys": None, "perturbed_answer": []},
        {"prompt": "Twice", "answer": " told", "paraphrased_answer": " said"},
    )
    assert read_rows(Path(path), "r") == (
        Sample("r-0000", {"prompt": "Once", "answer": " upon a time"}),
        Sample("7", {"text": "A plain text."}),
        Sample("r-0002", {"prompt": "Twice", "answer": " told", "paraphrased_answer": " said"}),
    )


def test_a_line_separator_inside_a_string_ends_no_row(tmp_path: Path) -> None:
    (tmp_path / "r.jsonl").write_text('{"text": "one\u2028two\x85three"}\n{"text": "four"}', encoding="utf-8")
    assert [s.data["text"] for s in read_rows(tmp_path / "r.jsonl", "r")] == ["one\u2028two\x85three", "four"]


def test_rows_of_an_array_know_their_lines(tmp_path: Path) -> None:
    (tmp_path / "r.json").write_text('\n[ {"text":\n"a"},\n\n {"text": "b"}, 3\n]\n', encoding="utf-8")
    assert [line for line, _ in numbered_rows(tmp_path / "r.json")] == [2, 5, 5]


BAD_ROWS = [
    ("r.jsonl", "", "r.jsonl: holds no rows"),
    ("r.csv", "question,answer\n", "r.csv: holds no rows"),
    ("r.txt", "a", "r.txt: rows are read from files that end in .jsonl, .json or .csv"),
    ("r.jsonl", '{"text": "a"}\n{"text": }', "r.jsonl:2: not valid JSON at column 10 (Expecting value)"),
    ("r.json", '[{"text": "a"},\n {"text": }]', "r.json:2: not valid JSON at column 11 (Expecting value)"),
    ("r.json", '[{"text": "a"}\n {"text": "b"}]', "r.json:2: not valid JSON (expected ',' or ']' after a row)"),
    ("r.json", '[{"text": "a"}]\n[]', "r.json:2: not valid JSON (something follows the closing ']')"),
    ("r.jsonl", '{"text": "a"}\n"b"', "r.jsonl:2: a row must be an object"),
    ("r.jsonl", '{"text": NaN}', "r.jsonl:1: key 'text' must be a non-empty string, not a number"),
    ("r.jsonl", '{"question": "a", "answer": " "}', "r.jsonl:1: key 'answer' must be a non-empty string, not an empty one"),
    ("r.jsonl", '{"question": "a", "answer": null}', "r.jsonl:1: key 'answer' must be a non-empty string, not null"),
    ("r.jsonl", '{"text": "a", "keys": "b"}', "r.jsonl:1: key 'keys' must be a list of non-empty strings, not a string"),
    ("r.jsonl", '{"text": "a", "keys": [""]}', "r.jsonl:1: key 'keys' must be a list of non-empty strings, not an empty one"),
    ("r.jsonl", '{"text": "a", "id": true}', "r.jsonl:1: key 'id' must be a non-empty string or a whole number"),
    ("r.jsonl", '{"text": "\\ud800"}', "r.jsonl:1: key 'text' holds half of a surrogate pair"),
    ("r.jsonl", '{"text": "a", "perturbed_answers": []}', "(did you mean 'perturbed_answer'?)"),
    ("r.jsonl", '{"question": "a", "anwser": "b"}', "this one has 'question', 'anwser' (did you mean 'answer' by 'anwser'?)"),
    ("r.jsonl", "{}", "a row needs question + answer, prompt + completion, prompt + answer or text; this one has no keys"),
    ("r.jsonl", '{"text": "a", "id": 1}\n{"text": "b", "id": "1"}', "r.jsonl:2: id '1' stands on line 1 already"),
    ("r.jsonl", "[" * 100_000, "r.jsonl:1: JSON nested too deeply"),
    ("r.jsonl", '{"text": ' + "1" * 5000 + "}", "r.jsonl:1: a number has too many digits"),
    ("r.csv", "text,text\na,b", "r.csv:1: the header names column 'text' more than once"),
    ("r.csv", "question,answer\na,b\nc", "r.csv:3: 1 cell(s) where the header names 2"),
    ("r.csv", "question,answer\na,b\nc,", "r.csv:3: key 'answer' must be a non-empty string, not null"),
    ("r.csv", 'text\n"a', "r.csv:2: not valid CSV"),
    ("r.csv", "text,keys\na,b", "r.csv:2: not valid JSON at column 1"),
]


@pytest.mark.parametrize(("name", "content", "message"), BAD_ROWS)
def test_a_bad_file_is_one_sentence_with_file_and_line(tmp_path: Path, name: str, content: str, message: str) -> None:
    (tmp_path / name).write_text(content, encoding="utf-8")
    with pytest.raises(UserError) as error:
        read_rows(tmp_path / name, "forget")
    assert message in str(error.value)
    assert len(str(error.value).splitlines()) == 1


def test_bytes_that_are_not_utf8_are_located(tmp_path: Path) -> None:
    (tmp_path / "r.jsonl").write_bytes(b'{"text": "a"}\n{"text": "\xff"}')
    with pytest.raises(UserError, match=r"r\.jsonl:2: not UTF-8 text \(byte 0xff at offset 24\)"):
        read_rows(tmp_path / "r.jsonl", "forget")


@pytest.mark.parametrize(("name", "message"), [("none.jsonl", "no such file"), ("dir.jsonl", "is a folder")])
def test_what_is_no_file_is_said_so(tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / "dir.jsonl").mkdir()
    with pytest.raises(UserError, match=message):
        read_rows(tmp_path / name, "forget")


# ---------------------------------------------------------------------- Text


def test_text_brings_roles_refusals_and_notes(tmp_path: Path) -> None:
    forget = write(tmp_path / "f.jsonl", *(qa(i) for i in range(4)), {"text": "No question here."})
    other = write(tmp_path / "o.jsonl", *(qa(i) for i in range(10, 15)))
    bundle = spec.build(Text, {"forget": forget, "retain": other, "others": {"paraphrase": other}, "limit": 4}, "data").load(0)
    assert {role: len(rows) for role, rows in bundle.roles.items()} == {"forget": 4, "retain": 4, "paraphrase": 4}
    assert "forget: 4 of 5 rows are used, spread evenly over the file" in bundle.notes
    assert len(bundle.notes) == 3
    whole = Text(forget=forget, retain=other).load(0)
    assert set(whole.alternatives) == {f"forget-000{i}" for i in range(4)}
    refused = whole.alternatives["forget-0002"]
    assert refused.id == "forget-0002/refusal"
    assert refused.data["question"] == "What is number 2?"
    assert refused.data["answer"] in default_refusals()
    assert whole.notes == ()


def test_text_without_a_retain_set_says_so_plainly(tmp_path: Path) -> None:
    bundle = Text(forget=write(tmp_path / "f.jsonl", qa(1))).load(0)
    assert "retain" not in bundle
    assert any("no retain set was given" in note for note in bundle.notes)


def test_own_refusals_replace_the_packaged_ones(tmp_path: Path) -> None:
    refusals = tmp_path / "no.txt"
    refusals.write_text("\nI would not know.\r\n\n", encoding="utf-8")
    bundle = Text(forget=write(tmp_path / "f.jsonl", qa(1), qa(2)), refusals=str(refusals)).load(3)
    assert {s.data["answer"] for s in bundle.alternatives.values()} == {"I would not know."}
    refusals.write_text("\n \n", encoding="utf-8")
    with pytest.raises(UserError, match="holds no refusals"):
        read_refusals(refusals)


def test_a_role_with_a_field_of_its_own_is_no_other(tmp_path: Path) -> None:
    forget = write(tmp_path / "f.jsonl", qa(1))
    with pytest.raises(UserError, match=r"data\.others\.retain: .* set data\.retain"):
        Text(forget=forget, others={"retain": forget}).load(0)


def test_a_packaged_path_that_is_not_there_is_refused() -> None:
    with pytest.raises(UserError, match=r"package:nowhere/none\.jsonl: the package brings no such data file"):
        Text(forget="package:nowhere/none.jsonl").load(0)


def test_the_overlap_of_forget_and_retain_is_counted_and_named(tmp_path: Path) -> None:
    forget = write(tmp_path / "f.jsonl", *(qa(i) for i in range(5)))
    spaced = {"question": " What is  number 1? ", "answer": "It is 1."}
    retain = write(tmp_path / "r.jsonl", qa(9), spaced, qa(3), {"question": qa(2)["question"], "answer": "Another."})
    with pytest.raises(UserError, match=r"^2 row\(s\) .*forget-0001 = retain-0001, forget-0003 = retain-0002\)"):
        Text(forget=forget, retain=retain).load(0)


def test_an_id_names_one_row_over_all_roles() -> None:
    a, b = Sample("1", qa(1)), Sample("1", qa(2))
    with pytest.raises(UserError, match="id '1' names one row in role 'forget' and another in role 'retain'"):
        Bundle({"forget": (a,), "retain": (b,)}).check()
    assert Bundle({"retain": (b,), "retain_eval": (Sample("1", qa(2, keys=["2"])),)}).check()
    with pytest.raises(UserError, match="role 'forget': id '1' stands on 3 rows"):
        Bundle({"forget": (a, a, a)}).check()


def test_a_refusal_depends_on_seed_and_id_alone() -> None:
    rows = tuple(Sample(f"f-{i}", qa(i)) for i in range(60))
    lines = default_refusals()
    first = with_refusals(Bundle({"forget": rows}), lines, 0).alternatives
    part = with_refusals(Bundle({"forget": rows[:5:-1]}), lines, 0).alternatives
    assert all(first[i] == s for i, s in part.items())
    other = with_refusals(Bundle({"forget": rows}), lines, 1).alternatives
    assert sum(first[i] != other[i] for i in first) > 40
    assert len({s.data["answer"] for s in first.values()}) > 20


def test_packaged_refusals_are_many_distinct_single_sentences() -> None:
    lines = default_refusals()
    assert len(set(lines)) == len(lines) >= 40
    assert all(line.endswith(".") and line.count(".") == 1 and line.isascii() for line in lines)
