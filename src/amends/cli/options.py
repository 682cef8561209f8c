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

Method = Annotated[str, typer.Option("--method", "-m", help="See `amends methods`.")]
Epochs = Annotated[int | None, typer.Option(min=1, help="Passes over the forget rows; the method's own by default.")]
Steps = Annotated[int | None, typer.Option(min=1, help="Optimiser steps instead of epochs.")]
Rate = Annotated[float | None, typer.Option(help="Learning rate; the method's own by default.")]
Batch = Annotated[int, typer.Option(min=1, help="Rows of each role a step.")]
Rank = Annotated[int | None, typer.Option(min=1, metavar="RANK", help="Train a LoRA adapter and merge it.")]
Budget = Annotated[float, typer.Option(min=0, max=1, help="Share of the retain probability that may be lost.")]
Until = Annotated[float, typer.Option(min=0, max=1, help="Stop when the forget probability is this low.")]
Seed = Annotated[int, typer.Option(min=0, help="Seed of every random stream.")]
Attacks = Annotated[bool, typer.Option("--attack/--no-attack", help="Try to bring it back in several ways.")]
Dtype = Annotated[str, typer.Option(help="float32 or bfloat16.")]


def examples(*lines: tuple[str, str]) -> str:
    """The end of a help page: commands to copy, each with what it does, short enough to stay on one line of 80 columns."""
    return "\n\n".join(["Examples:", *(f"{command}  # {what}" for command, what in lines)])


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
