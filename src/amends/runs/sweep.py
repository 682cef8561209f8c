"""A grid of settings of one recipe, as resolved recipes that an executor runs."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from amends.core.errors import UserError
from amends.core.protocols import Executor
from amends.runs.recipe import Resolved, resolve
from amends.runs.record import read_json, write_text


@dataclass(frozen=True)
class Point:
    """One setting: the overrides that make it, and the recipe it resolves to."""

    settings: tuple[str, ...]
    resolved: Resolved


def grid(recipe: str, profile: str | None, sets: Sequence[str], over: Sequence[str]) -> list[Point]:
    """Every combination of `KEY=V1,V2` values; all are resolved, so that a mistake shows before anything runs."""
    axes = []
    for axis in over:
        key, sign, values = axis.partition("=")
        if not sign or not values:
            raise UserError(f"--over {axis}: expected KEY=V1,V2")
        axes.append([f"{key}={value}" for value in values.split(",")])
    return [Point(combo, resolve(recipe, profile, [*sets, *combo])) for combo in itertools.product(*axes)]


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
        manifest = read_json(folder / "manifest.json") if (folder / "manifest.json").is_file() else {}
        claims = read_json(folder / "claims.json") if (folder / "claims.json").is_file() else []
        rows.append(
            {
                **dict(s.split("=", 1) for s in point.settings), "status": manifest.get("status", "not started"),
                "claims met": f"{sum(c['verdict'] == 'met' for c in claims)}/{len(claims)}", "folder": str(folder),
            }
        )  # fmt: skip
    return rows
