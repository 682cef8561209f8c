"""`amends audit`: your training data, the classifier that was trained on it, and which rows should not have been there."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from amends.cli.options import Runs, Sets, Trackers
from amends.core import catalog
from amends.core.errors import UserError

Data = Annotated[
    Path,
    typer.Argument(
        metavar="DATA",
        help="A folder of images (a sub-folder for each class), a Hugging Face data set (a folder, or its name on the hub), an "
        ".npz file, or a recipe.",
    ),
]
Model = Annotated[str, typer.Option(help="The classifier's folder: of transformers, or RUN/stages/NN-NAME/model of a run.")]
By = Annotated[
    str,
    typer.Option(
        metavar="NAME,...",
        help="Auditors; the first decides: " + ", ".join(e.name for e in catalog.list_kind("auditors")) + ". "
        "By default mspc where it is there, else spc; activation_clustering for texts.",
    ),
]
Then = Annotated[
    str, typer.Option(metavar="NAME,...", help="Go on without the flagged rows: retrain, or see `amends methods`.")
]


def audit(
    data: Data,
    model: Model,
    by: By = "",
    then: Then = "",
    rows: Annotated[Path | None, typer.Option(help="Your own choice of rows: ids, or an edited flags.csv.")] = None,
    out: Annotated[Path | None, typer.Option(help="Use exactly this folder for the run; else one below --runs.")] = None,
    test: Annotated[Path | None, typer.Option(help="Test rows, for what unlearning costs.")] = None,
    triggered: Annotated[Path | None, typer.Option(help="Images with the trigger, below the attacker's class.")] = None,
    clean: Annotated[Path | None, typer.Option(help="Rows known to be clean, for auditors that learn from some.")] = None,
    rate: Annotated[float | None, typer.Option(help="The share of bad rows that is expected, for auditors that ask.")] = None,
    show: Annotated[int, typer.Option(min=0, help="Rows with the highest scores on the page.")] = 12,
    seeds: Annotated[str, typer.Option(metavar="N,...", help="Seeds, each a replication of what comes after the audit.")] = "",
    size: Annotated[int | None, typer.Option(min=1, help="Scale every image to this many pixels a side.")] = None,
    channels: Annotated[int | None, typer.Option(min=1, max=3, help="1 for grey, 3 for colour; else as the model.")] = None,
    skip_broken: Annotated[bool, typer.Option("--skip-broken", help="Leave out images that cannot be decoded.")] = False,
    allow_empty: Annotated[bool, typer.Option("--allow-empty", help="A class may have no rows.")] = False,
    trust_order: Annotated[bool, typer.Option("--trust-order", help="Classes are in the model's order, renamed.")] = False,
    mean: Annotated[str, typer.Option(metavar="R,G,B", help="What the model wants subtracted, in 0..1.")] = "",
    std: Annotated[str, typer.Option(metavar="R,G,B", help="And what it wants inputs divided by.")] = "",
    normalise: Annotated[Literal["outside", "inside", "none"] | None, typer.Option(help="Or who does so.")] = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="Length of --then; the method's own by default.")] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Optimiser steps instead of epochs.")] = None,
    lr: Annotated[float | None, typer.Option(help="Learning rate of --then; the method's own by default.")] = None,
    batch: Annotated[int, typer.Option(min=1, help="Rows a step.")] = 64,
    runs: Runs = Path("runs"), sets: Sets = None, track: Trackers = None,
) -> None:  # fmt: skip
    """Find the rows of training data that a classifier should not have been trained on: flags, a page, and what to do next."""
    from amends.cli.run import carry_out
    from amends.engine.parallel import is_main_process
    from amends.runs import console, overrides
    from amends.runs.audit_data import Reading
    from amends.runs.audit_model import Normal
    from amends.runs.audit_request import AuditRequest
    from amends.runs.recipe import Resolved, build_recipe
    from amends.runs.run import choose_folder

    if epochs is not None and steps is not None:
        raise UserError("audit: give --epochs or --steps, not both")
    request = AuditRequest(
        data=data, model=model, by=names(by, "--by"), then=names(then, "--then"), rows=rows, test=test, triggered=triggered,
        clean=clean, rate=rate, show=show, seeds=tuple(map(whole, names(seeds, "--seeds"))), epochs=epochs, steps=steps,
        lr=lr, batch=batch, reading=Reading(size, channels, skip_broken),
        normal=Normal(numbers(mean, "--mean"), numbers(std, "--std"), normalise), trust_order=trust_order,
        allow_empty=allow_empty,
    )  # fmt: skip
    tree = overrides.apply(request.tree(), dict(map(overrides.parse, sets or ())), "--set")
    resolved = Resolved(build_recipe(tree), tree, None)
    asked = resolved.recipe.audit.auditors if resolved.recipe.audit else ()
    if asked:
        console.say(f"  {', '.join(auditor.name for auditor in asked)}, asking {model} about {data}")
    run = carry_out(resolved, out or choose_folder(resolved, runs, fresh=False), track or [], report=True)
    if is_main_process():
        _tell(run, bool(then))


def _tell(run: Path, went_on: bool) -> None:
    """Where the flags lie, and what to do with them."""
    from amends.runs import console
    from amends.runs.audit_request import ORIGINAL, next_step, remarks
    from amends.runs.flag_tables import CSV, PARQUET
    from amends.runs.record import read_json

    for remark in remarks(run):
        console.say(f"  {remark}")
    flags = [str(run / name) for name in (CSV, PARQUET) if (run / name).is_file()]
    if flags:
        console.out(f"flags:   {', '.join(flags)}")
    decided = next((line for line in read_json(run / "manifest.json").get("audits", ()) if line["decides"]), None)
    if went_on and (decided is None or decided["flagged"]):
        for model in sorted(run.glob("stages/*/model")):
            if not model.parent.name.startswith(f"01-{ORIGINAL}"):
                console.out(f"model:   {model}")
        return
    assert decided is not None
    flagged = decided["flagged"]
    if went_on:
        console.say("  nothing was flagged, so nothing is forgotten and the model stays as it is")
    if flagged:
        console.say(
            "  look at the rows in the report; then go on without them (retrain, or l1-sparse, scrub, ...: amends methods):"
        )
    console.out(f"next:    {next_step(sys.argv[1:], run, flagged)}")


def names(text: str, at: str) -> tuple[str, ...]:
    """The names of a list with commas; raises UserError for an empty one among them."""
    found = tuple(part.strip() for part in text.split(",")) if text.strip() else ()
    if any(not part for part in found):
        raise UserError(f"{at} {text}: a name is missing between two commas")
    twice = next((name for i, name in enumerate(found) if name in found[:i]), None)
    if twice is not None:
        raise UserError(f"{at} {text}: {twice} stands twice")
    return found


def whole(text: str) -> int:
    """A seed; raises UserError for what is none."""
    if not text.isdigit():
        raise UserError(f"--seeds {text}: expected whole numbers from 0 with commas between them, such as 0,1,2")
    return int(text)


def numbers(text: str, at: str) -> tuple[float, ...]:
    """The numbers of a list with commas."""
    try:
        return tuple(float(part) for part in text.split(",")) if text.strip() else ()
    except ValueError:
        raise UserError(f"{at} {text}: expected numbers with commas between them, such as 0.5,0.5,0.5") from None
