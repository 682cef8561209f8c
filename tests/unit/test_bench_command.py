"""`amends bench` and the listing of methods: a bench runs, names its gaps and goes on; mistakes are one sentence."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from bench_world import Amends, written

from amends.runs.bench import benches
from amends.runs.methods import packaged_methods
from amends.runs.recipe import packaged


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """The bench as a file."""
    return written(tmp_path)


def test_a_bench_runs_names_its_gaps_and_goes_on(
    amends: Amends, file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["bench", file, "--methods", "npo,dpo,idk", "--seeds", 2, "--jobs", 2, "--json"]
    code, out, err = amends(*words, "--set", "settings.idk={objective.0.role: neighbour}")
    assert code == 0, err
    found = json.loads(out)
    assert found == json.loads((tmp_path / "results" / "tiny.json").read_text())
    lines = {x["method"]: x for x in found["leaderboard"]}
    assert {m: x["metrics"]["forget_distance"] is not None for m, x in lines.items()} == {
        "npo": True,
        "dpo": False,
        "idk": False,
    }
    assert set(lines["npo"]["metrics"]["probability.forget"]["by_seed"]) == {"0", "1"}
    assert lines["npo"]["cost"]["peak_bytes"]["mean"] > 0
    assert (lines["npo"]["missing"], lines["npo"]["cost"]["steps"]) == ([], [2])
    assert "nothing" in lines["dpo"]["missing"][0]["why"] and lines["dpo"]["missing"][0]["seeds"] == "0, 1"
    assert "neighbour" in lines["idk"]["missing"][0]["why"]
    assert [(s["name"], s["seed"]) for s in found["stages"]] == [
        ("original", 0), ("retrain", 0), ("retrain", 1), ("npo", 0), ("npo", 1),
    ]  # fmt: skip
    assert {m["name"]: m["tuned"] for m in found["methods"]}["npo"]["epochs"] == 2
    assert found["command"].endswith("--methods npo,dpo,idk --seeds 2 --set 'settings.idk={objective.0.role: neighbour}'")
    assert found["notes"] == []
    assert str(tmp_path) not in out + (tmp_path / "results" / "tiny.html").read_text()
    (root,) = (tmp_path / "runs").iterdir()
    taken = json.loads((root / "npo" / "manifest.json").read_text())["stages"]
    assert all(s["cached"] for s in taken if s["kind"] != "unlearned"), "made once, by the references"
    _goes_on(amends, words, tmp_path, lines["npo"])


def _goes_on(amends: Amends, words: list[object], tmp_path: Path, npo: dict[str, Any]) -> None:
    """The same command with the mistakes mended: what was made stays, what was missing is there."""
    marks = {f: f.stat().st_mtime_ns for f in tmp_path.glob("runs/*/*/stages/*/DONE")}
    assert len(marks) >= 3 + 5
    code, out, err = amends(*words, "--set", "settings.dpo={steps: 1}")
    assert code == 0, err
    lines = {x["method"]: x for x in json.loads(out)["leaderboard"]}
    assert all(x["missing"] == [] for x in lines.values())
    assert lines["dpo"]["cost"]["steps"] == [1]
    assert {f: f.stat().st_mtime_ns for f in marks} == marks
    assert lines["npo"]["metrics"] == npo["metrics"]
    page = (tmp_path / "results" / "tiny.html").read_text()
    assert "Nothing: every method that was asked for left every number" in page


def test_a_bench_without_references_is_one_sentence(amends: Amends, file: Path, tmp_path: Path) -> None:
    lost = ["--set", "subject={use: hf, name: /no/such/model}"]
    code, _, err = amends("bench", file, "--methods", "npo", "--seeds", 1, "--runs", tmp_path / "runs", *lost)
    assert code == 2
    last = err.splitlines()[-1]
    assert "/references: the references could not be made (" in last and "no such folder" in last
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["bench", "tofuu"], "no bench is called 'tofuu' (did you mean 'tofu'?)"),
        (["bench", "none.yaml"], "none.yaml: no such bench file"),
        (["bench", "tofu", "-p", "smok"], "tofu: no profile is called 'smok' (did you mean 'smoke'?)"),
    ],
)
def test_a_mistake_on_the_command_line_is_named(amends: Amends, words: list[str], message: str) -> None:
    code, _, err = amends(*words)
    assert code == 2 and message in err.splitlines()[-1]


def test_a_method_that_does_not_exist_is_named(amends: Amends, file: Path) -> None:
    code, _, err = amends("bench", file, "--methods", "npo,simnop")
    assert code == 2 and "simnop: no such method (did you mean 'simnpo'?)" in err.splitlines()[-1]


def test_listings_show_cost_and_recipe(amends: Amends) -> None:
    code, out, _ = amends("methods", "--json")
    rows = {row["method"]: row for row in json.loads(out)}
    assert code == 0 and set(rows) == set(packaged_methods(None))
    assert rows["npo"]["cost"] == "2 forwards + 2 backwards a step (2 x fine-tuning); once: 1 pass over the forget rows"
    assert (rows["npo-kl"]["forwards"], rows["npo-kl"]["backwards"], rows["npo-kl"]["copies"]) == (4, 2, 1)
    for row in rows.values():
        kind, _, name = row["recipe"].rpartition(" ")
        assert name in (benches() if kind == "bench" else packaged()) or (row["for"] == "classifier" and not name)
    assert rows["ascent"]["recipe"] == "tofu-small"
    _, text, _ = amends("methods")
    assert text.splitlines()[0].split() == ["method", "for", "paper", "needs", "cost", "recipe", "what"]
