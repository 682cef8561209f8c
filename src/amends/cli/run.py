"""`amends run` and `amends resume`."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from amends.cli.options import Plugins, Profile, Runs, Sets, Trackers, add_plugins
from amends.core.errors import UserError

if TYPE_CHECKING:
    from amends.runs.recipe import Resolved

Fresh = Annotated[bool, typer.Option("--fresh", help="Start a new run even if one of the same recipe exists.")]
Out = Annotated[Path | None, typer.Option("--out", help="Use exactly this folder.")]
Stages = Annotated[
    Path | None, typer.Option("--stages", help="Share finished originals and retrained models with other runs in this folder.")
]
WantReport = Annotated[bool, typer.Option("--report/--no-report", help="Build report.html at the end.")]


def run(
    recipe: Annotated[str, typer.Argument(help="A packaged recipe's name (see `amends recipes`) or a YAML file.")],
    profile: Profile = None, sets: Sets = None, runs: Runs = Path("runs"), out: Out = None, fresh: Fresh = False,
    track: Trackers = None, plugin: Plugins = None, report: WantReport = True, stages: Stages = None,
) -> None:  # fmt: skip
    """Run a recipe; run it again and it goes on where it stopped."""
    add_plugins(plugin)
    from amends.runs.recipe import resolve
    from amends.runs.run import choose_folder

    resolved = resolve(recipe, profile, sets or ())
    carry_out(resolved, out or choose_folder(resolved, runs, fresh), track or [], report, stages)


def resume(
    folder: Annotated[Path, typer.Argument(help="The folder of a run that did not finish.")],
    track: Trackers = None, plugin: Plugins = None, report: WantReport = True,
) -> None:  # fmt: skip
    """Go on with an unfinished run, given its folder."""
    add_plugins(plugin)
    from amends.runs.recipe import resolve

    recipe = folder / "recipe.yaml"
    if not recipe.is_file():
        raise UserError(f"{folder}: holds no recipe.yaml, so it is not a run folder")
    carry_out(resolve(str(recipe)), folder, track or [], report)


def carry_out(resolved: Resolved, folder: Path, trackers: list[str], report: bool, stages: Path | None = None) -> Path:
    """Executes, then says in the terminal what came out and where it lies."""
    from amends.engine.parallel import is_main_process
    from amends.runs import console
    from amends.runs.run import execute

    console.say(f"{resolved.recipe.name}: {resolved.recipe.question or resolved.recipe.title}".rstrip(": "))
    console.say(f"  writing to {folder}")
    try:
        folder = execute(resolved, folder, trackers=trackers, stages=stages)
    except BaseException:
        if report and is_main_process():
            _report_on_failure(folder)
        raise
    if is_main_process():
        from amends.report.build import build
        from amends.report.text import summary

        console.out(summary(folder))
        console.out(f"results: {folder}")
        if report:
            console.out(f"report:  {build(folder)}")
    return folder


def _report_on_failure(folder: Path) -> None:
    """A run that ended early has a report, too; the error that ended it is the one that the user must see."""
    from amends.report.build import build
    from amends.runs.record import read_json

    with suppress(Exception):
        if read_json(folder / "manifest.json")["status"] != "running":  # another process's run is its own business
            build(folder)
