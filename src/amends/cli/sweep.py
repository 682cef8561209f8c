"""`amends sweep`: one recipe, many settings, each a run of its own in a process of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from amends.cli.options import ExecutorName, ExecutorSets, Jobs, Json, Profile, Runs, Sets


def sweep(
    recipe: Annotated[str, typer.Argument(help="A recipe's name or YAML file.")],
    over: Annotated[list[str], typer.Option("--over", metavar="KEY=V1,V2", help="Values of one key; repeat for a grid.")],
    profile: Profile = None, sets: Sets = None, runs: Runs = Path("runs"),
    jobs: Jobs = 1, executor: ExecutorName = "local", executor_sets: ExecutorSets = None, as_json: Json = False,
) -> None:  # fmt: skip
    """Run a recipe over a grid of settings and list what came out."""
    from amends.runs.executors.choose import choose
    from amends.runs.sweep import grid, report_rows, run_all

    points = grid(recipe, profile, sets or [], over)
    shared = (runs / points[0].resolved.recipe.name / "stages").resolve()
    folders = run_all(points, runs, choose(executor, jobs, executor_sets or (), ("--stages", str(shared))))
    from amends.cli.listing import _print

    rows = report_rows(points, folders)
    _print(rows, list(rows[0]), as_json)
