"""A grid of settings of one recipe, as resolved recipes that an executor runs; with a budget and a rule, a search.

The rule is that of `runs/search.py`: of the points that keep enough, the one whose quantity is best. What a search cost, in
points tried and in seconds of their stages, belongs to its result. A quantity is named as in claims, `npo.forget_distance`;
choose on rows that no result is read on (a validation split) or on seeds that no table shows (`--set seeds=[1000]`).
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any, Literal

from amends.core.errors import UserError
from amends.core.protocols import Executor
from amends.runs.claims import Claim, quantity
from amends.runs.recipe import Recipe, Resolved, attack_name, resolve
from amends.runs.record import read_json, write_text
from amends.runs.search import Trial, best_of, drawn


@dataclass(frozen=True)
class Point:
    """One setting: the overrides that make it, and the recipe it resolves to."""

    settings: tuple[str, ...]
    resolved: Resolved


def grid(recipe: str, profile: str | None, sets: Sequence[str], over: Sequence[str], budget: int | None = None) -> list[Point]:
    """Every combination of `KEY=V1,V2` values; all are resolved, so that a mistake shows before anything runs.

    Args:
        budget: at most so many of them, drawn from the grid; the same ones each time.
    """
    axes = []
    for axis in over:
        key, sign, values = axis.partition("=")
        if not sign or not values:
            raise UserError(f"--over {axis}: expected KEY=V1,V2")
        axes.append([f"{key}={value}" for value in values.split(",")])
    combos = list(itertools.product(*axes))
    chosen = drawn(combos, budget, 0, "sweep") if budget is not None else combos
    return [Point(combo, resolve(recipe, profile, [*sets, *combo])) for combo in chosen]


@dataclass(frozen=True)
class Rule:
    """What makes a point the best."""

    best: str
    """The quantity to be small, or large where its measurement says that more is better."""
    better: Literal["higher", "lower"]
    keep: str | None = None
    """The quantity of which a point must have at least `floor`."""
    floor: float = 0.0


def rule_of(recipe: Recipe, best: str, keep: str | None) -> Rule:
    """The rule of `--best npo.forget_distance` and `--keep npo.utility=0.8`. Raises UserError for what is not measured."""
    name, sign, value = (keep or "").partition("=")
    try:
        floor = float(value) if keep else 0.0
    except ValueError:
        raise UserError(f"--keep {keep}: expected STAGE.MEASUREMENT=NUMBER, such as npo.utility=0.8") from None
    stages, known = [s.name for s in recipe.stages], {m.name: m for m in recipe.measure}
    for option, path in (("--best", best), ("--keep", name if keep else None)):
        if path is not None:
            claim = Claim(that=path, at_least=0.0)
            claim.check(option, stages, list(known), [attack_name(a) for a in recipe.attack])
    if keep and not sign:
        raise UserError(f"--keep {keep}: expected STAGE.MEASUREMENT=NUMBER, such as npo.utility=0.8")
    metric = known.get(best.partition(".")[2])
    better = metric.better if metric is not None else "lower"
    if better not in ("higher", "lower"):
        raise UserError(f"--best {best}: it is to be close to the retrained model's, neither high nor low: name a distance")
    return Rule(best, better, name if keep else None, floor)


def choose(points: Sequence[Point], folders: Sequence[Path], rule: Rule) -> tuple[list[Trial], int | None, float]:
    """What each point gave, which one is best, and the seconds that all stages but originals and retrained models took."""
    trials, spent = [], 0.0
    for point, folder in zip(points, folders, strict=True):
        manifest, results = (_json(folder / f"{name}.json") for name in ("manifest", "results"))
        stages = manifest.get("stages", ())
        read = partial(
            quantity, stages=stages, measured=results.get("measurements", ()), recovered=results.get("recovered", ())
        )
        gone, kept = read(rule.best), read(rule.keep) if rule.keep else [rule.floor]
        seconds = sum(s["seconds"] for s in stages if s["kind"] == "unlearned")
        spent += seconds
        settings = dict(s.split("=", 1) for s in point.settings)
        trials.append(Trial(settings, fmean(gone) if gone else None, fmean(kept) if kept else None, seconds))
    return trials, best_of(trials, rule.better, rule.floor), spent


def _json(path: Path) -> dict[str, Any]:
    return read_json(path) if path.is_file() else {}


def run_all(points: Sequence[Point], root: Path, executor: Executor) -> list[Path]:
    """Runs every point that is not finished; returns their folders."""
    folders = [root / p.resolved.recipe.name / f"sweep-{p.resolved.hash[:12]}" for p in points]
    recipes = [folder / "point.yaml" for folder in folders]
    for point, file in zip(points, recipes, strict=True):
        write_text(file, point.resolved.as_yaml())
    list(executor.map(recipes, folders))
    return folders


def report_rows(points: Sequence[Point], folders: Sequence[Path]) -> list[dict[str, Any]]:
    """One row a point: its settings, how it ended, claims met, where it lies."""
    rows = []
    for point, folder in zip(points, folders, strict=True):
        manifest = _json(folder / "manifest.json")
        claims = read_json(folder / "claims.json") if (folder / "claims.json").is_file() else []
        rows.append(
            {
                **dict(s.split("=", 1) for s in point.settings), "status": manifest.get("status", "not started"),
                "claims met": f"{sum(c['verdict'] == 'met' for c in claims)}/{len(claims)}", "folder": str(folder),
            }
        )  # fmt: skip
    return rows
