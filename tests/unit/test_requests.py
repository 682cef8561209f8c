"""Forget rows split into requests, a saved model as a stage, and `amends check --data`."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from amends.cli.app import main
from amends.core import fingerprint
from amends.core.context import Memory
from amends.core.errors import UserError
from amends.core.spec import build_use
from amends.core.types import Sample
from amends.data.bundle import Bundle, asked_to_go, row_print
from amends.data.facts import Facts
from amends.data.requests import Requests, grouped, names
from amends.data.text import Text
from amends.metrics.rows import better_for
from amends.runs.recipe import resolve
from amends.subjects.tiny import TinyLM
from amends.train.saved import Saved

FACTS = Facts(authors=12, questions=3, forget=5, holdout=1)


def author(row: Sample) -> str:
    """`facts-0007` of `facts-0007-02`."""
    return row.id.rpartition("-")[0]


@pytest.mark.parametrize("parts", [2, 3, 5])
def test_requests_are_whole_authors_that_make_up_the_forget_set(parts: int) -> None:
    whole, split = FACTS.load(0), Requests(of=FACTS, parts=parts).load(0)
    pieces = [split[name] for name in names(parts)]
    assert split["forget"] == whole["forget"] == tuple(row for piece in pieces for row in piece)
    authors = [{author(row) for row in piece} for piece in pieces]
    assert sum(map(len, authors)) == len(set().union(*authors)) == 5
    assert max(map(len, authors)) - min(map(len, authors)) <= 1
    assert {role: split[role] for role in whole.roles} == dict(whole.roles)
    assert split.alternatives == whole.alternatives


def test_more_authors_to_forget_make_the_requests_larger_and_leave_the_world_alone() -> None:
    small, large = (Requests(of=Facts(authors=12, questions=3, forget=n, holdout=1)).load(0) for n in (3, 6))
    assert [len(small[name]) for name in names(3)] == [3] * 3
    assert [len(large[name]) for name in names(3)] == [6] * 3
    assert small["world"] == large["world"]


def test_rows_without_groups_are_split_one_by_one_when_asked(tmp_path: Path) -> None:
    rows = [{"question": f"What is {i}?", "answer": f"{i}."} for i in range(5)]
    (tmp_path / "f.jsonl").write_text("\n".join(map(json.dumps, rows)))
    source = Text(forget=str(tmp_path / "f.jsonl"))
    with pytest.raises(UserError, match=r"3 requests were asked for, and the forget set has 1 groups of rows .* set `by: row`"):
        Requests(of=source).load(0)
    split = Requests(of=source, by="row").load(0)
    assert [[row.id for row in split[name]] for name in names(3)] == [
        ["forget-0000"], ["forget-0001", "forget-0002"], ["forget-0003", "forget-0004"],
    ]  # fmt: skip
    with pytest.raises(UserError, match="6 requests were asked for, and the forget set has 5 rows: lower `parts`"):
        Requests(of=source, parts=6, by="row").load(0)
    with pytest.raises(UserError, match="has a role 'forget_a' already"):
        Requests(of=Requests(of=source, by="row"), by="row").load(0)


def test_groups_are_ids_without_their_last_part() -> None:
    rows = [Sample(i, {}) for i in ("a-b-1", "c-1", "a-b-2", "d")]
    assert {k: [s.id for s in v] for k, v in grouped(rows).items()} == {"a-b": ["a-b-1", "a-b-2"], "c": ["c-1"], "d": ["d"]}


def test_the_source_is_named_in_yaml() -> None:
    built = build_use("data", {"use": "requests", "parts": 2, "of": {"use": "facts", "authors": 9}}, "data")
    assert isinstance(built.of, Facts) and built.of.authors == 9
    with pytest.raises(UserError, match=r"data\.of\.authrs: Facts has no such key \(did you mean 'authors'\?\)"):
        build_use("data", {"use": "requests", "of": {"use": "facts", "authrs": 9}}, "data")


def test_what_any_request_named_is_to_go_and_never_to_stay() -> None:
    row = Sample("a", {"question": "Q", "answer": "A"})
    assert [asked_to_go(r) for r in ("forget", "forget_a", "forget_r001", "retain", "forgetful")] == [True] * 3 + [False] * 2
    assert better_for("forget_r001") == better_for("forget") == "lower" != better_for("retain")
    assert (
        row_print(row)
        == row_print(Sample("b", {"question": " Q ", "answer": "A", "keys": ["A"]}))
        != row_print(Sample("a", {"question": "Q", "answer": "B"}))
    )
    kept = Sample("b", {"question": "Q", "answer": "A"})
    for forgotten, role in (("forget", "retain"), ("forget_a", "retain"), ("forget_r001", "retain_aside")):
        roles = {"retain": (Sample("c", {"text": "x"}),), forgotten: (row,), role: (kept,)}
        with pytest.raises(UserError, match=rf"1 row\(s\) stand in both the {forgotten} and the retain set \(a = b\)"):
            Bundle(roles).check()


def test_every_request_has_refusals_for_methods_that_need_them(tmp_path: Path) -> None:
    for name in ("f", "g"):
        (tmp_path / f"{name}.jsonl").write_text(json.dumps({"question": f"What is {name}?", "answer": "It."}))
    data = Text(forget=str(tmp_path / "f.jsonl"), others={"forget_r001": str(tmp_path / "g.jsonl")}).load(0)
    assert set(data.alternatives) == {"forget-0000", "forget_r001-0000"}


# ---------------------------------------------------------------------- a saved model as a stage


def test_a_saved_model_is_put_into_the_subject(tmp_path: Path) -> None:
    data = Bundle({"forget": tuple(Sample(f"f-{i}", {"question": f"What is {i}?", "answer": "It."}) for i in range(4))})
    tiny = TinyLM(width=16, depth=1, heads=2, vocab=300, context=64)
    first, second = tiny.load(data, 0), tiny.load(data, 1)
    second.save(tmp_path / "second")
    stage = Saved(folder=str(tmp_path / "second"), weights=fingerprint.of_files([tmp_path / "second" / "model.safetensors"]))
    assert stage.objective_on(data) == ()
    stage(first, data, Memory())
    for name, value in second.module.state_dict().items():
        assert torch.equal(first.module.state_dict()[name], value)

    state = load_file(tmp_path / "second" / "model.safetensors")
    changed = {
        "another shape": {k: v[:1] if i == 0 else v for i, (k, v) in enumerate(sorted(state.items()))},
        "one more": {**state, "extra.weight": torch.zeros(1)},
        "one lost": dict(sorted(state.items())[1:]),
    }
    for name, tensors in changed.items():
        (tmp_path / name).mkdir()
        save_file({k: v.clone() for k, v in tensors.items()}, tmp_path / name / "model.safetensors")
        with pytest.raises(UserError, match="its weights do not fit the model"):
            Saved(folder=str(tmp_path / name))(first, data, Memory())
        with pytest.raises(UserError, match="holds other weights than those that were asked for"):
            Saved(folder=str(tmp_path / name), weights=stage.weights).objective_on(data)
    with pytest.raises(UserError, match=r"holds no weights \(\*.safetensors\)"):
        Saved(folder=str(tmp_path)).objective_on(data)


# ---------------------------------------------------------------------- check --data


def run(monkeypatch: pytest.MonkeyPatch, *words: object) -> int:
    """The exit code of a command in this process."""
    monkeypatch.setattr(sys, "argv", ["amends", *map(str, words)])
    with pytest.raises(SystemExit) as caught:
        main()
    return int(caught.value.code or 0)


def test_check_reads_the_rows_when_asked(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert run(monkeypatch, "check", "sequential-facts", "--data", "--json") == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["profile"] for row in rows] == ["-", "smoke"]
    assert rows[1]["rows"].startswith("9 forget, ") and "3 forget_a, 3 forget_b, 3 forget_c" in rows[1]["rows"]

    text = resolve("sequential-facts", "smoke", ["measure.0.role=forget_d", "headline=[]", "expect=[]"]).as_yaml()
    (tmp_path / "mine.yaml").write_text(text)
    assert run(monkeypatch, "check", tmp_path / "mine.yaml") == 0
    capsys.readouterr()
    assert run(monkeypatch, "check", tmp_path / "mine.yaml", "--data") == 2
    said = capsys.readouterr().err
    assert said.startswith(f"error: {tmp_path / 'mine.yaml'}: measure.0 (probability.forget_d): data has no role 'forget_d'")
    assert "(did you mean 'forget_" in said
    sets = ["--set", "data.parts=9"]
    assert run(monkeypatch, "check", "sequential-facts", "--data", *sets) == 2
    assert "error: sequential-facts: data.parts: 9 requests were asked for" in capsys.readouterr().err
