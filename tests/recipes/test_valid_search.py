"""Settings are chosen on validation rows: no model trains on them, and no number of the test rows is looked at."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from amends.runs.recipe import resolve
from amends.runs.run import execute
from amends.runs.sweep import choose, grid, rule_of, run_all


class Here:
    """Runs each point in this process."""

    def map(self, recipes: Sequence[Path], folders: Sequence[Path]) -> Iterator[int]:
        """0 for each."""
        for recipe, folder in zip(recipes, folders, strict=True):
            execute(resolve(str(recipe)), folder)
            yield 0


def test_a_sweep_chooses_by_the_disparity_of_the_validation_rows(tmp_path: Path) -> None:
    """The point chosen is the one that is best there; the recipe measures no test rows at all, so none can decide."""
    sgd = {"use": "sgd", "lr": 0.1, "momentum": 0.9}
    train = {"use": "train", "on": ["retain"], "steps": 30, "batch": 32, "optim": sgd}
    ascent = {"use": "gradient", "from": "original", "steps": 4, "batch": 8, "objective": [{"use": "ascent"}, {"use": "nll"}]}
    tree: dict[str, Any] = {
        "name": "valid", "subject": {"use": "image_classifier", "width": 4}, "reading": {"show": []},
        "data": {"use": "labelled", "of": {"use": "digits"}, "classes": [3], "valid": 0.2, "limit": {"train": 300, "test": 40}},
        "stages": {
            "original": {**train, "on": ["forget", "retain"]}, "retrain": train,
            "graddiff": {**ascent, "optim": {**sgd, "lr": 0.01}},
        },
        "measure": [{"use": "disparity", "test": "valid"}, {"use": "ta", "role": "valid"}],
    }  # fmt: skip
    file = tmp_path / "valid.yaml"
    file.write_text(json.dumps(tree))
    points = grid(str(file), None, [], ["stages.graddiff.optim.lr=0.00001,0.02"])
    rule = rule_of(points[0].resolved.recipe, "graddiff.disparity.valid", None)
    assert (rule.best, rule.better) == ("graddiff.disparity.valid", "lower")
    folders = run_all(points, tmp_path / "runs", Here())  # type: ignore[arg-type]
    trials, chosen, spent = choose(points, folders, rule)
    values = [t.forgetting for t in trials]
    assert None not in values and values[0] != values[1] and spent > 0
    assert chosen == values.index(min(values))  # type: ignore[type-var]
    for folder in folders:
        names = {m["name"] for m in json.loads((folder / "results.json").read_text())["measurements"]}
        assert names == {"disparity.valid", "ta.valid"}
    roles = json.loads((folders[0] / "manifest.json").read_text())["data"]["roles"]
    assert roles["valid"] > 30 and set(roles) >= {"forget", "retain", "valid", "test"}
