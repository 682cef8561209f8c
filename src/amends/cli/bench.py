"""`amends bench`: every method on one bench, over seeds, as a table, a JSON file and a page."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from amends.cli.options import ExecutorName, ExecutorSets, Jobs, Json, Plugins, Profile, Runs, Sets, add_plugins

if TYPE_CHECKING:
    from amends.report.leaderboard import Board

Methods = Annotated[str, typer.Option("--methods", "-m", metavar="all|A,B,C", help="Names of `amends methods`, or all.")]

Search = Annotated[bool, typer.Option("--search", help="First look for each method's settings, with the bench's budget.")]


def bench(
    name: Annotated[str, typer.Argument(metavar="BENCH", help="A bench of the library (tofu) or a YAML file.")],
    methods: Methods = "all", seeds: Annotated[int, typer.Option(min=1, help="How many seeds: 0, 1, ...")] = 3,
    model: Annotated[str | None, typer.Option(help="A folder or a name on the hub, in place of the bench's model.")] = None,
    profile: Profile = None, sets: Sets = None, runs: Runs = Path("runs"), jobs: Jobs = 1, executor: ExecutorName = "local",
    executor_sets: ExecutorSets = None, search: Search = False, plugin: Plugins = None,
    out: Annotated[Path | None, typer.Option(help="The JSON file; the page goes beside it [results/BENCH.json]")] = None,
    as_json: Json = False,
) -> None:  # fmt: skip
    """Run methods side by side over seeds: a leaderboard with intervals, costs and worst attacks."""
    add_plugins(plugin)
    from amends.report.leaderboard import Board
    from amends.runs import bench_run, console
    from amends.runs.bench import load, plan
    from amends.runs.executors.choose import choose

    chosen = load(name, profile, sets or (), model)
    wanted = [m.strip() for m in methods.split(",") if m.strip()]
    work = plan(chosen, wanted, seeds, runs)
    plugins = [word for file in plugin or () for word in ("--plugin", str(file.resolve()))]
    place = choose(executor, jobs, executor_sets or (), ["--stages", str(work.stages.resolve()), *plugins])
    searched: dict[str, Any] = {}
    if search:
        chosen, searched["search"] = bench_run.look(chosen, wanted, work.seeds, runs, place)
        work = plan(chosen, wanted, seeds, runs)
    bench_run.carry_out(work, place)
    found = {**bench_run.gather(work), **searched, "jobs": jobs, "executor": executor}
    found["command"] = _command(name, methods, seeds, model, profile, sets or (), search)
    board = Board(found)
    page = _write(board, out or Path("results") / f"{chosen.name}{f'-{profile}' if profile else ''}.json")
    console.out(json.dumps(board.as_dict(), indent=1, ensure_ascii=False) if as_json else board.as_text())
    console.say(f"results: {page.with_suffix('.json')}")
    console.say(f"page:    {page}")


def _write(board: Board, out: Path) -> Path:
    from amends.report import leaderboard_page
    from amends.runs.record import write_json

    write_json(out, board.as_dict())
    return leaderboard_page.write(board, out.with_suffix(".html"))


def _command(
    name: str, methods: str, seeds: int, model: str | None, profile: str | None, sets: Sequence[str], search: bool
) -> str:
    """The command that repeats the bench; a folder of this machine is only called one."""
    given: dict[str, Any] = {"--methods": methods, "--seeds": seeds, "--model": model, "--profile": profile}
    words = [word for key, value in given.items() if value is not None for word in (key, _elsewhere(str(value)))]
    for text in sets:
        key, _, value = text.partition("=")
        words += ["--set", f"{key}={_elsewhere(value)}"]
    return shlex.join(["amends", "bench", _elsewhere(name, Path(name).name), *words, *(["--search"] if search else [])])


def _elsewhere(value: str, instead: str = "FOLDER") -> str:
    return instead if Path(value).is_absolute() else value
