"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from amends.core import catalog
from amends.core.errors import UserError

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Sets = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change one key by its dotted path; repeatable.")
]
Profile = Annotated[str | None, typer.Option("--profile", "-p", help="A named list of overrides in the recipe.")]
Runs = Annotated[Path, typer.Option("--runs", envvar="AMENDS_RUNS", help="Where run folders go.")]
Plugins = Annotated[
    list[Path] | None, typer.Option("--plugin", metavar="FILE", help="A Python file that adds specs; repeatable.")
]
Trackers = Annotated[
    list[str] | None, typer.Option("--track", help="Mirror numbers to trackio, mlflow, wandb, tensorboard ...")
]

Jobs = Annotated[int, typer.Option("--jobs", min=1, help="Runs at once, at most.")]
ExecutorName = Annotated[str, typer.Option("--executor", help="Where runs are carried out: local, ray or slurm.")]
ExecutorSets = Annotated[
    list[str] | None,
    typer.Option(
        "--executor-set",
        metavar="KEY=VALUE",
        help="ray: address, num_cpus, num_gpus; slurm: cluster, logs, and what submitit takes; repeatable.",
    ),
]


def add_plugins(files: list[Path] | None) -> None:
    """Adds the user's own specs to the catalog before a recipe is read."""
    for file in files or ():
        try:
            catalog.add_file(file)
        except UserError:
            raise
        except Exception as error:  # whatever the user's own file raises
            line = f":{error.lineno}" if isinstance(error, SyntaxError) and error.lineno else ""
            raise UserError(f"--plugin {file}{line}: could not be imported ({type(error).__name__}: {error})") from None
