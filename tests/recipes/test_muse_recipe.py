"""MUSE's recipe on folders of text: the same stages and metrics on files of one's own, and what is kept for later."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from amends.core.errors import UserError
from amends.data.muse import Folders
from amends.data.stories import Stories
from amends.runs.recipe import resolve
from amends.runs.run import execute


def written(root: Path) -> list[str]:
    """Generated stories as a user would have them: a folder a split, questions in files; and the overrides that name them."""
    data = Stories(people=10, facts=3, forget=2, holdout=2).load(0)
    for split in ("forget", "retain", "retain_train", "holdout"):
        (root / split).mkdir()
        for row in data[split]:
            (root / split / f"{row.id}.txt").write_text(row.data["text"])
    for role in ("forget_qa", "retain_qa", "examples_forget", "examples_retain"):
        (root / f"{role}.jsonl").write_text("\n".join(json.dumps(dict(s.data)) for s in data[role]))
    paths = {r: str(root / r) for r in ("forget", "retain", "retain_train", "holdout")}
    files = {r: str(root / f"{r}.jsonl") for r in ("forget_qa", "retain_qa", "examples_forget", "examples_retain")}
    tree = json.dumps({"use": "folders", **paths, **files, "passage": 40, "prefix": 8})
    light = ["stages.graddiff=", "stages.npo-kl=", "attack=[]", "stages.npo.epochs=1", "stages.ascent.epochs=1"]
    shots = ["measure.1.examples=examples_forget", "measure.3.examples=examples_retain"]
    return [*light, *shots, f"data={tree}"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The recipe on the user's folders, run."""
    root = tmp_path_factory.mktemp("muse")
    return execute(resolve("muse-small", "smoke", written(root)), root / "run")


def test_the_four_criteria_are_measured_of_every_model(run: Path) -> None:
    found = {(m["subject"], m["name"]): m for m in json.loads((run / "results.json").read_text())["measurements"]}
    for stage in ("original", "retrain", "ascent", "npo"):
        for name in ("verbatim_memory.forget_verbatim", "knowledge_memory.forget_qa", "privleak", "knowledge_memory.retain_qa"):
            assert (stage, name) in found
    assert found["retrain", "privleak"]["value"] in (0, None)
    assert found["npo", "mia.grad_norm"]["n"] == found["npo", "mia.reference"]["n"] == found["npo", "mia.loss"]["n"]
    assert found["retrain", "mia.reference"]["value"] == 0.5
    assert found["npo", "knowledge_memory.forget_qa"]["note"] == "asked after 3 examples"


def test_what_only_a_model_can_say_is_kept_with_the_reading(run: Path) -> None:
    (reading,) = (run / "stages").glob("*-npo/reading.json.gz")
    kept = json.loads(gzip.decompress(reading.read_bytes()))["kept"]
    assert {"grad_norms", "answers/16", "expected/forget_verbatim/16"} <= set(kept)
    roles = json.loads((run / "manifest.json").read_text())["data"]["roles"]
    assert len(kept["grad_norms"]) == roles["forget"] + roles["holdout"]


def test_splits_that_share_text_are_found_before_anything_is_trained(tmp_path: Path) -> None:
    sets = written(tmp_path)
    story = next((tmp_path / "retain").glob("*.txt")).read_text()
    (tmp_path / "retain_train" / "again.txt").write_text(story)
    source = resolve("muse-small", "smoke", sets).recipe.data
    assert isinstance(source, Folders)
    with pytest.raises(UserError, match="share a passage"):
        execute(resolve("muse-small", "smoke", sets), tmp_path / "run")
    assert not (tmp_path / "run" / "stages").exists()
