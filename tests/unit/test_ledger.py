"""The ledger's book, rows and recipes: what is entered, what is refused before any work, and what a recipe may train on."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from amends.core.errors import UserError
from amends.runs.ledger import Ledger, locked
from amends.runs.ledger_book import FILE, Entry, weights_of
from amends.runs.ledger_rows import Rows, gather, recall
from amends.runs.ledger_tree import HELD, HOLD_WEIGHT, refuse_keeping, request_tree, retest_tree
from amends.runs.recipe import build_recipe

Row = dict[str, Any]
METRICS = ("probability.forget", "probability.retain_aside", "extraction_strength.forget")


def asked(*numbers: int, answer: str = "It is {}.") -> list[Row]:
    """Rows that ask about numbers."""
    return [{"question": f"What is {i}?", "answer": answer.format(i)} for i in numbers]


def write(path: Path, rows: list[Row]) -> Path:
    """A JSON Lines file."""
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return path


def save_model(folder: Path, value: float = 1.0) -> Path:
    """As much of a model's folder as a fingerprint looks at."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text("{}")
    save_file({"w": torch.full((4,), value)}, folder / "model.safetensors")
    return folder


@pytest.fixture
def file(tmp_path: Path) -> Callable[..., Path]:
    """Writes rows that ask about numbers into a file of a name."""
    return lambda name, *numbers: write(tmp_path / f"{name}.jsonl", asked(*numbers))


File = Callable[..., Path]


@pytest.fixture
def ledger(tmp_path: Path, file: File) -> Ledger:
    """A ledger whose base must keep 20 to 29 and 40 to 43."""
    kept = {"retain": file("retain", *range(20, 30)), "neighbour": file("neighbour", *range(40, 44))}
    return Ledger.create(tmp_path / "ledger", str(save_model(tmp_path / "base")), kept)


def begin(ledger: Ledger, rows: Path | None, **changes: Any) -> Entry:
    """Enters a request as the command does."""
    options = {"again": None, "kept": {}, "name": "", "method": "npo", "hold": False, "settings": {}, **changes}
    gathered = gather(rows, "forget") if rows else None
    return ledger.begin(gathered, options.pop("again"), options.pop("kept"), **options)


def finish(ledger: Ledger, entry: Entry, after: float = 0.1) -> Entry:
    """What a run of the request leaves, and its entry."""
    save_model(ledger.folder / entry.folder, after)
    run = ledger.folder / entry.folder / "run"
    run.mkdir()
    measured = [
        {"subject": s, "name": n, "attack": a, "value": v, "low": v, "high": v, "n": 4}
        for s, v in (("original", 0.9), ("npo", after))
        for n in (*METRICS, "mia.loss")
        for a in (None, "relearn")
    ]
    stage = {"name": "npo", "steps": 5, "stopped": None, "seconds": 1.5}
    (run / "manifest.json").write_text(json.dumps({"stages": [{"name": "original"}, stage]}))
    (run / "results.json").write_text(json.dumps({"measurements": measured, "recovered": [{"subject": "npo", "value": 0.2}]}))
    return ledger.finish(entry, run, "npo")


# ---------------------------------------------------------------------- rows


def test_a_row_is_known_by_its_content_whatever_its_file_id_and_spaces(tmp_path: Path) -> None:
    one = gather(write(tmp_path / "a.jsonl", [{"id": "x", "question": "What  is\n1?", "answer": "It is 1."}]), "forget")
    other = gather(write(tmp_path / "b.jsonl", [*asked(2), *asked(1), *asked(1)]), "retain")
    (row,) = one.by_id
    assert row in other.by_id and len(other.by_id) == 2 and other.twice == 1
    assert one.by_id[row]["given"] == "x" and other.by_id[row]["given"] == "retain-0001"
    assert row not in gather(write(tmp_path / "c.jsonl", asked(1, answer="It is not {}.")), "forget").by_id


def test_the_content_of_rows_has_no_order_and_counts_every_field() -> None:
    rows = {"a": {"id": "a", "answer": "x", "given": "1"}, "b": {"id": "b", "answer": "y", "given": "2"}}
    same = Rows({"b": rows["b"], "a": {**rows["a"], "given": "another name"}}, "elsewhere")
    assert Rows(rows, "here").content == same.content
    assert Rows({**rows, "a": {**rows["a"], "keys": ["x"]}}, "here").content != same.content


def test_a_copy_gives_back_what_was_copied_and_nothing_else(tmp_path: Path) -> None:
    odd = {"question": "Which\u2028line\x85break?", "answer": 'None: "é" \U0001f600', "perturbed_answer": ["a"], "keys": ["é"]}
    rows = gather(write(tmp_path / "f.jsonl", [odd, *asked(1, 2)]), "forget")
    kept = rows.write(tmp_path)
    assert recall(tmp_path, kept).by_id == rows.by_id
    assert (kept.count, kept.given) == (3, str(tmp_path / "f.jsonl"))
    copy = tmp_path / kept.file
    text = copy.read_text(encoding="utf-8")
    for changed in (text.replace("It is 1.", "It is 7."), text.splitlines()[0], "{", "[1]", "", text.replace('"id"', '"ID"')):
        copy.write_text(changed, encoding="utf-8")
        with pytest.raises(UserError, match="is not the file that the ledger wrote"):
            recall(tmp_path, kept)
    copy.unlink()
    with pytest.raises(UserError, match="and the ledger needs it"):
        recall(tmp_path, kept)


# ---------------------------------------------------------------------- weights


def test_a_fingerprint_follows_the_weights_and_not_the_place(tmp_path: Path) -> None:
    first, copy, other = (save_model(tmp_path / name, value) for name, value in (("a", 1.0), ("b", 1.0), ("c", 1.5)))
    assert weights_of(str(first)) == weights_of(str(copy)) != weights_of(str(other))
    (copy / "config.json").write_text('{"another": 1}')
    assert weights_of(str(first)) == weights_of(str(copy))
    (tmp_path / "m.gguf").write_bytes(b"GGUF")
    assert len(weights_of(str(tmp_path / "m.gguf"))) == 16
    for name in (str(tmp_path / "no"), "./no", "~/no/such", "a/b/c", "gone.gguf"):
        with pytest.raises(UserError, match="no such folder or file"):
            weights_of(name)


def test_a_name_on_the_hub_is_looked_up_in_the_cache_when_there_is_no_network(tmp_path: Path) -> None:
    commit = "0" * 40
    snapshot = save_model(tmp_path / "hub" / "models--some--model" / "snapshots" / commit)
    refs = tmp_path / "hub" / "models--some--model" / "refs"
    refs.mkdir()
    (refs / "main").write_text(commit)
    code = "import sys; from amends.runs.ledger_book import weights_of; print(weights_of(sys.argv[1]))"
    env = {**os.environ, "HF_HUB_CACHE": str(tmp_path / "hub"), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run([sys.executable, "-c", code, "some/model"], env=env, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == weights_of(str(snapshot))
    lost = subprocess.run([sys.executable, "-c", code, "other/model"], env=env, capture_output=True, text=True, check=False)
    assert "other/model: no such folder, and the hub does not give it (" in lost.stderr


# ---------------------------------------------------------------------- the book


def test_a_book_reads_back_as_it_was_written(ledger: Ledger, file: File) -> None:
    finish(ledger, begin(ledger, file("a", 1, 2), name="Ann", settings={"lr": 1e-4, "steps": None, "set": ["a=1"]}))
    begin(ledger, file("b", 3))
    assert Ledger.open(ledger.folder).book == ledger.book
    assert not [f for f in ledger.folder.rglob("*") if f.name.startswith(".ledger")]
    tree = json.loads((ledger.folder / FILE).read_text())
    assert tree["schema"] == 1
    first, second = tree["requests"]
    assert (first["id"], first["name"], first["status"], first["start"]) == ("r001", "Ann", "done", "base")
    assert first["before"]["probability.forget"]["value"] == 0.9 and first["after"]["probability.forget"]["value"] == 0.1
    assert set(first["after"]) == set(METRICS)
    assert first["recovered"] == [{"subject": "npo", "value": 0.2}]
    assert (second["id"], second["status"], second["start"]) == ("r002", "begun", "r001")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: "{", "not valid JSON"),
        (lambda t: [1], "expected a mapping"),
        (lambda t: {**t, "schema": 2}, "it has schema 2, which a newer amends wrote"),
        (lambda t: {k: v for k, v in t.items() if k != "base"}, "ledger.base: Field required"),
        (lambda t: {**t, "requests": [{**t["requests"][0], "rows": 3}]}, "ledger.requests.0.rows"),
        (lambda t: {**t, "requests": [{**t["requests"][0], "status": "don"}]}, "ledger.requests.0.status"),
        (lambda t: {**t, "surprise": 1}, "ledger.surprise: Book has no such key"),
        (lambda t: {**t, "requests": [{**t["requests"][0], "id": "r002"}]}, "request 1 is called 'r002'"),
        (lambda t: {**t, "requests": [{**t["requests"][0], "start": "r007"}]}, "starts from 'r007'"),
    ],
)
def test_a_damaged_book_is_one_sentence(ledger: Ledger, file: File, change: Callable[[Any], Any], message: str) -> None:
    begin(ledger, file("a", 1))
    path = ledger.folder / FILE
    changed = change(json.loads(path.read_text()))
    path.write_text(changed if isinstance(changed, str) else json.dumps(changed))
    with pytest.raises(UserError) as caught:
        Ledger.open(ledger.folder)
    assert str(caught.value).startswith(f"{path}: this ledger cannot be used (")
    assert message in str(caught.value) and str(caught.value).endswith("; put a good copy back")


def test_there_is_one_ledger_in_a_folder_and_one_writer(ledger: Ledger, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds a ledger already"):
        Ledger.create(ledger.folder, str(tmp_path / "base"), {})
    with pytest.raises(UserError, match="holds no ledger: start one with `amends ledger init"):
        Ledger.open(tmp_path)
    with locked(ledger.folder), pytest.raises(UserError, match="is in use by another command"), locked(ledger.folder):
        pass
    with locked(ledger.folder):
        assert Ledger.open(ledger.folder).book == ledger.book


# ---------------------------------------------------------------------- requests


def test_a_request_starts_from_the_newest_model(ledger: Ledger, file: File, tmp_path: Path) -> None:
    assert (ledger.newest, ledger.model("base")) == ("base", str(tmp_path / "base"))
    first = finish(ledger, begin(ledger, file("a", 1, 2, 3)))
    second = begin(ledger, file("b", 3, 4, 5, 6))
    assert (first.id, first.start, second.id, second.start) == ("r001", "base", "r002", "r001")
    assert second.overlaps == {"r001": 1}
    assert ledger.newest == "r001", "one that has not ended left no model"
    finish(ledger, second)
    assert ledger.newest == "r002" and ledger.model("r002") == str(ledger.folder / "requests" / "r002")
    assert begin(ledger, file("c", 7)).overlaps == {}


def test_an_unfinished_request_goes_on_and_lets_no_other_by(ledger: Ledger, file: File) -> None:
    begun = begin(ledger, file("a", 1, 2), name="Ann")
    again = begin(ledger, file("a in another order", 2, 1), method="simnpo")
    assert (again.id, again.name, again.began, again.method) == ("r001", "Ann", begun.began, "simnpo")
    assert len(ledger.book.requests) == 1
    before = (ledger.folder / FILE).read_bytes()
    with pytest.raises(UserError, match=r"r001 \(Ann\) was begun and has not ended: give its rows .* again to go on"):
        begin(ledger, file("b", 3))
    assert (ledger.folder / FILE).read_bytes() == before


def test_the_same_rows_twice_are_refused_unless_asked_for(ledger: Ledger, file: File) -> None:
    finish(ledger, begin(ledger, file("a", 1, 2)))
    with pytest.raises(UserError, match="r001 forgot exactly these rows"):
        begin(ledger, file("b", 2, 1))
    with pytest.raises(UserError, match=r"no request is called 'r007' \(did you mean 'r001'\?\)"):
        begin(ledger, None, again="r007")
    again = finish(ledger, begin(ledger, None, again="r001"))
    assert (again.id, again.again, again.rows, again.overlaps) == ("r002", "r001", ledger.find("r001").rows, {"r001": 2})
    assert list(ledger.forgotten()) == ["r001"], "made again, it is one request to test"


@pytest.mark.parametrize("role", ["retain", "neighbour", "holdout"])
def test_rows_to_forget_are_never_rows_to_keep(ledger: Ledger, file: File, role: str) -> None:
    finish(ledger, begin(ledger, file("a", 1, 2)))
    before = ledger.book
    with pytest.raises(UserError, match=rf"1 row\(s\) stand in both the forget rows of r001 and the {role} set"):
        begin(ledger, file("b", 3), kept={role: file("again", 2, 50, 51)})
    with pytest.raises(
        UserError, match=rf"2 row\(s\) stand in both the forget rows of r002 and the {role} set .*'What is 60\?', ..."
    ):
        begin(ledger, file("c", 60, 61, 62), kept={role: file("new", 50, 60, 61)})
    assert ledger.book == before
    with pytest.raises(UserError, match="forget rows of r002 and the retain set"):
        begin(ledger, file("d", 25))
    changed = finish(ledger, begin(ledger, file("d", 25), kept={"retain": file("fewer", *range(20, 25), *range(26, 30))}))
    assert ledger.kept()["retain"] == changed.kept["retain"] != ledger.book.kept["retain"], "and so from now on"
    assert ledger.kept()["neighbour"] == ledger.book.kept["neighbour"]


def test_a_model_that_is_gone_or_changed_stops_everything(ledger: Ledger, file: File, tmp_path: Path) -> None:
    save_model(tmp_path / "base", 2.0)
    with pytest.raises(
        UserError, match=r"base: the base model is not what it was \(weights \w{16}, recorded \w{16}\): put it back$"
    ):
        begin(ledger, file("a", 1))
    (tmp_path / "base" / "model.safetensors").unlink()
    with pytest.raises(UserError, match=r"the base model is gone \(.*holds no weights"):
        begin(ledger, file("a", 1))
    save_model(tmp_path / "base")
    finish(ledger, begin(ledger, file("a", 1)))
    (tmp_path / "base" / "model.safetensors").unlink()
    begin(ledger, file("b", 2))  # the base is needed no more
    save_model(ledger.folder / "requests" / "r001", 7.0)
    with pytest.raises(UserError, match="the model of r001 is not what it was .* or take r001 back with `amends ledger undo"):
        begin(ledger, file("b", 2))


def test_an_impossible_request_leaves_no_trace(ledger: Ledger, file: File) -> None:
    before, files = (ledger.folder / FILE).read_bytes(), set((ledger.folder / "rows").iterdir())
    with pytest.raises(UserError, match="no such"), ledger.all_or_nothing():
        begin(ledger, file("a", 1))
        raise UserError("no such thing")
    assert (ledger.folder / FILE).read_bytes() == before
    assert set((ledger.folder / "rows").iterdir()) == files


def test_only_the_last_request_is_taken_back_and_no_id_is_used_twice(ledger: Ledger, file: File) -> None:
    finish(ledger, begin(ledger, file("a", 1)))
    finish(ledger, begin(ledger, file("b", 2)))
    with pytest.raises(UserError, match="r001 cannot be taken back: only the last one can, r002"):
        ledger.withdraw("r001")
    ledger.withdraw("r002")
    assert ledger.newest == "r001" and [e.status for e in ledger.book.requests] == ["done", "withdrawn"]
    with pytest.raises(UserError, match="only the last one can, r001"):
        ledger.withdraw("r002")
    entry = begin(ledger, file("b", 2))
    assert (entry.id, entry.start) == ("r003", "r001")
    ledger.withdraw("r003")
    ledger.withdraw("r001")
    with pytest.raises(UserError, match="none is left"):
        ledger.withdraw("r001")
    assert Ledger.open(ledger.folder).book == ledger.book


# ---------------------------------------------------------------------- recipes


def terms(tree: Row, stage: str = "npo") -> list[tuple[str, str, float]]:
    """Use, role and weight of an objective."""
    return [(t["use"], t["role"], t.get("weight", 1.0)) for t in tree["stages"][stage]["objective"]]


def test_earlier_requests_are_measured_and_not_trained_on(ledger: Ledger, file: File) -> None:
    first = begin(ledger, file("a", 1, 2))
    alone = request_tree(ledger, first, steps=2)
    assert "others" not in alone["data"]
    assert alone["subject"]["name"] == ledger.book.base.name
    finish(ledger, first)
    finish(ledger, begin(ledger, file("b", 3, 4)))
    tree = request_tree(ledger, begin(ledger, file("c", 5)), steps=2)
    assert tree["subject"]["name"] == ledger.model("r002")
    assert list(tree["data"]["others"]) == ["forget_r001", "forget_r002"]
    recipe = build_recipe(tree)
    names = {m.name: m.better for m in recipe.measure}
    for role in ("forget_r001", "forget_r002"):
        assert names[f"probability.{role}"] == names[f"extraction_strength.{role}"] == "lower"
    assert {"probability.forget", "probability.retain_aside", "probability.neighbour"} <= set(names)
    assert terms(tree) == [("npo", "forget", 1.0), ("nll", "retain", 1.0)]
    data = recipe.data.load(0)
    recipe.check_data(data)
    assert {role: len(rows) for role, rows in data.roles.items()} == {
        "forget": 1, "retain": 8, "retain_aside": 2, "neighbour": 4, "forget_r001": 2, "forget_r002": 2,
    }  # fmt: skip


@pytest.mark.parametrize(("method", "pushes"), [("npo", ["npo"]), ("graddiff", ["ascent"]), ("dpo", ["dpo"]), ("idk", ["idk"])])
def test_held_rows_are_pushed_by_the_methods_own_terms_and_kept_by_none(
    ledger: Ledger, file: File, method: str, pushes: list[str]
) -> None:
    finish(ledger, begin(ledger, file("a", 1, 2, 3)))
    finish(ledger, begin(ledger, file("b", 4)))
    entry = begin(ledger, file("c", 3, 5), hold=True, method=method)
    tree = request_tree(ledger, entry, steps=2)
    assert [t for t in terms(tree, method) if t[1] == HELD] == [(push, HELD, HOLD_WEIGHT) for push in pushes]
    assert not [t for t in terms(tree, method) if t[1] not in ("forget", "retain", HELD)]
    recipe = build_recipe(tree)
    refuse_keeping(recipe, method)
    data = recipe.data.load(0)
    recipe.check_data(data)
    assert sorted(s.data["question"] for s in data[HELD]) == [f"What is {i}?" for i in (1, 2, 4)], "3 is asked for now"


def test_the_first_request_has_nothing_to_hold(ledger: Ledger, file: File) -> None:
    entry = begin(ledger, file("a", 1), hold=True)
    assert entry.hold is False
    assert HELD not in str(request_tree(ledger, entry, steps=2))


def test_no_term_may_keep_what_was_forgotten(ledger: Ledger, file: File) -> None:
    finish(ledger, begin(ledger, file("a", 1, 2)))
    tree = request_tree(ledger, begin(ledger, file("b", 3)), steps=2)
    for keeping in ("nll", "kl"):
        tree["stages"]["npo"]["objective"][1] = {"use": keeping, "role": "forget_r001"}
        with pytest.raises(UserError, match="stands on 'forget_r001', rows that an earlier request forgot"):
            refuse_keeping(build_recipe(tree), "npo")
    tree["data"]["retain"] = str(write(ledger.folder / "r.jsonl", asked(2, 30, 31)))
    with pytest.raises(UserError, match="stand in both the forget_r001 and the retain set"):
        build_recipe(tree).data.load(0)


def test_a_test_measures_every_request_and_needs_the_base_for_attacks_alone(ledger: Ledger, file: File) -> None:
    finish(ledger, begin(ledger, file("a", 1, 2)))
    finish(ledger, begin(ledger, file("b", 2, 3)))
    plain = retest_tree(ledger, attack=False)
    assert plain["subject"]["name"] == ledger.model("r002")
    assert list(plain["stages"]) == ["newest"] and not plain["attack"]
    full = retest_tree(ledger, attack=True)
    assert full["subject"]["name"] == ledger.model("base") and full["attack"]
    assert full["stages"]["newest"]["weights"] == ledger.find("r002").weights
    for tree in (plain, full):
        recipe = build_recipe(tree)
        data = recipe.data.load(0)
        recipe.check_data(data)
        assert {r: len(rows) for r, rows in data.roles.items() if r.startswith("forget")} == {
            "forget": 3, "forget_r001": 2, "forget_r002": 2,
        }  # fmt: skip
    save_model(Path(full["stages"]["newest"]["folder"]), 9.0)
    with pytest.raises(UserError, match="holds other weights than those that were asked for"):
        build_recipe(full).check_data(data)
