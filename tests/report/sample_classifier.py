"""A classifier's run and bench such as `amends run` and `amends bench` leave: sparse models, rows' confidences, a drawing."""

from __future__ import annotations

import gzip
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sample_run import lines, put

SPARSITY = {"": 0.0, "-50": 0.5, "-90": 0.9, "-99": 0.99}
GROUPS = {
    "before unlearning": [f"original{s}" for s in SPARSITY],
    "fine-tuned": [f"finetune{s}" for s in SPARSITY],
    "l1-sparse": ["l1-sparse"],
}
ASR = {"original": (1.0, 1.0, 0.99, 0.98), "finetune": (0.9, 0.8, 0.4, 0.1), "l1-sparse": (0.2,)}
GAP = {"original": 0.5, "retrain": 0.0, "nothing": 0.5, "finetune": 0.4, "finetune-sparse": 0.1, "scrub": 0.2, "slow": 0.3}
SECONDS = {
    "original": 40.0,
    "retrain": 36.0,
    "nothing": 0.001,
    "finetune": 2.0,
    "finetune-sparse": 2.4,
    "scrub": 4.0,
    "slow": 30,
}


def kind_of(name: str) -> str:
    """The kind of a stage, from its name."""
    return next((k for k in ("original", "retrain") if name.startswith(k)), "unlearned")


def stage(name: str, seed: int, **more: Any) -> dict[str, Any]:
    """One line of the manifest."""
    use = "nothing" if name == "nothing" else "gradient"
    return {"name": name, "seed": seed, "kind": kind_of(name), "use": use, "seconds": 2.0, "steps": 9, "cached": False, **more}


def measured(name: str, seed: int, metric: str, value: float, better: str = "lower") -> dict[str, Any]:
    """One measurement with an interval."""
    return {"subject": name, "seed": seed, "attack": None, "name": metric, "value": value, "low": max(0.0, value - 0.05),
            "high": min(1.0, value + 0.05), "n": 100, "better": better, "version": 1, "unit": "", "note": ""}  # fmt: skip


def write_sparse(folder: Path, seeds: Sequence[int] = (0, 1, 2)) -> Path:
    """A run whose recipe draws ASR and TA against sparsity; confidences of its rows are scores, and of one model a reading."""
    stages, rows = [], []
    for base, values in ASR.items():
        for (suffix, sparsity), asr in zip(SPARSITY.items(), values, strict=False):
            for seed in seeds:
                name, moved = f"{base}{suffix}", 0.02 * (seed - 1)
                stages.append(stage(name, seed, sparsity=sparsity))
                rows.append(measured(name, seed, "asr.triggered", min(1.0, asr + moved)))
                rows.append(measured(name, seed, "ta.test", 0.9 - 0.1 * sparsity, "closer"))
    for seed in seeds:
        stages.append(stage("retrain", seed, sparsity=0.0))
        put(
            folder / "scores" / f"original-seed{seed}" / "probability.forget.jsonl",
            scores([1.0, 0.95, 0.91, 0.25 + 0.3 * seed]),
        )
        put(folder / "scores" / f"retrain-seed{seed}" / "probability.forget.jsonl", scores([0.05, 0.05, 0.15, 0.35]))
    put(folder / "scores" / "finetune-seed0" / "ua.forget.jsonl", scores([0.0, 1.0]))
    reading = {"key": "k", "tokens": {"row-0": {"logp": [-0.1]}, "row-1": {"logp": [-3.0]}, "other": {"logp": [0.0]}}}
    place = folder / "stages" / "06-finetune"
    place.mkdir(parents=True, exist_ok=True)
    (place / "reading.json.gz").write_bytes(gzip.compress(json.dumps(reading).encode()))
    manifest = {
        "schema": 1, "name": "backdoor", "status": "ok", "title": "A backdoor", "question": "Does it go?", "seeds": list(seeds),
        "data": {"kind": "labels", "roles": {"forget": 4, "retain": 9, "test": 9, "triggered": 9}}, "stages": stages,
        "headline": ["asr.triggered", "ta.test"],
        "draw": [{"use": "Drawing", "of": ["asr.triggered", "ta.test"], "lines": GROUPS, "over": "sparsity", "title": ""}],
    }  # fmt: skip
    put(folder / "manifest.json", json.dumps(manifest))
    put(folder / "results.json", json.dumps({"measurements": rows, "recovered": []}))
    put(folder / "claims.json", "[]")
    return folder


def scores(values: Sequence[float]) -> str:
    """Rows of a scores file."""
    return lines([{"id": f"row-{i}", "score": v} for i, v in enumerate(values)])


def priced(seeds: Sequence[int] = (0, 1, 2), without: Sequence[str] = ()) -> dict[str, Any]:
    """The value of a bench of classifiers: distance, accuracy and time of methods, one of them also on a sparse model."""
    names = [n for n in GAP if n not in without]
    rows = [
        row for n in names for i, seed in enumerate(seeds)
        for row in (measured(n, seed, "disparity", max(0.0, GAP[n] + 0.01 * (i - 1)) if n != "retrain" else 0.0),
                    measured(n, seed, "accuracy.test", 0.9, "higher"))
    ]  # fmt: skip
    methods = [n for n in names if kind_of(n) == "unlearned" and n != "nothing"]
    return {
        "name": "digits", "title": "A class", "question": "Which?", "seeds": list(seeds), "status": "ok", "command": "",
        "rank": {"forgetting": "disparity", "keeping": "accuracy.test", "at_least": 0.9}, "headline": ["disparity"],
        "data": {"kind": "labels", "roles": {"forget": 9, "retain": 20, "test": 9}}, "recovered": [], "claims": [], "notes": [],
        "methods": [{"name": n, "summary": "", "arxiv": "", "stage": None, "missing": [], "tuned": {}} for n in methods],
        "stages": [stage(n, s, seconds=SECONDS[n] * (1 + 0.02 * s)) for n in names for s in seeds], "measurements": rows,
    }  # fmt: skip
