"""Carries a bench out: the references first, then every method, and everything that was measured as one value.

Each method is a run of its own, in a folder of its own, so a bench that was stopped goes on where it was, and a method
that fails takes nothing with it. The original and the retrained model are made by the first run and shared with the
others. What is missing is named, with the reason.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from amends.core.errors import UserError
from amends.core.protocols import Executor
from amends.runs import console
from amends.runs.bench import REFERENCES, Bench, Entry, Plan, folder_of_bench
from amends.runs.claims import quantity
from amends.runs.executors.base import LOG
from amends.runs.recipe import Resolved
from amends.runs.record import SCHEMA, read_json, write_text
from amends.runs.search import best_of, folder_of, read_trials, trial_rows
from amends.runs.variants import own_values

RECIPE = "bench.yaml"
"""Each run's recipe, in its folder."""
_KEPT = ("title", "question", "paper", "versions", "git", "device", "processes", "platform", "started", "data", "headline")
_PATH = re.compile(r"(?<![\w.])(?:/[\w.@+-]+)+")


def carry_out(plan: Plan, executor: Executor) -> None:
    """Runs what is not finished. Raises UserError when there is no original to unlearn from."""
    console.say(f"  references: {', '.join(plan.references.tree['stages'])}, seeds {', '.join(map(str, plan.seeds))}")
    (code,) = executor.map([_write(plan, REFERENCES, plan.references)], [plan.folder(REFERENCES)])
    if code != 0:
        folder = plan.folder(REFERENCES)
        raise UserError(f"{folder}: the references could not be made ({_trouble(folder)}); {LOG} there says more")
    ready = [e for e in plan.entries if e.resolved is not None]
    for entry in plan.entries:
        if entry.resolved is None:
            console.say(f"  {entry.method.name} cannot run here: {entry.problem}")
    names = [e.method.name for e in ready]
    recipes = [_write(plan, e.method.name, e.resolved) for e in ready if e.resolved is not None]
    list(executor.map(recipes, [plan.folder(name) for name in names]))


def _write(plan: Plan, name: str, resolved: Resolved) -> Path:
    return _write_into(plan.folder(name), resolved)


def _write_into(folder: Path, resolved: Resolved) -> Path:
    if _manifest(folder).get("recipe_hash") != resolved.hash:  # numbers of other settings must not pass for these
        for stale in ("results.json", "claims.json", "manifest.json"):
            (folder / stale).unlink(missing_ok=True)
    write_text(folder / RECIPE, resolved.as_yaml())
    return folder / RECIPE


def gather(plan: Plan) -> dict[str, Any]:
    """Everything that the runs left, as one value; no path of this machine is in it."""
    first = _manifest(plan.folder(REFERENCES))
    references = _results(plan.folder(REFERENCES))
    found: dict[str, Any] = {
        "schema": SCHEMA, "name": plan.bench.name, "profile": plan.bench.profile,
        **{key: first[key] for key in _KEPT if key in first},
        "status": "ok", "bench_hash": plan.bench.print, "seeds": list(plan.seeds), "seconds": first.get("seconds", 0.0),
        "rank": {k: getattr(plan.bench.rank, k) for k in ("forgetting", "keeping", "at_least")},
        "notes": list(plan.bench.notes), "methods": [], "stages": list(first.get("stages", ())),
        "measurements": references["measurements"], "recovered": references["recovered"], "claims": [],
    }  # fmt: skip
    for entry in plan.entries:
        _add(plan, entry, first, found)
    values = partial(quantity, stages=found["stages"], measured=found["measurements"], recovered=found["recovered"])
    found["claims"] = [claim.judge(values) for claim in plan.bench.expect]
    return found


def look(
    bench: Bench, methods: Sequence[str], seeds: Sequence[int], runs: Path, executor: Executor
) -> tuple[Bench, dict[str, Any]]:
    """Tries settings of each method with the bench's budget; the bench with what was chosen, and what was tried.

    Raises UserError when the bench has no `search`, or when its seed is one of the table's. A method whose trials cannot
    run keeps the settings of the file, and the reason stands in place of its trials.
    """
    if bench.search is None:
        raise UserError(f"{bench.name}: search: the bench does not say what to try: give it `search.over`")
    bench.search.check_apart(seeds)
    root = folder_of_bench(bench, runs)
    ready, tried, starts = {}, {}, {}
    for method in bench.methods(methods):
        try:
            ready[method.name] = bench.trials(method)
            starts[method.name] = bench.start(method)
        except UserError as error:
            tried[method.name] = {"why": _short(str(error)), "trials": []}
    places = {name: folder_of(root, name) for name in ready}
    recipes = [_write_into(places[name], resolved) for name, (resolved, _) in ready.items()]
    list(executor.map(recipes, list(places.values())))
    settings, by = dict(bench.settings), bench.chosen_by
    better = next(m.better for m in bench.references((0,)).recipe.measure if m.name == by.forgetting)
    for name, (_, points) in ready.items():
        results, stages = _results(places[name]), _manifest(places[name]).get("stages", ())
        floor = bench.search.at_least * next(
            (r["value"] for r in results["measurements"] if (r["subject"], r["name"]) == (starts[name], by.keeping)),
            0.0,
        )
        trials = read_trials(results, stages, points, by)
        best = best_of(trials, better, floor)
        tried[name] = {"why": "" if best is not None else _trouble(places[name]), "trials": trial_rows(trials, best)}
        if best is not None:
            settings[name] = {**bench.settings.get(name, {}), **points[best]}
    said = {k: getattr(bench.search, k) for k in ("seed", "budget", "at_least")}
    said |= {"forgetting": by.forgetting, "keeping": by.keeping}
    return replace(bench, settings=settings), {**said, "methods": tried}


def _add(plan: Plan, entry: Entry, first: Mapping[str, Any], found: dict[str, Any]) -> None:
    name = entry.method.name
    folder = plan.folder(name)
    manifest, results = (_manifest(folder), _results(folder)) if entry.resolved is not None else ({}, _NOTHING)
    stages = [s for s in manifest.get("stages", ()) if s["name"] == name]
    rows = {k: [r for r in results[k] if r["subject"] == name] for k in ("measurements", "recovered")}
    here = {r["seed"] for r in rows["measurements"] if r["attack"] is None and r["value"] is not None}
    why = _short(entry.problem) or _trouble(folder)
    missing = [{"seed": seed, "why": why} for seed in plan.seeds if seed not in here]
    found["stages"] += [s for s in stages if s["seed"] in here]
    found["seconds"] += manifest.get("seconds", 0.0)
    for key, values in rows.items():
        found[key] += values
    for key in ("device", "platform", "versions"):
        if manifest and manifest.get(key) != first.get(key):
            found["notes"].append(f"{name} was run with another {key} than the references: costs cannot be compared.")
    if not _starts(manifest) <= _starts(first):
        found["notes"].append(
            f"{name} starts from other weights than the references: the code changed in between; run the same command again."
        )
    found["methods"].append(
        {
            "name": name, "summary": entry.method.summary, "arxiv": entry.method.arxiv,
            "status": "missing" if not here else "partial" if missing else "ok", "missing": missing,
            "preset": entry.method.preset, "variant": entry.method.variant,
            "tuned": own_values(plan.bench.settings, entry.method),
            "stage": entry.resolved.tree["stages"][name] if entry.resolved is not None else None,
        }
    )  # fmt: skip


def _starts(manifest: Mapping[str, Any]) -> set[str]:
    """The weights of the models that every run of a bench has in common."""
    return {s["weights"] for s in manifest.get("stages", ()) if s["kind"] != "unlearned"}


_NOTHING: Mapping[str, Any] = {"measurements": [], "recovered": []}


def _manifest(folder: Path) -> dict[str, Any]:
    return read_json(folder / "manifest.json") if (folder / "manifest.json").is_file() else {}


def _results(folder: Path) -> Mapping[str, Any]:
    return read_json(folder / "results.json") if (folder / "results.json").is_file() else _NOTHING


def _trouble(folder: Path) -> str:
    """Why a run left no number, in a sentence without paths of this machine."""
    manifest = _manifest(folder)
    if manifest.get("error"):
        return _short(str(manifest["error"]))
    if manifest.get("status") == "running":
        return "the run ended without a word, and can go on"
    with suppress(OSError):
        said = [line for line in (folder / LOG).read_text(errors="replace").splitlines() if line.strip()]
        if said:
            return _short(said[-1].removeprefix("error: "))
    return "it was not started"


def _short(text: str) -> str:
    return _PATH.sub(lambda m: ".../" + m[0].rsplit("/", 1)[-1], " ".join(text.split()))[:300]
