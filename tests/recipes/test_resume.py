"""A run that is killed, stopped or changed goes on where it was, and ends where an uninterrupted one ends, bit for bit."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from amends.cli.app import main
from amends.core.errors import UserError
from amends.runs.recipe import Resolved, resolve
from amends.runs.run import execute

LIGHT = [
    "stages.ascent=", "stages.graddiff=", "stages.simnpo=", "subject.width=16", "attack.0.steps=4", "expect=[]",
    "measure=[{use: probability, role: forget}]", "headline=[probability.forget]",
]  # fmt: skip
LONG = [
    *LIGHT, "stages.original.steps=150", "stages.original.checkpoint_every=4", "stages.retrain.steps=10",
    "stages.npo.steps=100", "stages.npo.checkpoint_every=3",
]  # fmt: skip
SHORT = [*LIGHT, "stages.original.steps=6", "stages.retrain.steps=6", "stages.npo.steps=3"]
GIVE_UP = 300.0
"""Seconds after which a process that should have come far has failed."""


def weights(folder: Path) -> dict[str, str]:
    """The sha256 of every stage's weights."""
    return {
        f.parents[1].name: hashlib.sha256(f.read_bytes()).hexdigest()
        for f in sorted(folder.glob("stages/*/model/*.safetensors"))
    }


def manifest(folder: Path) -> Any:
    """The run's manifest."""
    return json.loads((folder / "manifest.json").read_text())


def steps_of(folder: Path, stage: str) -> int:
    """How far a stage has come, by its log."""
    try:
        lines = (folder / "metrics.jsonl").read_text().splitlines(keepends=True)
    except FileNotFoundError:
        return 0
    seen = [json.loads(line) for line in lines if line.endswith("\n")]
    return max((line["step"] for line in seen if line["stage"] == stage), default=0)


@contextlib.contextmanager
def started(recipe: Path, folder: Path, stage: str, step: int) -> Iterator[subprocess.Popen[bytes]]:
    """A run in a process of its own, once its stage has come to a step."""
    command = [sys.executable, "-m", "amends", "run", str(recipe), "--out", str(folder), "--no-report"]
    with subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, stderr=subprocess.PIPE) as process:
        try:
            began = time.monotonic()
            while steps_of(folder, stage) < step:
                assert process.poll() is None, (process.stderr.read().decode() if process.stderr else "")[-2000:]
                assert time.monotonic() - began < GIVE_UP
                time.sleep(0.005)
            yield process
        finally:
            process.kill()


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recipe file whose stages last long enough to be interrupted."""
    file = tmp_path_factory.mktemp("recipe") / "long.yaml"
    file.write_text(resolve("facts", "smoke", LONG).as_yaml())
    return file


@pytest.fixture(scope="module")
def straight(recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same recipe, never interrupted."""
    return execute(resolve(str(recipe)), tmp_path_factory.mktemp("runs") / "straight")


def test_killed_twice_and_run_again_equals_never_killed(recipe: Path, straight: Path, tmp_path: Path) -> None:
    folder = tmp_path / "killed"
    for stage, step in (("original", 10), ("npo", 8)):
        with started(recipe, folder, stage, step) as process:
            process.send_signal(signal.SIGKILL)
            process.wait()
        assert manifest(folder)["status"] == "running"
        begun = next(folder.glob(f"stages/*-{stage}"))
        assert not (begun / "DONE").exists()
        assert (begun / "checkpoint.safetensors").exists()
    execute(resolve(str(recipe)), folder)
    said = (folder / "log.txt").read_text()
    assert "original: resumed at step" in said
    assert "npo: resumed at step" in said
    assert len(weights(folder)) == 3
    assert weights(folder) == weights(straight)
    assert (folder / "results.json").read_bytes() == (straight / "results.json").read_bytes()
    assert (folder / "samples" / "answers.jsonl").read_bytes() == (straight / "samples" / "answers.jsonl").read_bytes()
    assert manifest(folder)["status"] == "ok"
    assert not [f for f in folder.rglob("*") if f.name.startswith("checkpoint") or f.suffix == ".tmp"]


def test_a_terminated_run_says_so_admits_no_second_and_goes_on(
    recipe: Path, straight: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "stopped"
    with started(recipe, folder, "original", 5) as process:
        os.kill(process.pid, signal.SIGSTOP)  # so that it cannot finish before the second has tried
        monkeypatch.setattr(sys, "argv", ["amends", "run", str(recipe), "--out", str(folder)])
        with pytest.raises(SystemExit) as caught:
            main()
        os.kill(process.pid, signal.SIGCONT)
        process.terminate()
        code = process.wait()
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
    assert caught.value.code == 2
    assert errors == [f"error: {folder}: another run is writing here; wait for it, or give another folder"]
    assert not (folder / "report.html").exists()
    assert code != 0
    assert manifest(folder)["status"] == "cancelled"
    monkeypatch.setattr(sys, "argv", ["amends", "resume", str(folder)])
    with pytest.raises(SystemExit) as caught:
        main()
    assert caught.value.code == 0
    assert manifest(folder)["status"] == "ok"
    assert weights(folder) == weights(straight)


def short(*sets: str) -> Resolved:
    """The recipe that lasts seconds, changed."""
    return resolve("facts", "smoke", [*SHORT, *sets])


def made_anew(folder: Path) -> set[str]:
    """The stages that the last run made."""
    return {s["name"] for s in manifest(folder)["stages"] if not s["cached"]}


def test_a_changed_stage_is_made_again_with_what_follows_from_it(tmp_path: Path) -> None:
    folder = execute(short(), tmp_path / "run")
    assert made_anew(folder) == {"original", "retrain", "npo"}
    first = weights(folder)

    execute(short("stages.npo.steps=4"), folder)
    assert made_anew(folder) == {"npo"}
    assert {s for s in first if weights(folder)[s] != first[s]} == {"03-npo"}

    execute(short("stages.original.optim.lr=1e-3", "stages.npo.steps=4"), folder)
    assert made_anew(folder) == {"original", "npo"}

    execute(short("title=another"), folder)
    assert made_anew(folder) == {"original", "npo"}
    assert weights(folder) == first
    assert manifest(folder)["title"] == "another"


def test_a_new_measurement_reads_the_models_again_and_makes_none(tmp_path: Path) -> None:
    folder = execute(short(), tmp_path / "run")
    before = weights(folder)
    more = "measure=[{use: probability, role: forget}, {use: rouge, role: retain}]"
    execute(short(more, "reading.max_new_tokens=3", "reading.show=[forget]"), folder)
    names = {(m["subject"], m["name"]) for m in json.loads((folder / "results.json").read_text())["measurements"]}
    assert {(s, "rouge.retain") for s in ("original", "retrain", "npo")} <= names
    execute(short(more, "reading.max_new_tokens=1", "reading.show=[forget]"), folder)
    shown = [json.loads(line) for line in (folder / "samples" / "answers.jsonl").read_text().splitlines()]
    assert {len(answer.split()) <= 1 for row in shown for answer in row["answers"].values()} == {True}
    assert made_anew(folder) == set()
    assert weights(folder) == before


def test_a_run_that_died_between_saving_and_marking_is_made_whole(tmp_path: Path) -> None:
    folder = execute(short(), tmp_path / "run")
    before, results = weights(folder), (folder / "results.json").read_bytes()
    for stage in folder.glob("stages/*/DONE"):
        (stage.parent / "model.tmp").mkdir()
        (stage.parent / "model.tmp" / "half.safetensors").write_bytes(b"half")
        stage.unlink()
    execute(short(), folder)
    assert weights(folder) == before
    assert (folder / "results.json").read_bytes() == results
    assert not list(folder.rglob("half.safetensors"))


def test_weights_that_were_removed_are_asked_for_in_one_sentence(tmp_path: Path) -> None:
    folder = execute(short(), tmp_path / "run")
    (folder / "stages" / "01-original" / "model" / "model.safetensors").unlink()
    with pytest.raises(
        UserError, match=r"01-original/model: the weights are gone; remove .*01-original to have the stage made"
    ):
        execute(short("stages.npo.steps=4"), folder)
    assert manifest(folder)["status"] == "failed"
    assert manifest(folder)["error"].startswith("UserError: ")


def test_another_recipe_in_the_same_folder_does_not_keep_the_profiles_name(tmp_path: Path) -> None:
    folder = execute(short(), tmp_path / "run")
    assert manifest(folder)["profile"] == "smoke"
    execute(resolve(str(folder / "recipe.yaml")), folder)
    assert manifest(folder)["profile"] == "smoke"
    execute(resolve(str(folder / "recipe.yaml"), None, ["stages.npo.steps=4"]), folder)
    assert manifest(folder)["profile"] is None
