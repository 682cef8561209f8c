"""`amends audit`: a folder of images and the classifier trained on it go in; ranked flags, a page and a next step come out."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pictured import CLASSES, EACH, World, command, lines, read, read_yaml
from PIL import Image

from amends.core import catalog
from amends.core.errors import UserError
from amends.core.spec import build_use
from amends.core.types import Sample, Scores
from amends.data.bundle import Bundle
from amends.runs.audit_request import AuditRequest
from amends.runs.audits import ranked
from amends.runs.flag_tables import Audited, as_parquet, write_tables
from amends.runs.recipe import build_recipe
from amends.runs.record import Folder

# ---------------------------------------------------------------------- what comes out


@pytest.fixture(scope="module")
def audited(world: World) -> Path:
    """A run that only audits, by three auditors."""
    by = "activation_clustering,spectral_signatures,spc"
    out = world.home / "audited"
    assert command("audit", world.data, "--model", world.model, "--by", by, "--rate", 0.05, "--out", out, "--show", 5) == 0
    return out


def test_flags_are_ranked_and_name_files(audited: Path) -> None:
    rows = lines(audited / "flags.csv")
    assert list(rows[0]) == ["rank", "id", "score", "flagged", "label", "bad", "row"]
    assert [int(row["rank"]) for row in rows] == list(range(1, 3 * EACH + 1))
    scores = [float(row["score"]) for row in rows]
    assert scores == sorted(scores, reverse=True)
    own = lines(audited / "audits" / "activation_clustering" / "flags.csv")
    assert [own[int(row["row"])]["id"] for row in rows] == [row["id"] for row in rows], "`row` is the place in the data"
    assert {row["id"]: row["score"] for row in own} == {row["id"]: row["score"] for row in rows}
    assert {row["label"] for row in rows if row["id"].startswith("cat/")} == {"cat"}


def test_every_auditors_scores_are_one_tidy_table(audited: Path) -> None:
    import pyarrow.parquet as pq

    table = pq.read_table(audited / "flags.parquet").to_pylist()
    assert len(table) == 3 * 3 * EACH and {(r["auditor"], r["decides"]) for r in table} == {
        ("activation_clustering", True), ("spectral_signatures", False), ("spc", False),
    }  # fmt: skip
    for name in ("activation_clustering", "spc"):
        own = {r["id"]: float(r["score"]) for r in lines(audited / "audits" / name / "flags.csv")}
        assert {r["id"]: r["score"] for r in table if r["auditor"] == name} == own
    assert {r["bad"] for r in table} == {None}


def test_nothing_is_forgotten_by_an_audit_alone(audited: Path) -> None:
    manifest = read(audited / "manifest.json")
    assert manifest["data"]["roles"] == {"train": 3 * EACH, "test": 0}
    assert [s["name"] for s in manifest["stages"]] == ["original"] and manifest["stages"][0]["steps"] == 0
    page = (audited / "report.html").read_text(encoding="utf-8")
    assert "Nothing was forgotten: look at the rows, and decide." in page and "Scorecard" not in page
    shown = read(audited / "audits" / "activation_clustering" / "shown.json")
    assert len(shown) == 5 and all(row["id"] in page and row["picture"] for row in shown)


def test_the_terminal_says_how_many_of_which_class_and_what_to_do_next(world: World, capfd: Any, tmp_path: Path) -> None:
    assert command("audit", world.data, "--model", world.model, "--by", "random_scores", "--rate", 0.25, "--out", tmp_path) == 0
    told = " ".join(capfd.readouterr().out.split())
    assert "random_scores flagged 9 of 36 rows (25 %): " in told and "highest scores: " in told
    assert (
        f"next: amends audit {world.data} --model {world.model} --by random_scores --rate 0.25 --out {tmp_path} --then" in told
    )


def test_the_default_auditor_is_the_best_of_those_that_there_are(world: World, vit: Path) -> None:
    known = {entry.name for entry in catalog.list_kind("auditors")}
    tree = AuditRequest(data=world.data, model=str(world.model)).tree()
    assert tree["audit"]["use"] == ("mspc" if "mspc" in known else "spc") and tree["audit"]["beside"] == []


def audit_tree(**audit: Any) -> dict[str, Any]:
    """An audit of a source that is not split, as a recipe may have it."""
    of = {"use": "poison", "of": {"use": "digits"}, "rate": 0.05, "trigger": {"use": "badnets", "size": 2, "margin": 0}}
    stage = {"use": "train", "on": ["train"], "steps": 2}
    return {
        "name": "bare", "data": of, "subject": {"use": "image_classifier", "width": 2}, "stages": {"original": stage},
        "audit": {"use": "spc", **audit}, "reading": {"show": []}, "measure": [{"use": "asr"}],
    }  # fmt: skip


def test_then_takes_the_scores_that_lie_there_and_measures_before_and_after(
    world: World, audited: Path, tmp_path: Path
) -> None:
    out = tmp_path / "on"
    shutil.copytree(audited, out)
    by = "spectral_signatures"
    words = ["audit", world.data, "--model", world.model, "--by", by, "--rate", 0.05, "--out", out]
    more = ["--then", "retrain,l1-sparse", "--steps", 3, "--test", world.test, "--triggered", world.triggered]
    assert command(*words, *more) == 0
    manifest, results = read(out / "manifest.json"), read(out / "results.json")["measurements"]
    assert [(line["auditor"], line["cached"]) for line in manifest["audits"]] == [(by, True)], "test rows change no score"
    assert manifest["data"]["roles"]["forget"] == manifest["audits"][0]["flagged"] > 0
    assert manifest["data"]["roles"]["triggered"] == 3 and manifest["data"]["roles"]["test"] == 12
    found = {(m["subject"], m["name"]) for m in results}
    assert {(s, n) for s in ("original", "retrain", "l1-sparse") for n in ("ta.test", "asr.triggered", "ra.retain")} <= found
    tree = read_yaml(out / "recipe.yaml")
    assert tree["stages"]["retrain"] == {
        "use": "train", "on": ["retain"], "steps": 3, "batch": 12, "optim": {"use": "sgd", "lr": 0.05, "momentum": 0.9}
    }, "as the model's own run trained it"  # fmt: skip
    assert len(list(out.glob("stages/*/model"))) == 3


def test_rows_that_you_choose_are_forgotten_without_an_auditor(world: World, audited: Path, tmp_path: Path, capfd: Any) -> None:
    out = tmp_path / "mine"
    shutil.copytree(audited, out)
    table = (out / "flags.csv").read_text().replace(",true,", ",false,").splitlines()
    mine = [line.replace(",false,", ",true,") if "cat/11.png" in line else line for line in table]
    (tmp_path / "mine.csv").write_text("\n".join(mine) + "\n")
    words = ["--rows", tmp_path / "mine.csv", "--then", "fine-tune", "--steps", 1, "--test", world.test, "--out", out]
    assert command("audit", world.data, "--model", world.model, *words) == 0
    manifest = read(out / "manifest.json")
    assert manifest["data"]["roles"]["forget"] == 1 and manifest["audits"] == []
    scored = (out / "scores" / "fine-tune-seed0" / "ua.forget.jsonl").read_text()
    assert json.loads(scored)["id"] == "cat/11.png"
    assert "What the audit found" not in (out / "report.html").read_text(encoding="utf-8")


def test_seeds_repeat_what_comes_after_and_not_the_audit(world: World, tmp_path: Path, capfd: Any) -> None:
    words = ["--by", "random_scores", "--then", "fine-tune", "--steps", 1, "--seeds", "0,1", "--out", tmp_path]
    assert command("audit", world.data, "--model", world.model, *words) == 0
    manifest = read(tmp_path / "manifest.json")
    assert len(manifest["audits"]) == 1
    assert [(s["name"], s["seed"]) for s in manifest["stages"]] == [("original", 0), ("fine-tune", 0), ("fine-tune", 1)]
    told = capfd.readouterr().err
    assert "test accuracy is left out" in told and "--triggered FOLDER" in told


def test_labels_follow_the_models_order_of_classes(world: World, vit: Path, tmp_path: Path) -> None:
    words = ["--model", vit, "--test", world.test, "--triggered", world.triggered, "--out", tmp_path, "--then", "retrain"]
    assert command("audit", world.data, *words, "--by", "random_scores", "--steps", 1) == 0
    recipe = build_recipe(read_yaml(tmp_path / "recipe.yaml"))
    data = recipe.data.load(0)
    assert data.classes == ("ship", "cat", "dog")
    for role in ("train", "test"):
        assert all(data.classes[r.data["label"]] == r.id.split("/")[-2] for r in data[role])
    assert {r.data["label"] for r in data["triggered"]} == {2}
    assert recipe.subject.net == "hf" and recipe.stages[1].maker.fresh, "a loaded model is retrained from new weights"
    subject = recipe.subject.load(data, 0)
    assert subject.module.mean.flatten().tolist() == [0.5] * 3


def test_other_forms_of_data_are_read(world: World, vit: Path, tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    files = sorted(world.data.glob("*/*.png"))
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=list(CLASSES))})
    rows = {"image": [str(f) for f in files], "label": [CLASSES.index(f.parent.name) for f in files]}
    made = datasets.Dataset.from_dict(rows, features=features)
    made.save_to_disk(str(tmp_path / "alone"))
    datasets.DatasetDict({"train": made, "validation": made.select([0, 13, 26])}).save_to_disk(str(tmp_path / "both"))
    (tmp_path / "parquet" / "data").mkdir(parents=True)
    made.to_parquet(tmp_path / "parquet" / "data" / "train-00000-of-00001.parquet")
    images = np.stack([np.asarray(Image.open(f)) for f in files])
    np.savez(tmp_path / "rows.npz", images=images, labels=np.array(rows["label"]), classes=np.array(CLASSES))
    (tmp_path / "split").mkdir()
    shutil.copytree(world.data, tmp_path / "split" / "train")
    shutil.copytree(world.test, tmp_path / "split" / "val")
    tree = {"name": "x", "data": {"use": "labelled", "of": {"use": "npz", "file": str(tmp_path / "rows.npz")}}}
    (tmp_path / "some.yaml").write_text(json.dumps(tree))
    sizes = {"alone": 0, "both": 3, "parquet": 0, "rows.npz": 0, "split": 12}
    for name, tests in sizes.items():
        out = tmp_path / f"out-{name}"
        words = ["--model", world.model, "--by", "random_scores", "--out", out]
        assert command("audit", tmp_path / name, *words) == 0, name
        manifest = read(out / "manifest.json")
        assert manifest["data"]["roles"] == {"train": 3 * EACH, "test": tests}, name
        measured = {m["name"]: m["value"] for m in read(out / "results.json")["measurements"]}
        assert measured["accuracy.train"] > 0.9, "the labels and the pixels are those of training"
        assert ("ta.test" in measured) == (tests > 0)


def test_a_name_on_the_hub_is_a_data_set_and_a_slip_in_a_path_is_none(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(world.data.parent)
    tree = AuditRequest(data=Path("uoft-cs/cifar10"), model=str(world.model)).tree()
    assert tree["data"]["of"] == {"use": "hub", "name": "uoft-cs/cifar10"}
    assert {m["use"] for m in tree["measure"]} == {"accuracy", "ta"}, "its split of test rows is measured"
    for slip in (f"{world.data.name}/trian", "one/two/three", "./pictures-of", "pictures-of"):
        with pytest.raises(UserError, match=f"DATA {slip.removeprefix('./')}: no such file or folder"):
            AuditRequest(data=Path(slip), model=str(world.model)).tree()


def test_texts_and_their_classifier_are_audited_by_their_features(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    source = build_use("data", {"use": "topics", "topics": 3, "rows": 8}, "data").load(0)
    features = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=list(source.classes))})
    rows = {key: [row.data[key] for row in source["train"]] for key in ("text", "label")}
    datasets.Dataset.from_dict(rows, features=features).save_to_disk(str(tmp_path / "texts"))
    build_use("models", {"use": "text_classifier", "width": 8, "depth": 1, "heads": 2}, "subject").load(source, 0).save(
        tmp_path / "model"
    )
    assert command("audit", tmp_path / "texts", "--model", tmp_path / "model", "--out", tmp_path / "out") == 0
    assert read(tmp_path / "out" / "manifest.json")["audits"][0]["auditor"] == "activation_clustering"
    assert len(lines(tmp_path / "out" / "flags.csv")) == 24


def test_your_own_clean_rows_are_for_the_auditors_that_take_some(world: World, tmp_path: Path) -> None:
    words = ["--by", "strip,mspc,random_scores", "--clean", world.test, "--set", "audit.overlays=3", "--set", "audit.frr=0.4"]
    more = ["--then", "fine-tune", "--steps", 1, "--out", tmp_path]
    assert command("audit", world.data, "--model", world.model, *words, *more) == 0
    manifest = read(tmp_path / "manifest.json")
    assert [line["settings"].get("clean") for line in manifest["audits"]] == ["clean", "clean", None]
    assert manifest["data"]["roles"]["clean"] == 12 and manifest["audits"][0]["rows"] == 36
    assert manifest["audits"][0]["note"].startswith("threshold "), "of the clean rows"
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "expected false positives: of 12 rows known to be clean it flags " in page
    measured = {m["name"] for m in read(tmp_path / "results.json")["measurements"]}
    assert "ta.test" not in measured, "clean rows are for the auditor alone"


def test_a_model_that_never_saw_the_rows_is_warned_of(world: World, vit: Path, tmp_path: Path, capfd: Any) -> None:
    assert command("audit", world.data, "--model", vit, "--out", tmp_path, "--by", "spc") == 0
    said = capfd.readouterr().err
    assert "warning: the model tells the class of " in said and "are its inputs normalised as in training?" in said


# ---------------------------------------------------------------------- a recipe that only audits


def test_a_recipe_may_audit_and_forget_nothing(tmp_path: Path, capfd: Any) -> None:
    (tmp_path / "bare.yaml").write_text(json.dumps(audit_tree(beside=[{"use": "random_scores"}], show=3)))
    assert command("run", tmp_path / "bare.yaml", "--out", tmp_path / "run") == 0
    results = read(tmp_path / "run" / "results.json")
    names = {r["name"] for r in results["flags"] if r["auditor"] == "spc"}
    assert names == {"auroc", "auroc_within", "tpr", "fpr", "flagged"}
    assert len(read(tmp_path / "run" / "audits" / "spc" / "shown.json")) == 3
    assert "forget" not in read(tmp_path / "run" / "manifest.json")["data"]["roles"]
    assert "AUROC" in capfd.readouterr().out
    assert {row["bad"] for row in lines(tmp_path / "run" / "flags.csv")} == {"true", "false"}


def test_a_recipe_that_poisons_its_rows_is_data_too(tmp_path: Path, capfd: Any) -> None:
    tree = audit_tree() | {"seeds": [3], "measure": []}
    tree.pop("audit")
    (tmp_path / "planted.yaml").write_text(json.dumps(tree))
    assert command("run", tmp_path / "planted.yaml", "--out", tmp_path / "run", "--no-report") == 0
    words = [
        "--model",
        tmp_path / "run" / "stages" / "01-original" / "model",
        "--by",
        "random_scores",
        "--out",
        tmp_path / "out",
    ]
    assert command("audit", tmp_path / "planted.yaml", *words, "--then", "fine-tune", "--steps", 1) == 0
    manifest = read(tmp_path / "out" / "manifest.json")
    assert manifest["seeds"] == [3] and manifest["audits"][0]["bad"] == 67
    measured = {(m["subject"], m["name"]) for m in read(tmp_path / "out" / "results.json")["measurements"]}
    assert {("original", "asr.triggered"), ("fine-tune", "asr.triggered"), ("fine-tune", "ta.test")} <= measured
    assert command("audit", tmp_path / "planted.yaml", *words, "--seeds", "4") == 2
    assert "draws its rows with seed 3, so that one has to be the first" in capfd.readouterr().err


# ---------------------------------------------------------------------- the parts


def test_a_table_is_ranked_and_ties_favour_no_class(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = tuple(Sample(name, {"label": 0, "poisoned": name == "b"}) for name in "abc")
    found = Audited("spc", 0, True, Scores({"a": 0.5, "b": 0.5, "c": 0.9}, frozenset("c")), rows, ("cat",))
    assert [(line["id"], line["rank"], line["row"], line["bad"]) for line in found.lines()] == [
        ("c", 1, 2, False), ("b", 2, 1, True), ("a", 3, 0, False)
    ]  # fmt: skip
    many = Scores({f"{name}/{i}": 0.5 for name in ("cat", "dog") for i in range(50)}, frozenset())
    assert 5 < sum(name.startswith("cat") for name in ranked(many)[:30]) < 25
    told: list[str] = []
    write_tables([found], Folder(tmp_path), told.append)
    assert told == [] and (tmp_path / "flags.parquet").is_file()
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    assert as_parquet([found]) is None
    write_tables([found], Folder(tmp_path), told.append)
    assert len(told) == 1 and "pip install 'amends[vision]'" in told[0]


def joined(**values: Any) -> Bundle:
    return build_use("data", {"use": "joined", **values}, "data").load(0)


def npz(path: Path, labels: list[int], classes: list[str] | None = None) -> dict[str, Any]:
    """Made rows; the names of their classes where there are some."""
    names = {} if classes is None else {"classes": np.array(classes)}
    np.savez(path, images=np.zeros((len(labels), 4, 4), np.uint8), labels=np.array(labels), **names)
    return {"use": "npz", "file": str(path)}


def test_rows_are_matched_by_the_names_of_their_classes_or_else_by_number(tmp_path: Path) -> None:
    train = npz(tmp_path / "train.npz", [0, 1, 2], ["cat", "dog", "ship"])
    test = npz(tmp_path / "test.npz", [0, 1], ["ship", "Cat "])
    data = joined(of=train, test=test, triggered=npz(tmp_path / "t.npz", [2, 2]))
    assert [r.data["label"] for r in data["test"]] == [2, 0] and [r.data["label"] for r in data["triggered"]] == [2, 2]
    assert {r.id.split("/")[0] for r in data["test"]} == {"test"}
    moved = joined(of=train, test=test, classes=["ship", "bird", "dog", "cat"])
    assert [r.data["label"] for r in moved["train"]] == [3, 2, 0] and moved.classes == ("ship", "bird", "dog", "cat")
    numbered = joined(of=train, classes=["LABEL_0", "LABEL_1", "LABEL_2", "LABEL_3"])
    assert [r.data["label"] for r in numbered["train"]] == [0, 1, 2] and numbered.classes == ("cat", "dog", "ship", "LABEL_3")
    some = npz(tmp_path / "some.npz", [0, 1], ["0", "2"])
    assert [r.data["label"] for r in joined(of=some, classes=["0", "1", "2"])["train"]] == [0, 2], "numbers are names, too"
