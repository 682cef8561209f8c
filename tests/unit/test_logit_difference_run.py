"""ULD in a run: made, attacked, taken up again, and handed over by the command."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM
from uld_world import DATA, tokens

from amends.cli.app import main
from amends.runs.recipe import build_recipe, resolve
from amends.runs.run import execute
from amends.subjects.logit_difference import LogitDifferenceForCausalLM

# ---------------------------------------------------------------------- in a run


def test_a_run_makes_it_attacks_it_and_takes_it_up_again(tmp_path: Path) -> None:
    tree = {
        "name": "uld", "title": "t", "question": "q?",
        "data": {"use": "facts", "authors": 4, "questions": 3, "forget": 1, "holdout": 0},
        "subject": {"use": "tiny_lm", "width": 16, "depth": 2, "heads": 2, "vocab": 300},
        "stages": {
            "original": {"use": "train", "on": ["forget", "retain"], "steps": 4},
            "uld": {"use": "logit_difference", "from": "original", "blocks": 2, "rank": 2, "steps": 3},
            "plain": {"use": "logit_difference", "from": "original", "blocks": 1, "rank": 2, "steps": 3, "distil": 2},
            "after": {
                "use": "gradient", "from": "uld", "steps": 2, "objective": [{"use": "npo", "role": "forget"}, {"use": "kl"}],
            },
        },
        "reading": {"max_new_tokens": 4, "show": ["forget"]},
        "measure": [{"use": "probability", "role": "forget"}],
        "attack": [{"use": "relearn", "steps": 2}],
        "attack_measure": ["probability.forget"],
    }  # fmt: skip
    path = tmp_path / "uld.yaml"
    path.write_text(json.dumps(tree))
    build_recipe(tree)
    folder = execute(resolve(str(path)), tmp_path / "run")
    stages = {s["name"]: s for s in json.loads((folder / "manifest.json").read_text())["stages"]}
    assert "leave the assistant out" in stages["uld"]["suppression"]
    assert "suppression" not in stages["plain"]
    first = json.loads((folder / "results.json").read_text())
    made = folder / "stages" / "02-uld" / "model"
    assert json.loads((made / "config.json").read_text())["architectures"] == ["LogitDifferenceForCausalLM"]
    for reading in folder.rglob("reading.json.gz"):
        reading.unlink()
    execute(resolve(str(path)), folder)  # every model is loaded from its folder now
    assert json.loads((folder / "results.json").read_text()) == first


def test_the_command_hands_over_a_folder_that_transformers_loads(
    learnt: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    files = {}
    for role in ("forget", "retain"):
        files[role] = tmp_path / f"{role}.jsonl"
        files[role].write_text("\n".join(json.dumps(dict(s.data)) for s in DATA[role]))
    words: list[Any] = [
        learnt, "--forget", files["forget"], "--retain", files["retain"], "--method", "uld", "--epochs", 2,
        "--set", "reading.max_new_tokens=4", "--set", "stages.uld.rank=4", "--out", tmp_path / "out",
    ]  # fmt: skip
    monkeypatch.setattr(sys, "argv", ["amends", "unlearn", *map(str, words)])
    with pytest.raises(SystemExit) as caught:
        main()
    said = capsys.readouterr()
    assert (caught.value.code or 0) == 0, said.err
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert type(model) is LogitDifferenceForCausalLM
    target = AutoModelForCausalLM.from_pretrained(learnt)
    assert torch.equal(model.target(tokens()).logits, target(tokens()).logits)
    assert "uld" in said.out
    assert (tmp_path / "out" / "README.md").is_file()
    assert "suppressed" in (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
