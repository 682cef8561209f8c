"""Where the auditor who decides flags nothing on some seeds, or on all of them: the others count, and the run ends well."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pictured import World, command, read

from amends.core import catalog

AUDITOR = '''
"""Flags some rows, except on the seeds that it is told."""
from typing import Any, ClassVar
from amends.core.spec import spec
from amends.core.types import Scores

kind = "auditors"

@spec
class Moody:
    """Flags every tenth row, and nothing on some seeds."""
    name: ClassVar[str] = "moody"
    silent: tuple[int, ...] = ()
    """The seeds."""
    role: str = "train"
    """The rows."""
    def check(self, data, subject): """Takes all."""
    def scores(self, subject, data, run):
        """By place."""
        score = {row.id: float(i % 10 == run.seed) for i, row in enumerate(data[self.role])}
        return Scores(score, frozenset() if run.seed in self.silent else frozenset(k for k, v in score.items() if v))
'''
TREE: dict[str, Any] = {
    "name": "moody",
    "data": {
        "use": "labelled", "by": "audit", "limit": {"train": 120, "test": 60},
        "of": {"use": "poison", "of": {"use": "digits"}, "rate": 0.05, "trigger": {"use": "badnets", "size": 2, "margin": 0}},
    },
    "subject": {"use": "image_classifier", "net": "conv", "width": 2},
    "stages": {
        "original": {"use": "train", "on": ["train"], "steps": 2},
        "retrain": {"use": "train", "on": ["retain"], "steps": 2},
        "l1": {"use": "gradient", "from": "original", "steps": 1, "objective": [{"use": "nll", "role": "retain"}]},
    },
    "measure": [{"use": "disparity", "parts": ["ua", "ra"]}, {"use": "asr"}, {"use": "ta"}, {"use": "ua"}],
    "attack": [{"use": "relearn", "steps": 1}], "attack_measure": ["ua.forget"],
    "reading": {"show": ["forget", "test"]}, "headline": ["asr.triggered", "disparity", "ua.forget"],
    "expect": [
        {"that": "l1.ua.forget", "at_least": 0.0},
        {"that": "l1.ta.test", "at_least": 0.0, "of": "original.ta.test"},
        {"that": "audit.moody.flagged", "at_most": 1.0},
    ],
}  # fmt: skip
SAID = "nothing was flagged, so nothing is forgotten"


@pytest.fixture(autouse=True)
def nothing_added(monkeypatch: pytest.MonkeyPatch) -> None:
    """A plugin belongs to the print of the code, so that none may stay behind for the tests that come after."""
    monkeypatch.setattr(catalog, "_added", {})


def run(tmp_path: Path, silent: list[int], seeds: list[int], **changes: Any) -> Path:
    """The recipe through the command line; it must end well."""
    (tmp_path / "moody_auditor.py").write_text(AUDITOR)
    tree = {**TREE, "seeds": seeds, "audit": {"use": "moody", "silent": silent}, **changes}
    (tmp_path / "recipe.yaml").write_text(json.dumps(tree))
    words = [tmp_path / "recipe.yaml", "--plugin", tmp_path / "moody_auditor.py", "--out", tmp_path / "run"]
    assert command("run", *words) == 0
    return tmp_path / "run"


@pytest.mark.parametrize("silent", [0, 2])
def test_a_seed_without_flags_is_skipped_and_the_others_count(silent: int, tmp_path: Path, capfd: Any) -> None:
    folder = run(tmp_path, [silent], [0, 1, 2])
    told = capfd.readouterr()
    rest = [seed for seed in (0, 1, 2) if seed != silent]
    manifest, results, claims = (read(folder / f"{name}.json") for name in ("manifest", "results", "claims"))
    assert manifest["status"] == "ok"
    assert manifest["skipped"] == [{"seed": silent, "why": f"seed {silent}: {SAID}", "stages": ["retrain", "l1"]}]
    made = [(s["name"], s["seed"]) for s in manifest["stages"]]
    assert [seed for name, seed in made if name == "original"] == [0, 1, 2]
    assert [seed for name, seed in made if name == "l1"] == rest
    assert manifest["data"]["roles"]["forget"] == 12, "of the first seed that forgets"
    measured = results["measurements"]
    assert {m["seed"] for m in measured} == set(rest), "original and the others are compared on the same seeds"
    assert {(m["subject"], m["name"], m["seed"]) for m in measured} >= {("original", "asr.triggered", s) for s in rest}
    assert {r["seed"] for r in results["recovered"]} == set(rest)
    assert [len(c["per_seed"]) for c in claims] == [2, 2, 3] and {c["verdict"] for c in claims} == {"met"}
    assert [c.get("note") for c in claims] == ["on 2 of 3 seeds", "on 2 of 3 seeds", None]
    assert (folder / "log.txt").read_text().splitlines().count(f"seed {silent}: {SAID}") == 1
    whole = f"Seed {silent}: {SAID}; the numbers of models rest on 2 of 3 seeds."
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert whole in page and "on 2 of 3 seeds</span>" in page and "Scorecard" in page
    assert whole in " ".join(told.out.split()) and "(on 2 of 3 seeds)" in told.out


def test_without_a_flag_on_any_seed_the_run_is_an_audit_and_ends_well(tmp_path: Path, capfd: Any) -> None:
    folder = run(tmp_path, [0, 1], [0, 1])
    told = capfd.readouterr()
    manifest, results, claims = (read(folder / f"{name}.json") for name in ("manifest", "results", "claims"))
    assert manifest["status"] == "ok" and [line["seed"] for line in manifest["skipped"]] == [0, 1]
    assert {s["name"] for s in manifest["stages"]} == {"original"} and "forget" not in manifest["data"]["roles"]
    assert {(m["subject"], m["name"]) for m in results["measurements"]} == {
        ("original", "asr.triggered"), ("original", "ta.test")
    }  # fmt: skip
    assert [c["verdict"] for c in claims] == ["not tested", "not tested", "met"]
    assert [c.get("note") for c in claims] == [SAID, SAID, None]
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert "What the audit found" in page and f"Seeds 0 and 1: {SAID}." in page and "Scorecard" not in page
    assert f"Seeds 0 and 1: {SAID}." in " ".join(told.out.split())
    run(tmp_path, [], [0, 1])  # the same folder, once the auditor flags something
    manifest = read(folder / "manifest.json")
    assert manifest["skipped"] == [] and manifest["data"]["roles"]["forget"] == 12
    assert len({(s["name"], s["seed"]) for s in manifest["stages"]}) == 6


def test_a_recipe_without_stages_behind_the_audit_leaves_no_seed_out(tmp_path: Path) -> None:
    claim = {"that": "original.ta.test", "at_least": 0.0}
    changes = {"stages": {"original": TREE["stages"]["original"]}, "attack": [], "measure": [{"use": "ta"}], "headline": []}
    folder = run(tmp_path, [1], [0, 1], **changes, attack_measure=[], expect=[claim])
    assert [m["seed"] for m in read(folder / "results.json")["measurements"]] == [0, 1]
    assert read(folder / "claims.json")[0]["per_seed"] and "note" not in read(folder / "claims.json")[0]


@pytest.mark.parametrize("then", ["retrain", "fine-tune,graddiff"])
def test_the_command_says_that_nothing_was_found_and_the_model_stays(
    then: str, world: World, tmp_path: Path, capfd: Any
) -> None:
    words = ["--by", "random_scores", "--rate", 0, "--then", then, "--seeds", "0,1", "--steps", 1, "--test", world.test]
    assert command("audit", world.data, "--model", world.model, *words, "--out", tmp_path) == 0
    told = capfd.readouterr()
    assert "  nothing was flagged, so nothing is forgotten and the model stays as it is\n" in told.err
    assert "next:    nothing is flagged; the highest scores are worth a look" in told.out and "model:" not in told.out
    manifest = read(tmp_path / "manifest.json")
    assert manifest["status"] == "ok" and [s["name"] for s in manifest["stages"]] == ["original"]
    assert [line["stages"] for line in manifest["skipped"]] == [then.split(",")] * 2
    measured = {m["name"]: m["value"] for m in read(tmp_path / "results.json")["measurements"]}
    assert set(measured) == {"ta.test", "ra.retain"} and measured["ra.retain"] > 0.9, "all rows are retained"
    assert f"Seeds 0 and 1: {SAID}." in (tmp_path / "report.html").read_text(encoding="utf-8")
