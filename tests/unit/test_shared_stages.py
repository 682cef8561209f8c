"""Originals and retrained models that several runs share: made once, taken whole, and changed by nobody else."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from amends.runs.recipe import resolve
from amends.runs.run import execute
from amends.runs.shared import Shared

LIGHT = ["stages.ascent=", "stages.graddiff=", "stages.simnpo=", "stages.original.steps=5", "stages.retrain.steps=4",
         "stages.npo.steps=2", "subject.width=16", "measure=[{use: probability, role: forget}]", "expect=[]",
         "headline=[]", "attack=[{use: relearn, steps: 2}]", "attack_measure=[probability.forget]"]  # fmt: skip


def manifest(folder: Path) -> Any:
    """The run's manifest."""
    return json.loads((folder / "manifest.json").read_text())


def trained(folder: Path) -> set[str]:
    """The stages that this run itself took steps for."""
    path = folder / "metrics.jsonl"
    return {json.loads(line)["stage"] for line in path.read_text().splitlines()} if path.is_file() else set()


def test_a_second_run_takes_the_references_and_gets_the_same_numbers(tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    alone = execute(resolve("facts", "smoke", LIGHT), tmp_path / "alone")
    first = execute(resolve("facts", "smoke", LIGHT), tmp_path / "first", stages=shared)
    second = execute(resolve("facts", "smoke", [*LIGHT, "name=other"]), tmp_path / "second", stages=shared)
    assert trained(first) == {"original", "retrain", "npo", "retrain under relearn", "npo under relearn"}
    assert trained(second) == {"npo", "npo under relearn"}, "references and the attack on the control are taken"
    assert [s["cached"] for s in manifest(second)["stages"]] == [True, True, False]
    for run in (first, second):
        assert (run / "results.json").read_bytes() == (alone / "results.json").read_bytes()
        costs = [{k: s[k] for k in ("weights", "steps")} for s in manifest(run)["stages"]]
        assert costs == [{k: s[k] for k in ("weights", "steps")} for s in manifest(alone)["stages"]]
    assert [s["seconds"] for s in manifest(second)["stages"][:2]] == [s["seconds"] for s in manifest(first)["stages"][:2]]
    changed = execute(resolve("facts", "smoke", [*LIGHT, "stages.retrain.steps=3"]), tmp_path / "first", stages=shared)
    assert trained(changed) >= {"retrain"}
    third = execute(resolve("facts", "smoke", LIGHT), tmp_path / "third", stages=shared)
    assert (third / "results.json").read_bytes() == (alone / "results.json").read_bytes(), "another run's change reaches nobody"
    assert trained(third) == {"npo", "npo under relearn"}


def test_two_runs_at_once_make_the_original_once(tmp_path: Path) -> None:
    sets = [word for s in [*LIGHT, "attack=[]", "stages.original.steps=60"] for word in ("--set", s)]
    command = [sys.executable, "-m", "amends", "run", "facts", "-p", "smoke", *sets, "--no-report"]
    both = [tmp_path / "a", tmp_path / "b"]
    running = [
        subprocess.Popen([*command, "--out", str(out), "--stages", str(tmp_path / "shared")], stderr=subprocess.PIPE)
        for out in both
    ]
    said = [process.communicate()[1].decode() for process in running]
    assert [process.returncode for process in running] == [0, 0], said
    makers = [out for out in both if "original" in trained(out)]
    assert len(makers) == 1
    assert (both[0] / "results.json").read_bytes() == (both[1] / "results.json").read_bytes()


def test_a_folder_without_its_mark_is_not_taken(tmp_path: Path) -> None:
    shared, mine = Shared(tmp_path / "shared"), tmp_path / "mine"
    (tmp_path / "shared" / "k").mkdir(parents=True)
    (tmp_path / "shared" / "k" / "weights").write_text("half")
    with shared.stage("k", mine, "DONE", str):
        assert not mine.exists()
        mine.mkdir()
        for name, text in (("weights", "whole"), ("DONE", "k"), ("checkpoint.safetensors", "c"), (".tmp", "t")):
            (mine / name).write_text(text)
    kept = {f.name: f.read_text() for f in (tmp_path / "shared" / "k").iterdir()}
    assert kept == {"weights": "whole", "DONE": "k"}
    with shared.stage("k", tmp_path / "yours", "DONE", str):
        assert {f.name for f in (tmp_path / "yours").iterdir()} == {"weights", "DONE"}
