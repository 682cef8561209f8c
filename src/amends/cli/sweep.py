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
    budget: Annotated[int | None, typer.Option(min=1, help="Try at most so many points of the grid.")] = None,
    best: Annotated[str | None, typer.Option(metavar="STAGE.MEASUREMENT", help="Name the point where this is best.")] = None,
    keep: Annotated[
        str | None, typer.Option(metavar="STAGE.MEASUREMENT=NUMBER", help="... among those with at least so much of this.")
    ] = None,
    jobs: Jobs = 1, executor: ExecutorName = "local", executor_sets: ExecutorSets = None, as_json: Json = False,
) -> None:  # fmt: skip
    """Run a recipe over a grid of settings and list what came out."""
    from amends.cli.listing import _print
    from amends.core.errors import UserError
    from amends.runs import console
    from amends.runs.executors.choose import choose as place
    from amends.runs.sweep import choose, grid, report_rows, rule_of, run_all

    if keep is not None and best is None:
        raise UserError("--keep: name what is to be best, too: --best STAGE.MEASUREMENT")
    points = grid(recipe, profile, sets or [], over, budget)
    rule = rule_of(points[0].resolved.recipe, best, keep) if best else None
    shared = (runs / points[0].resolved.recipe.name / "stages").resolve()
    folders = run_all(points, runs, place(executor, jobs, executor_sets or (), ("--stages", str(shared))))
    rows = report_rows(points, folders)
    if rule is None:
        _print(rows, list(rows[0]), as_json)
        return
    trials, chosen, spent = choose(points, folders, rule)
    for i, (row, trial) in enumerate(zip(rows, trials, strict=True)):
        row[rule.best] = trial.forgetting
        if rule.keep:
            row[rule.keep] = trial.keeping
        row["best"] = "best" if i == chosen else ""
    _print(rows, list(rows[0]), as_json)
    console.say(f"budget: {len(points)} points, {spent:.0f} s of unlearning")
    if chosen is None:
        raise UserError(f"--best {rule.best}: no point left a number; the folders above say why")
    console.say("best: " + " ".join(f"--set {setting}" for setting in points[chosen].settings))
