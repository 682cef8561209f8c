"""Found, forgotten and proved in one run: what an auditor flags is the forget set of all that follows, killed or not."""

from __future__ import annotations

import csv
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from amends.core.errors import UserError
from amends.core.spec import build_use
from amends.runs.audits import read_flags
from amends.runs.recipe import Resolved, build_recipe, resolve
from amends.runs.run import execute

LIGHT = [
    "stages.nothing=", "stages.finetune=", "stages.l1-sparse=", "stages.graddiff=", "stages.salun=", "stages.retrain.steps=20",
    "measure=[{use: asr}, {use: ua}]", "headline=[asr.triggered]",
]  # fmt: skip
GIVE_UP = 300.0
"""Seconds after which a process that should have come far has failed."""


def light(*sets: str) -> Resolved:
    """The smoke profile with two stages after the audit."""
    return resolve("poisoned-digits", "smoke", [*LIGHT, *sets])


def planted() -> int:
    """How many rows the recipe poisons."""
    return sum(bool(row.data.get("poisoned")) for row in light().recipe.data.load(0)["train"])


def read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def weights(folder: Path) -> dict[str, str]:
    """The sha256 of every stage's weights."""
    files = sorted(folder.glob("stages/*/model/*.safetensors"))
    return {f.parents[1].name: hashlib.sha256(f.read_bytes()).hexdigest() for f in files}


def made_anew(folder: Path) -> set[str]:
    """The stages and the audits that the last run made."""
    manifest = read(folder / "manifest.json")
    own = {line["auditor"] for line in manifest["audits"] if not line["cached"]}
    return own | {s["name"] for s in manifest["stages"] if not s["cached"]}


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The recipe, never interrupted."""
    return execute(light(), tmp_path_factory.mktemp("runs") / "straight")


def test_flags_are_the_forget_set_of_what_follows(straight: Path) -> None:
    manifest = read(straight / "manifest.json")
    first = manifest["audits"][0]
    assert (first["auditor"], first["decides"], first["model"]) == ("activation_clustering", True, "original")
    assert [line["decides"] for line in manifest["audits"]] == [True, False, False, False]
    roles = manifest["data"]["roles"]
    assert roles["train"] == 600 == first["rows"] and roles["forget"] == first["flagged"] > 0
    assert roles["forget"] + roles["retain"] <= roles["train"]
    assert first["bad"] == sum(c["bad"] for c in first["classes"]) == planted()
    assert sum(c["rows"] for c in first["classes"]) == 600 and sum(c["flagged"] for c in first["classes"]) == first["flagged"]
    scored = [json.loads(line)["id"] for line in (straight / "scores/retrain-seed0/ua.forget.jsonl").read_text().splitlines()]
    flags = read_flags(straight / "audits" / "activation_clustering" / "flags.csv")
    assert set(scored) == flags.flagged


def test_results_hold_what_the_flags_are_worth_with_intervals(straight: Path) -> None:
    rows = read(straight / "results.json")["flags"]
    assert [(r["auditor"], r["name"]) for r in rows] == [
        (a, n) for a in ("activation_clustering", "spectral_signatures", "spc", "random_scores")
        for n in ("auroc", "auroc_within", "tpr", "fpr", "flagged")
    ]  # fmt: skip
    for row in rows:
        assert {"model", "seed", "decides", "value", "low", "high", "n", "better", "version", "unit", "note"} <= set(row)
        assert 0 <= row["low"] <= row["value"] <= row["high"] <= 1 and row["n"] > 0
    claim = read(straight / "claims.json")[0]
    assert claim["that"] == "audit.random_scores.auroc"
    assert claim["observed"] == next(r["value"] for r in rows if (r["auditor"], r["name"]) == ("random_scores", "auroc"))


def test_the_table_of_flags_can_be_given_to_another_run(straight: Path) -> None:
    file = straight / "audits" / "activation_clustering" / "flags.csv"
    with file.open(encoding="utf-8", newline="") as text:
        rows = list(csv.DictReader(text))
    assert list(rows[0]) == ["id", "score", "flagged", "label", "bad"]
    assert sum(row["bad"] == "true" for row in rows) == planted()
    recipe = light().recipe
    whole = recipe.data.load(0)
    mine = recipe.data.flagged(0, [row.id for row in whole["train"] if row.id in read_flags(file).flagged])
    values = dict(light().tree["data"]) | {"by": "ids", "file": str(file)}
    other = build_use("data", values, "data").load(0)
    assert mine.with_role("train", ()).fingerprint() == other.with_role("train", ()).fingerprint()
    assert {i: a.data["label"] for i, a in mine.alternatives.items()} == {
        i: a.data["label"] for i, a in other.alternatives.items()
    }


def test_killed_between_audit_and_unlearning_equals_never_killed(straight: Path, tmp_path: Path) -> None:
    recipe, folder = tmp_path / "recipe.yaml", tmp_path / "killed"
    recipe.write_text(light().as_yaml())
    command = [sys.executable, "-m", "amends", "run", str(recipe), "--out", str(folder), "--no-report"]
    with subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, stderr=subprocess.DEVNULL) as process:
        began = time.monotonic()
        while not (folder / "audits" / "activation_clustering" / "DONE").is_file():
            assert process.poll() is None and time.monotonic() - began < GIVE_UP
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert read(folder / "manifest.json")["status"] == "running"
    assert not (folder / "results.json").exists()
    execute(resolve(str(recipe)), folder)
    assert {"original", "activation_clustering"} & made_anew(folder) == set()
    assert weights(folder) == weights(straight) and len(weights(folder)) == 3
    assert (folder / "results.json").read_bytes() == (straight / "results.json").read_bytes()
    for file in straight.glob("audits/*/flags.csv"):
        assert (folder / file.relative_to(straight)).read_bytes() == file.read_bytes()


def test_another_auditor_makes_anew_what_follows_from_its_flags_and_no_more(tmp_path: Path) -> None:
    folder = execute(light("audit.beside=[]", "expect=[]"), tmp_path / "run")
    assert made_anew(folder) == {"original", "activation_clustering", "retrain", "random-labels"}
    execute(light("audit.beside=[{use: random_scores}]"), folder)
    assert made_anew(folder) == {"random_scores"}
    before = weights(folder)
    execute(light("audit={use: random_scores, rate: 0.05}"), folder)  # its scores lie there, under another rate
    assert made_anew(folder) == {"random_scores", "retrain", "random-labels"}
    assert read(folder / "manifest.json")["data"]["roles"]["forget"] == 30
    assert {s for s, mark in weights(folder).items() if before[s] != mark} == {"02-retrain", "03-random-labels"}


def test_each_seed_has_flags_of_its_own_unless_its_model_is_made_once(tmp_path: Path) -> None:
    short = [f"stages.{name}.steps=5" for name in ("original", "retrain")]
    less = ["measure=[{use: ua}]", "headline=[ua.forget]", "stages.random-labels="]
    sets = ["seeds=[0, 1]", "audit={use: random_scores}", *short, *less]
    folder = execute(light(*sets), tmp_path / "each")
    assert {f.parent.name for f in folder.glob("audits/*/flags.csv")} == {"random_scores", "random_scores-seed1"}
    first, second = (read_flags(folder / "audits" / name / "flags.csv") for name in ("random_scores", "random_scores-seed1"))
    assert first.flagged != second.flagged
    assert [r["seed"] for r in read(folder / "results.json")["flags"] if r["name"] == "auroc"] == [0, 1]
    assert len(read(folder / "claims.json")[0]["per_seed"]) == 2
    once = execute(light(*sets, "stages.original.once=true"), tmp_path / "once")
    assert {f.parent.name for f in once.glob("audits/*/flags.csv")} == {"random_scores"}
    assert [r["seed"] for r in read(once / "results.json")["flags"] if r["name"] == "auroc"] == [0]


# ---------------------------------------------------------------------- what is said of mistakes


@pytest.mark.parametrize(
    ("sets", "said"),
    [
        (["audit={use: random_scores, rate: 1.0}"], r"audit: random_scores flagged 600 of 600 rows, .*none is left to retain"),
        (["stages.original.on=[retain]"], r"stages.original: data has no role 'retain'"),
        (["measure=[{use: ua, role: forgot}]", "headline=[]"], r"measure.0 \(ua.forgot\): data has no role 'forgot'"),
        (["data.valid=0.1"], r"data.valid: with `by: audit` the auditor says which rows go"),
    ],
)
def test_what_flags_or_data_do_not_allow_is_said(sets: Sequence[str], said: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=said):
        execute(light("stages.original.steps=1", *sets), tmp_path / "run")


def without(key: str) -> Callable[[dict[str, Any]], None]:
    return lambda tree: tree.pop(key)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda t: t["audit"].update(model="orignal"), r"audit.model: no stage is called 'orignal' \(did you mean 'original'"),
        (lambda t: t["audit"].update(use="spectral"), r"audit.use: no auditor is called 'spectral'"),
        (lambda t: t["audit"].update(sizes=1), r"audit.sizes: ActivationClustering has no such key \(did you mean 'size'"),
        (lambda t: t["audit"].update(role="test"), r"audit.role: .*rows of 'train'"),
        (lambda t: t["audit"].update(beside={}), r"audit.beside: expected a list"),
        (lambda t: t["audit"]["beside"].append("spc"), r"audit.beside: spc stands twice"),
        (lambda t: t["audit"]["beside"].append({"use": "spectral_signatures"}), r"audit.beside.3.rate: Field required"),
        (lambda t: t.update(audit=["spc"]), r"audit: expected a mapping with `use:`"),
        (without("audit"), r"data.by: waits for an auditor"),
        (lambda t: t["data"].update(by="poisoned"), r"audit: its flags say what is forgotten"),
        (lambda t: t["expect"][0].update(that="audit.spc.auc"), r"expect.0.that: no auditor measures 'spc.auc' \(did you mean"),
        (lambda t: t["stages"].update(audit={"use": "nothing", "from": "original"}), r"stages.audit: claims call the audit"),
    ],
)
def test_mistakes_in_the_recipe_are_named(change: Callable[[dict[str, Any]], Any], said: str) -> None:
    tree = json.loads(json.dumps(light().tree))
    change(tree)
    with pytest.raises(UserError, match=said):
        build_recipe(tree)


def test_a_changed_table_is_noticed(tmp_path: Path) -> None:
    (tmp_path / "flags.csv").write_text("id,score\na,much\n")
    with pytest.raises(UserError, match=r"flags.csv: is not what the audit wrote; remove .* to have it made again"):
        read_flags(tmp_path / "flags.csv")
