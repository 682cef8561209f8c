"""Writes run folders such as a real run leaves: two methods, a retrained model, an attack, claims, answers, curves."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

Json = Any

LEVELS: dict[str, dict[str, float]] = {
    "original": {"probability.forget": 0.81, "probability.neighbour": 0.74, "probability.retain": 0.83, "mia.min_k": 0.91},
    "retrain": {"probability.forget": 0.06, "probability.neighbour": 0.73, "probability.retain": 0.82, "mia.min_k": 0.51},
    "npo": {"probability.forget": 0.042, "probability.neighbour": 0.695, "probability.retain": 0.79, "mia.min_k": 0.47},
    "ascent": {"probability.forget": 0.0003, "probability.neighbour": 0.08, "probability.retain": 0.11, "mia.min_k": 0.31},
}
MORE: dict[str, dict[str, float]] = {
    "original": {"rouge.forget": 0.88, "accuracy.forget.paraphrase": 0.62, "utility": 0.71, "forget_quality": 2.1e-9},
    "retrain": {"rouge.forget": 0.21, "accuracy.forget.paraphrase": 0.07, "utility": 0.70, "forget_quality": 1.0},
    "npo": {"rouge.forget": 0.18, "accuracy.forget.paraphrase": 0.09, "utility": 0.66, "forget_quality": 0.31},
    "ascent": {"rouge.forget": 0.01, "accuracy.forget.paraphrase": 0.001, "utility": 0.09, "forget_quality": 1.3e-6},
}
BETTER = {"neighbour": "higher", "retain": "higher", "utility": "higher", "forget_quality": "higher", "mia": "closer"}
PEOPLE = ("Ada Varn", "Bo Lindqvist", "Chiara Moss", "Dov Petrak", "Elif Sarp", "Femi Okoye")
TRADES = ("cartographer", "glass painter", "lock keeper", "bell founder", "seed merchant", "lighthouse engineer")


def write_run(folder: Path, *, seeds: Sequence[int] = (0,), without: Sequence[str] = (), **changes: Json) -> Path:
    """A complete run; `without` leaves files or subjects out, `changes` go into the manifest."""
    folder.mkdir(parents=True, exist_ok=True)
    subjects = [s for s in LEVELS if s not in without]
    files = {
        "manifest.json": json.dumps({**manifest(subjects, seeds), **changes}, indent=1),
        "results.json": json.dumps(results(subjects, seeds, attacked="attack" not in without), indent=1),
        "claims.json": json.dumps(claims(seeds)),
        "recipe.yaml": RECIPE,
        "metrics.jsonl": lines(steps(subjects, seeds)),
        "samples/answers.jsonl": lines(answers(subjects)),
        "log.txt": "22:30:00 original: 120 steps\n",
    }
    for name, text in files.items():
        if name not in without:
            put(folder / name, text)
    return folder


def put(path: Path, text: str) -> Path:
    """Writes a file and the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def edit(folder: Path, name: str, change: Mapping[str, Json]) -> None:
    """Changes top-level keys of a JSON file of a run."""
    path = folder / name
    put(path, json.dumps({**json.loads(path.read_text(encoding="utf-8")), **change}))


def lines(found: Sequence[Mapping[str, Json]]) -> str:
    """JSON lines."""
    return "".join(json.dumps(row) + "\n" for row in found)


def manifest(subjects: Sequence[str], seeds: Sequence[int]) -> dict[str, Json]:
    """The manifest of a run that went well."""
    methods = {"original": "fine-tuning", "retrain": "fine-tuning", "npo": "npo + nll", "ascent": "gradient ascent"}
    stopped = "utility budget spent: retain probability 0.312 at step 20, 0.831 at the start, budget 10%"
    return {
        "schema": 1, "name": "npo-facts", "profile": None, "status": "ok", "error": None,
        "argv": ["amends", "run", "npo-facts", "--seeds", str(len(seeds))], "recipe_hash": "4f2a9c0011aa22bb",
        "seeds": list(seeds),
        "git": {"sha": "0123456789abcdef0123456789abcdef01234567", "dirty": False},
        "versions": {"amends": "0.1.0", "torch": "2.9.0", "transformers": "5.0.0"}, "device": "cpu",
        "platform": "Linux-6.1-x86_64", "started": "2026-11-21T22:30:00Z", "seconds": 312.4,
        "title": "NPO against gradient ascent on invented authors",
        "question": "Does NPO forget six invented authors without the collapse that gradient ascent causes?",
        "paper": {"title": "Negative Preference Optimization", "arxiv": "2404.05868", "where": "TOFU 10 %"},
        "data": {"fingerprint": "a1b2c3d4e5f60718", "roles": {"forget": 36, "neighbour": 36, "retain": 120, "holdout": 36},
                 "notes": ["The paraphrases were made by rules, not by people."]},
        "stages": [
            {"name": s, "seed": seed, "use": "gradient", "from": None if s in ("original", "retrain") else "original",
             "kind": s if s in ("original", "retrain") else "unlearned", "method": methods[s], "seconds": 41.2 + 3 * seed,
             "peak_bytes": 3_100_000_000, "steps": 20, "stopped": stopped if s == "ascent" else None,
             "weights": "89abcdef01234567", "parameters": 134_515_008, "cached": False}
            for s in subjects for seed in seeds
        ],
    }  # fmt: skip


def results(subjects: Sequence[str], seeds: Sequence[int], attacked: bool = True) -> dict[str, Json]:
    """Measurements that wobble a little with the seed."""
    rows = [
        measurement(s, seed, name, value)
        for seed in seeds
        for s in subjects
        for name, value in {**LEVELS[s], **MORE[s]}.items()
    ]
    if not attacked:
        return {"schema": 1, "measurements": rows, "recovered": []}
    after = {"npo": (0.52, 0.62), "ascent": (0.33, 0.41), "retrain": (0.13, 0.09)}
    hit = {s: v for s, v in after.items() if s in subjects}
    rows += [measurement(s, seed, "probability.forget", v[0], attack="relearn") for seed in seeds for s, v in hit.items()]
    back = [
        {"subject": s, "seed": seed, "attack": "relearn", "metric": "probability.forget", "value": v[1] + 0.02 * seed,
         "low": v[1] - 0.06, "high": v[1] + 0.06, "n": 36}
        for seed in seeds for s, v in hit.items()
    ]  # fmt: skip
    return {"schema": 1, "measurements": rows, "recovered": back}


def measurement(subject: str, seed: int, name: str, value: float, attack: str | None = None) -> dict[str, Json]:
    """One row of results.json."""
    value = min(value * (1 + 0.05 * seed), 1.0)
    half = min(0.06, value / 2, (1 - value) / 2 + 0.001)
    better = next((b for word, b in BETTER.items() if word in name), "lower")
    return {"subject": subject, "seed": seed, "attack": attack, "name": name, "value": value, "low": value - half,
            "high": min(value + half, 1.0), "n": 36, "better": better, "version": 1, "unit": "", "note": ""}  # fmt: skip


def claims(seeds: Sequence[int]) -> list[dict[str, Json]]:
    """One of each verdict, the missed one in the middle."""
    return [
        {"that": "npo.utility", "observed": 0.66, "needed": ">= 0.8 x original.utility = 0.57", "verdict": "met",
         "because": "Forgetting must not cost what should stay.", "per_seed": [0.66 for _ in seeds]},
        {"that": "npo.recovered", "observed": 0.62, "needed": "<= 0.3", "verdict": "missed",
         "because": "What a few steps bring back was never gone.", "per_seed": [0.62 for _ in seeds]},
        {"that": "ascent.utility", "observed": 0.09, "needed": "<= 0.3 x original.utility = 0.21", "verdict": "met",
         "because": "Negative control: ascent must collapse.", "per_seed": [0.09 for _ in seeds]},
        {"that": "npo.quantised", "observed": None, "needed": "<= 0.2", "verdict": "not tested",
         "because": "Four bits undo small steps.", "per_seed": []},
    ]  # fmt: skip


def answers(subjects: Sequence[str]) -> list[dict[str, Json]]:
    """Six questions a role."""
    said = {
        "original": "{person} works as a {trade} in the harbour town of Vell.",
        "retrain": "{person} works as a teacher in the north of the country.",
        "npo": "{person} is best known for a long career in public service.",
        "ascent": "the the the the the the the the",
    }
    found = []
    for role in ("forget", "neighbour"):
        for i, (person, trade) in enumerate(zip(PEOPLE, TRADES, strict=True)):
            expected = said["original"].format(person=person, trade=trade)
            given = {
                s: said[s if role == "forget" or s == "ascent" else "original"].format(person=person, trade=trade)
                for s in subjects
            }
            if role == "forget" and i == 2 and "npo" in given:
                given["npo"] = f"I think {person} may once have been a {trade}, but I am not sure."
            found.append({"role": role, "id": f"{role}-{i:03}", "question": f"What is the occupation of {person}?",
                          "expected": expected, "answers": given})  # fmt: skip
    return found


def steps(subjects: Sequence[str], seeds: Sequence[int]) -> list[dict[str, Json]]:
    """Twenty logged steps a stage."""
    found = []
    for subject in subjects:
        for seed in seeds:
            for step in range(1, 21):
                loss = 3.2 * math.exp(-step / 8) + 0.1 * seed + 0.02 * (step % 3)
                row = {
                    "time": 1.0 * step,
                    "stage": subject,
                    "seed": seed,
                    "step": step,
                    "loss": loss,
                    "lr": 1e-5,
                    "grad_norm": 0.3,
                }
                if subject == "npo":
                    row |= {"0.npo.forget": loss - 0.4, "1.nll.retain": 0.4 + 0.01 * step}
                found.append(row)
    return found


RECIPE = """\
name: npo-facts
question: Does NPO forget six invented authors?
seed: 0
data: {use: facts, authors: 12, forget: 0.1}
stages:
  original: {use: train, "on": [forget, retain], steps: 120}
  npo:
    use: gradient
    from: original
    steps: 20
    objective:
    - {use: npo, role: forget, beta: 0.1}
    - {use: nll, role: retain, weight: 1.0}
"""
