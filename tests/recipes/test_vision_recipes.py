"""A classifier's run from end to end: the order that must come out, the roles of the page, references of one's own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from amends.core.errors import UserError
from amends.report.build import build, context
from amends.report.load import load
from amends.runs.recipe import build_recipe, resolve
from amends.runs.run import execute

FASTER = [
    "seeds=[0]", "stages.original.steps=200", "stages.retrain.steps=200", "attack=", "attack_measure=",
    "subject.augment=",
]  # fmt: skip
"""The digits recipe with all its rows and one seed, in about half a minute."""


def values(folder: Path) -> dict[str, dict[str, float]]:
    """stage -> measurement -> value."""
    found: dict[str, dict[str, float]] = {}
    for m in json.loads((folder / "results.json").read_text())["measurements"]:
        found.setdefault(m["subject"], {})[m["name"]] = m["value"]
    return found


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return execute(resolve("digits-class", None, FASTER), tmp_path_factory.mktemp("runs") / "digits")


def test_the_order_is_the_papers(digits: Path) -> None:
    """vision's safe claims: the original knows the class, the retrained model does not and keeps the rest, and what is done
    to the forget rows comes closer to it than nothing."""
    found = values(digits)
    assert found["original"]["ua.forget"] < 0.05 and found["original"]["mia_efficacy.confidence"] < 0.2
    assert found["retrain"]["ua.forget"] == found["retrain"]["ua.test_forget"] == 1.0
    assert found["retrain"]["mia_efficacy.confidence"] > 0.95
    assert found["retrain"]["ta.test"] > 0.95 and found["retrain"]["ra.retain"] > 0.98
    assert found["nothing"] == found["original"]
    assert found["retrain"]["disparity"] == 0 < found["graddiff"]["disparity"] < 0.5 * found["nothing"]["disparity"]
    assert found["nothing"]["disparity"] > 0.4


def test_the_manifest_says_that_rows_have_labels_and_that_the_class_left_the_test_set(digits: Path) -> None:
    data = json.loads((digits / "manifest.json").read_text())["data"]
    assert data["kind"] == "labels" and data["classes"] == list("0123456789")
    assert any("test rows left `test`" in note for note in data["notes"])
    rows = [json.loads(line) for line in (digits / "samples" / "answers.jsonl").read_text().splitlines()]
    assert {r["role"] for r in rows} == {"forget", "test_forget", "test"}
    assert all(r["expected"] == "3" and r["answers"]["retrain"] != "3" for r in rows if r["role"] == "forget")


def test_the_page_speaks_of_classes(digits: Path) -> None:
    shown = context(load(digits))
    assert shown["verdict"].sentence.startswith("Of 3 methods, graddiff is the closest to the retrained model")
    assert "doing nothing:" in shown["verdict"].sentence
    card = shown["card"]
    names = [h.name for h in card.heads]
    cells = {q.name: dict(zip(names, q.cells, strict=True)) for q in card.questions}
    assert cells["Effectiveness"]["nothing"][0].word == "much is left"
    assert cells["Effectiveness"]["graddiff"][0].word in ("little is left", "some is left")
    assert [line.word for line in cells["Locality"]["retrain"]] == ["100\N{NO-BREAK SPACE}% kept"]
    assert shown["price"] is not None and "disparity" in str(shown["price"].picture)
    told = " ".join([*shown["not_tested"], *card.notes])
    for of_text in ("paraphrase", "wording", "language", "multihop", "neighbour", "questions"):
        assert of_text not in told
    page = build(digits).read_text(encoding="utf-8")
    assert "closer to the retrained model is better" in page and "MIA-efficacy" in page


def tree(**stages: Any) -> dict[str, Any]:
    """A recipe of two originals and what is given."""
    train = {"use": "train", "on": ["retain"], "steps": 2}
    both = {"original": {**train, "on": ["forget", "retain"]}, "retrain": train}
    return {
        "name": "small", "question": "Does it?", "data": {"use": "labelled", "of": {"use": "digits"}, "classes": [1]},
        "subject": {"use": "image_classifier", "width": 2}, "stages": {**both, **stages}, "measure": [{"use": "disparity"}],
    }  # fmt: skip


def test_a_stage_may_be_compared_with_a_model_of_its_own(tmp_path: Path) -> None:
    other = {"use": "train", "on": ["retain"], "steps": 3, "kind": "retrain"}
    both = {"plain": {"use": "nothing", "from": "original"}, "own": {"use": "nothing", "from": "original", "against": "sparse"}}
    file = tmp_path / "small.yaml"
    file.write_text(json.dumps(tree(sparse=other, **both)))
    folder = execute(resolve(str(file)), tmp_path / "run")
    rows = json.loads((folder / "results.json").read_text())["measurements"]
    notes = {m["subject"]: m["note"] for m in rows}
    assert notes["plain"] != notes["own"] and values(folder)["retrain"]["disparity"] == 0
    assert (
        next(s for s in json.loads((folder / "manifest.json").read_text())["stages"] if s["name"] == "own")["against"]
        == "sparse"
    )
    with pytest.raises(UserError, match=r"stages.own.against: no stage is called 'sparce' \(did you mean 'sparse'"):
        build_recipe(tree(sparse=other, own={"use": "nothing", "from": "original", "against": "sparce"}))


def test_a_planted_backdoor_is_measured_and_forgotten(tmp_path: Path) -> None:
    trigger = {"use": "badnets", "size": 2, "margin": 0}
    source = {"use": "poison", "of": {"use": "digits"}, "target": 0, "rate": 0.1, "trigger": trigger}
    sgd = {"use": "sgd", "lr": 0.1, "momentum": 0.9, "schedule": "cosine"}
    recipe = tree()
    recipe["data"] = {"use": "labelled", "of": source, "by": "poisoned"}
    recipe["subject"]["width"] = 8
    recipe["stages"]["original"] |= {"steps": 150, "batch": 64, "optim": sgd}
    recipe["stages"]["retrain"] |= {"steps": 150, "batch": 64, "optim": sgd}
    recipe["measure"] = [{"use": "asr"}, {"use": "ta"}, {"use": "ua"}]
    file = tmp_path / "backdoor.yaml"
    file.write_text(json.dumps(recipe))
    found = values(execute(resolve(str(file)), tmp_path / "run"))
    assert found["original"]["asr.triggered"] > 0.8 and found["original"]["ta.test"] > 0.9
    assert found["retrain"]["asr.triggered"] < 0.1


def test_texts_run_through_the_same_recipe(tmp_path: Path) -> None:
    recipe = tree(plain={"use": "nothing", "from": "original"})
    recipe["data"] = {"use": "labelled", "of": {"use": "topics", "topics": 4, "rows": 30}, "classes": ["topic-2"]}
    recipe["subject"] = {"use": "text_classifier", "width": 32, "depth": 1}
    for name in ("original", "retrain"):
        recipe["stages"][name] |= {"steps": 80, "batch": 32, "optim": {"use": "adamw", "lr": 3e-3}}
    recipe["measure"] = [{"use": "disparity"}, {"use": "ua"}, {"use": "ta"}]
    file = tmp_path / "texts.yaml"
    file.write_text(json.dumps(recipe))
    folder = execute(resolve(str(file)), tmp_path / "run")
    found = values(folder)
    assert found["original"]["ua.forget"] < 0.1 and found["retrain"]["ua.forget"] == 1.0
    assert found["plain"]["disparity"] > 0.3 and build(folder).is_file()
