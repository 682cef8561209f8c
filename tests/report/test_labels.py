"""The verdict of a run on labelled rows: the distance to the retrained model decides, and doing nothing is the row to beat."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from amends.report import limits, table, words
from amends.report.load import load
from amends.report.verdict import verdict

MODELS = {"original": ("original", "train"), "retrain": ("retrain", "train"), "idle": ("unlearned", "nothing")}


def run_of(folder: Path, **gaps: tuple[float, float]) -> Any:
    """A run in which each model has a disparity (value, half the width of its interval), UA and TA."""
    named = {**MODELS, **{m: ("unlearned", "gradient") for m in gaps if m not in MODELS}}
    stages = [{"name": n, "kind": k, "use": u, "seconds": 1.0, "seed": 0} for n, (k, u) in named.items()]
    measured = []
    for name in named:
        value, half = gaps.get(name, (0.4, 0.01) if name != "retrain" else (0.0, 0.0))
        ua = 0.0 if name in ("original", "idle") else 1.0
        for metric, v, low, high, better in (
            ("disparity", value, max(0, value - half), value + half, "lower"),
            ("ua.forget", ua, ua, ua, "closer"), ("ta.test", 0.9, 0.88, 0.92, "closer"),
        ):  # fmt: skip
            row = {"subject": name, "seed": 0, "attack": None, "name": metric, "value": v, "low": low, "high": high, "n": 50}
            measured.append({**row, "better": better, "version": 1})
    data = {"kind": "labels", "roles": {"forget": 50, "retain": 100, "test": 60, "test_forget": 10}}
    manifest = {"status": "ok", "stages": stages, "data": data, "seeds": [0], "headline": ["disparity", "ua.forget", "ta.test"]}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    (folder / "results.json").write_text(json.dumps({"measurements": measured, "recovered": []}))
    (folder / "claims.json").write_text("[]")
    return load(folder)


@pytest.mark.parametrize(
    ("gaps", "said"),
    [
        ({"far": (0.3, 0.02), "near": (0.1, 0.02)}, "Of 2 methods, near is the closest to the retrained model: disparity 0.10"),
        ({"far": (0.6, 0.02)}, "None of 1 methods is closer to the retrained model than doing nothing; far is the closest"),
        ({"same": (0.38, 0.05)}, "None of 1 methods can be told from doing nothing by its distance"),
    ],
)
def test_the_distance_to_the_retrained_model_decides(tmp_path: Path, gaps: dict[str, Any], said: str) -> None:
    run = run_of(tmp_path, **gaps)
    assert verdict(run, table.Table(run)).sentence.startswith(said)


def test_what_was_not_looked_at_is_said_in_words_that_fit(tmp_path: Path) -> None:
    run = run_of(tmp_path, near=(0.1, 0.02))
    said = " ".join(limits.not_tested(run, table.Table(run)))
    assert "test forget (rows of the forgotten classes that no model has seen)" in said and "triggered" not in said
    assert "Membership inference" in said and "holdout" not in said and "paraphrase" not in said


def test_names_of_metrics_are_the_papers() -> None:
    assert [words.metric(m) for m in ("ua.forget", "mia_efficacy.confidence", "asr.triggered", "disparity")] == [
        "forget UA", "MIA-efficacy, confidence", "triggered ASR", "disparity",
    ]  # fmt: skip
    assert table.role("mia_privacy.prob") == "" and table.form("mia_efficacy.entropy.threshold") == "entropy.threshold"
