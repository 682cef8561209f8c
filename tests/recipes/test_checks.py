"""Mistakes are one sentence and a code of 2 before any work; files that a stage reads belong to what made it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from amends.attribution.magnitude import Magnitude
from amends.attribution.random import Random
from amends.cli.app import main
from amends.core import fingerprint
from amends.core.context import Memory
from amends.core.protocols import Start
from amends.edits.weight_mask import WeightMask
from amends.engine.check import hollow
from amends.runs.recipe import resolve
from amends.subjects.tiny import TinyLM
from amends.train.saved import Saved

Tree = dict[str, Any]
NPO = [{"use": "npo", "role": "forget"}, {"use": "nll", "role": "retain"}]


def command(*words: object) -> int:
    """The exit code of a command in this process, through the console script's own function."""
    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit) as caught:
        patch.setattr(sys, "argv", ["amends", *map(str, words)])
        main()
    assert isinstance(caught.value.code, int)
    return caught.value.code


def tree_of(**stage: Any) -> Tree:
    """A recipe of two stages, the second with these settings."""
    second = {"use": "gradient", "from": "original", "steps": 1, "objective": NPO, **stage}
    return {
        "name": "checks",
        "data": {"use": "facts", "authors": 4, "questions": 3, "forget": 1, "holdout": 0},
        "subject": {"use": "tiny_lm", "width": 16, "depth": 2, "heads": 2, "vocab": 300},
        "stages": {"original": {"use": "train", "on": ["forget", "retain"], "steps": 2}, "second": second},
        "reading": {"show": []},
        "measure": [{"use": "probability", "role": "forget"}],
        "attack_measure": ["probability.forget"],
    }


def mask(path: Path, depth: int = 2, by: Any = None) -> str:
    """A mask file for the recipe's model, or for one that is deeper."""
    tree = tree_of()
    recipe = resolve(str(written(tree, path.parent / f"{path.stem}.yaml"))).recipe
    data = recipe.data.load(0)
    subject = TinyLM(width=16, depth=depth, heads=2, vocab=300).load(data, 0)
    edit = WeightMask(by=by or Magnitude(), keep=0.5)
    edit.init(dict(subject.module.named_parameters()), Start(subject, data, Memory(folder=path.parent / path.stem)))
    (path.parent / path.stem / "mask.safetensors").replace(path)
    return str(path)


def written(tree: Tree, path: Path) -> Path:
    path.write_text(json.dumps(tree))
    return path


def refusal(tree: Tree, tmp_path: Path, capfd: Any) -> str:
    """What the command says, known to be one sentence, before any step of any stage."""
    path = written(tree, tmp_path / "recipe.yaml")
    code = command("run", str(path), "--out", str(tmp_path / "run"), "--no-report")
    said = capfd.readouterr().err
    assert code == 2, said
    assert not (tmp_path / "run" / "metrics.jsonl").exists() and not list((tmp_path / "run").glob("stages/*/DONE"))
    (line,) = [line for line in said.splitlines() if line.startswith("error: ")]
    assert "Traceback" not in said
    return line


def gone(folder: Path) -> Tree:
    return {"edits": [{"use": "weight_mask", "file": str(folder / "gone.safetensors")}]}


def torn(folder: Path) -> Tree:
    whole = Path(mask(folder / "torn.safetensors"))
    whole.write_bytes(whole.read_bytes()[:-10])
    return {"edits": [{"use": "weight_mask", "file": str(whole)}]}


def another(folder: Path) -> Tree:
    return {"edits": [{"use": "weight_mask", "file": mask(folder / "deep.safetensors", depth=3)}]}


def fixed(**stage: Any) -> Callable[[Path], Tree]:
    return lambda folder: stage


LORA = {"rank": 2}


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (gone, "gone.safetensors: no such mask file"),
        (torn, "torn.safetensors: not the mask.safetensors that a weight_mask wrote"),
        (another, "deep.safetensors: the mask is for another model, which has a weight 'model.layers.2."),
        (fixed(edits=["weight_mask"], lora=LORA), "weight_mask: a mask over weights does not act on the factors of an adapter"),
        (fixed(edits=[{"use": "weight_mask", "skip": ["*embde*"]}]), "weight_mask.skip: no weight is called '*embde*'"),
        (fixed(edits=[{"use": "freeze", "only": ["*down_prj*"]}]), "freeze: no weight is called '*down_prj*'"),
        (fixed(edits=[{"use": "freeze", "only": ["*q_prj*"]}], lora=LORA), "freeze: no weight is called '*q_prj*'"),
        (
            fixed(edits=[{"use": "only_blocks", "only": ["*w1*"]}]),
            "only_blocks: no weight of the blocks up to 0 matches ['*w1*']",
        ),
        (fixed(edits=[{"use": "only_blocks", "layer": 7}]), "there is no block 7: the model has 2"),
        (fixed(edits=[{"use": "freeze", "but": ["*"]}]), "nothing to train: every parameter is frozen"),
        (fixed(edits=[{"use": "freeze", "but": ["*"]}, "weight_mask"]), "weight_mask: no weight is left to score"),
        (fixed(lora={"rank": 2, "targets": ["nowhere"]}), "lora.targets: "),
    ],
)
def test_a_mistake_in_a_stages_edits_is_said_before_the_original_is_trained(
    settings: Callable[[Path], Tree], words: str, tmp_path: Path, capfd: Any
) -> None:  # fmt: skip
    line = refusal(tree_of(**settings(tmp_path)), tmp_path, capfd)
    assert line.startswith("error: stages.second: ") and words in line


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (
            {"blocks": 3},
            "stages.second: an assistant of 3 block(s), 0 of them shared, does not fit a model of 2: give at most 2",
        ),
        ({"blocks": 1, "shared": 1}, "and fewer shared ones than blocks"),
    ],
)
def test_an_assistant_that_does_not_fit_is_said_before_the_original_is_trained(
    settings: Tree, words: str, tmp_path: Path, capfd: Any
) -> None:  # fmt: skip
    tree = tree_of()
    tree["stages"]["second"] = {"use": "logit_difference", "from": "original", "steps": 1, **settings}
    assert words in refusal(tree, tmp_path, capfd)


def test_edits_of_an_attack_are_checked_too(tmp_path: Path, capfd: Any) -> None:
    tree = tree_of() | {"attack": [{"use": "relearn", "steps": 1, "edits": [{"use": "freeze", "only": ["*nowhere*"]}]}]}
    assert "attack.0: freeze: no weight is called '*nowhere*'" in refusal(tree, tmp_path, capfd)


def test_good_edits_pass_and_stages_behind_a_reshaped_model_check_themselves(tmp_path: Path) -> None:
    tree = tree_of(edits=[{"use": "only_blocks", "before": 0}, {"use": "weight_mask", "by": "random"}])
    tree["stages"] |= {
        "lora": {**tree["stages"]["second"], "lora": LORA, "edits": [{"use": "freeze", "only": ["*lora_B*"]}]},
        "uld": {"use": "logit_difference", "from": "original", "blocks": 1, "rank": 2, "steps": 1},
        "after": {**tree["stages"]["second"], "from": "uld", "edits": [{"use": "freeze", "only": ["*lora_*"]}]},
    }
    path = written(tree, tmp_path / "recipe.yaml")
    assert command("run", str(path), "--out", str(tmp_path / "run"), "--no-report") == 0


@pytest.mark.parametrize("kind", ["lm_world", "classifier_world"])
def test_a_hollow_model_has_names_and_shapes_and_leaves_the_real_one_alone(kind: str, request: pytest.FixtureRequest) -> None:
    subject = request.getfixturevalue(kind).make()
    before = {n: (p.shape, p.requires_grad) for n, p in subject.module.named_parameters()}
    twin = hollow(subject)
    assert {n: (p.shape, p.requires_grad) for n, p in twin.module.named_parameters()} == before
    assert all(p.is_meta for p in twin.module.parameters())
    twin.module.requires_grad_(False)
    assert {n: (p.shape, p.requires_grad) for n, p in subject.module.named_parameters()} == before
    assert not any(p.is_meta for p in subject.module.parameters())


# ---------------------------------------------------------------------- files are part of what makes a stage


def test_a_changed_mask_file_makes_its_stage_anew_and_no_other(tmp_path: Path) -> None:
    file = tmp_path / "m.safetensors"
    tree = tree_of(edits=[{"use": "weight_mask", "file": mask(file)}])
    path = written(tree, tmp_path / "recipe.yaml")

    def stages() -> dict[str, Any]:
        assert command("run", str(path), "--out", str(tmp_path / "run"), "--no-report") == 0
        return {s["name"]: s for s in json.loads((tmp_path / "run" / "manifest.json").read_text())["stages"]}

    first, again = stages(), stages()
    assert not first["second"]["cached"] and again["second"]["cached"]
    mask(file, by=Random())
    changed = stages()
    assert changed["original"]["cached"] and not changed["second"]["cached"]
    assert changed["second"]["weights"] != first["second"]["weights"]


def test_every_part_that_reads_files_has_its_say(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"one")
    edit = WeightMask(file=str(tmp_path / "model.safetensors"))
    parts = {"stages": [Saved(folder=str(tmp_path))], "edits": (edit,), "other": 3}
    first = fingerprint.contents(parts)
    assert len(first) == 2 and all(first)
    (tmp_path / "model.safetensors").write_bytes(b"two")
    assert all(a != b for a, b in zip(first, fingerprint.contents(parts), strict=True))
    assert fingerprint.contents(WeightMask(by=Magnitude())) == [""]


# ---------------------------------------------------------------------- other mistakes, from the command line


def test_a_missing_quantiser_is_said_before_any_work(tmp_path: Path) -> None:
    """In a process in which bitsandbytes cannot be found, as where it is not installed."""
    path = written(tree_of() | {"attack": [{"use": "quantise", "kind": "nf4"}]}, tmp_path / "recipe.yaml")
    code = (
        "import importlib.util, sys; found = importlib.util.find_spec\n"
        "importlib.util.find_spec = lambda name, *rest: None if name == 'bitsandbytes' else found(name, *rest)\n"
        "from amends.cli.app import main; main()"
    )
    command = [sys.executable, "-c", code, "run", str(path), "--out", str(tmp_path / "run"), "--no-report"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=dict(os.environ))
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert 'error: attack.0: quantise needs the package bitsandbytes: pip install "amends[attack]"' in done.stderr
    assert not list((tmp_path / "run").glob("stages/*/DONE"))


def test_files_to_forget_and_to_keep_with_the_same_rows_are_refused(tmp_path: Path, capfd: Any) -> None:
    rows = [{"question": f"What is {i}?", "answer": "A number."} for i in range(4)]
    for name, some in (("forget", rows[:2]), ("retain", rows[1:])):
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, some)))
    tree = tree_of()
    tree["data"] = {"use": "text", "forget": str(tmp_path / "forget.jsonl"), "retain": str(tmp_path / "retain.jsonl")}
    assert "1 row(s) stand in both the forget and the retain set (forget-0001 = retain-0000)" in refusal(tree, tmp_path, capfd)
    model = tmp_path / "model"
    recipe = resolve(str(tmp_path / "recipe.yaml")).recipe
    recipe.subject.load(resolve(str(written(tree_of(), tmp_path / "b.yaml"))).recipe.data.load(0), 0).save(model)
    files = ["--forget", str(tmp_path / "forget.jsonl"), "--retain", str(tmp_path / "retain.jsonl")]
    assert command("unlearn", str(model), *files, "--out", str(tmp_path / "out")) == 2
    assert "stand in both the forget and the retain set" in capfd.readouterr().err


def test_check_reads_the_rows_when_asked_and_says_what_lacks(tmp_path: Path, capfd: Any) -> None:
    tree = tree_of(objective=[{"use": "npo", "role": "frget"}])
    path = str(written(tree, tmp_path / "recipe.yaml"))
    assert command("check", "--help") == 0
    assert "--data" in capfd.readouterr().out
    assert command("check", path) == 0
    assert command("check", path, "--data") == 2
    assert "stages.second: data has no role 'frget' (did you mean 'forget'?)" in capfd.readouterr().err
    assert command("check", path, "--data", "--set", "stages.second.objective.0.role=forget") == 0
    assert "3 forget" in capfd.readouterr().out
    path = str(written(tree_of(**gone(tmp_path)), tmp_path / "recipe.yaml"))
    assert command("check", path, "--data") == 2
    assert "no such mask file" in capfd.readouterr().err
