"""A bench's collected value such as `amends bench` writes: references, some methods over seeds, and gaps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sample_run import manifest, measurement

LEVELS: dict[str, tuple[float, float, float]] = {
    "npo": (0.31, 0.66, 0.42), "simnpo": (0.27, 0.63, 0.36), "graddiff": (0.44, 0.69, 0.71), "ascent": (0.62, 0.05, 0.33),
    "idk": (0.58, 0.64, 0.93), "npo-kl": (0.36, 0.68, 0.55),
}  # fmt: skip
"""Forget distance, utility, and the share that relearning brings back."""


def bench(
    levels: Mapping[str, tuple[float, float, float]] = LEVELS, seeds: Sequence[int] = (0, 1, 2),
    missing: Mapping[str, Mapping[int, str]] | None = None, **changes: Any,
) -> dict[str, Any]:  # fmt: skip
    """The value; `missing` names seeds of methods that left nothing, and why."""
    missing = missing or {}
    head = manifest(("original", "retrain"), seeds[:1])
    found = {
        **{k: head[k] for k in ("schema", "versions", "git", "device", "platform", "started", "seconds", "paper", "data")},
        "name": "tofu", "profile": None, "status": "ok", "title": "Every method on a small TOFU", "seeds": list(seeds),
        "question": "Which method comes closest to a model that never saw the authors?", "bench_hash": "0123456789abcdef",
        "rank": {"forgetting": "forget_distance", "keeping": "utility", "at_least": 0.8}, "notes": [],
        "headline": ["forget_distance", "utility", "extraction_strength.forget"], "jobs": 2,
        "command": "amends bench tofu --methods all --seeds 3", "claims": [],
        "methods": [method(name, missing.get(name, {})) for name in levels],
        "stages": [*head["stages"], *(stage(n, s) for n in levels for s in seeds if s not in missing.get(n, {}))],
        "measurements": [*rows("original", 0, (0.75, 0.71)), *rows("retrain", 0, (0.0, 0.70))],
        "recovered": [back("retrain", 0, 0.1)],
    }  # fmt: skip
    for name, (gone, kept, returned) in levels.items():
        for i, seed in enumerate(seeds):
            if seed not in missing.get(name, {}):
                found["measurements"] += rows(name, seed, (gone + 0.01 * (i - 1), kept + 0.01 * (i - 1)))
                found["recovered"].append(back(name, seed, returned + 0.02 * (i - 1)))
    return {**found, **changes}


def method(name: str, missing: Mapping[int, str]) -> dict[str, Any]:
    """A method as the bench records it."""
    made = {"use": "gradient", "from": "original", "epochs": 30, "objective": [{"use": "npo", "beta": 0.02}]}
    return {"name": name, "summary": f"What {name} does", "arxiv": "2404.05868", "status": "ok", "tuned": {"epochs": 30},
            "stage": made, "missing": [{"seed": s, "why": why} for s, why in missing.items()]}  # fmt: skip


def stage(name: str, seed: int) -> dict[str, Any]:
    """What the stage cost."""
    return {"name": name, "seed": seed, "kind": "unlearned", "method": "npo + nll", "seconds": 20.0 + seed, "steps": 150,
            "peak_bytes": 900_000_000, "stopped": None, "weights": "89abcdef01234567", "parameters": 1_115_264}  # fmt: skip


def rows(name: str, seed: int, level: tuple[float, float]) -> list[dict[str, Any]]:
    """Three measurements of one cell."""
    gone, kept = level
    known = {"forget_distance": gone, "utility": kept, "extraction_strength.forget": gone / 2}
    return [{**measurement(name, 0, metric, value), "seed": seed} for metric, value in known.items()]


def back(name: str, seed: int, share: float) -> dict[str, Any]:
    """What relearning brings back."""
    return {"subject": name, "seed": seed, "attack": "relearn", "metric": "extraction_strength.forget", "value": share,
            "low": share - 0.05, "high": share + 0.05, "n": 36}  # fmt: skip
