"""`amends ledger`: a model in use, its requests to forget in order, and every earlier one tested again after each."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from amends.cli.options import (
    Attacks,
    Batch,
    Budget,
    Dtype,
    Epochs,
    Json,
    Method,
    Rank,
    Rate,
    Seed,
    Sets,
    Steps,
    Trackers,
    Until,
)
from amends.core.errors import UserError

if TYPE_CHECKING:
    from amends.runs.ledger import Ledger
    from amends.runs.ledger_book import Entry
    from amends.runs.recipe import Resolved

T = TypeVar("T")

app = typer.Typer(
    name="ledger", help="Forget one request after another, and test the earlier ones again each time.", no_args_is_help=True
)

Folder = Annotated[Path, typer.Argument(metavar="DIR", help="The ledger's folder.")]
RequestId = Annotated[str, typer.Argument(metavar="REQUEST", help="A request's id, such as r002.")]
Retain = Annotated[Path | None, typer.Option(help="Rows to keep; a fifth is set aside to measure on.")]
Neighbour = Annotated[Path | None, typer.Option(help="Rows close by that must survive; never trained on.")]
Holdout = Annotated[Path | None, typer.Option(help="Rows like the forget rows that no model saw.")]
Rows = Annotated[
    Path | None, typer.Option("--forget", help="Rows to forget: {question, answer}, {prompt, completion} or {text}.")
]
Hold = Annotated[
    bool, typer.Option("--hold/--no-hold", help="Forget the rows of earlier requests once more in the same objective.")
]
Attack = Annotated[bool, typer.Option("--attack/--no-attack", help="Try to bring it back, too; needs the base model.")]


@app.command()
def init(
    folder: Folder, model: Annotated[str, typer.Option(help="A local folder, a .gguf file, or a name on the hub.")],
    retain: Retain = None, neighbour: Neighbour = None, holdout: Holdout = None,
) -> None:  # fmt: skip
    """Start a ledger for a model, with the rows that must survive every request."""
    from amends.runs import console
    from amends.runs.ledger import Ledger, locked

    with locked(folder):
        ledger = Ledger.create(folder, model, _given(retain=retain, neighbour=neighbour, holdout=holdout))
    rows = ", ".join(f"{kept.count} {role}" for role, kept in ledger.book.kept.items()) or "no rows to keep"
    console.out(f"ledger:  {folder}  (base {ledger.book.base.name}, weights {ledger.book.base.weights}, {rows})")


@app.command()
def forget(
    folder: Folder,
    rows: Rows = None,
    again: Annotated[str | None, typer.Option(metavar="REQUEST", help="Or the rows of an earlier request, once more.")] = None,
    name: Annotated[str, typer.Option(help="Who asks, or why; stands in the ledger and its report.")] = "",
    hold: Hold = False,
    retain: Retain = None, neighbour: Neighbour = None, holdout: Holdout = None,
    method: Method = "npo",
    epochs: Epochs = None,
    steps: Steps = None,
    lr: Rate = None,
    batch: Batch = 8,
    lora: Rank = None,
    budget: Budget = 0.1,
    until: Until = 0.05,
    seed: Seed = 0,
    attack: Attacks = True,
    dtype: Dtype = "float32",
    sets: Sets = None, track: Trackers = None,
) -> None:  # fmt: skip
    """Forget one request, starting from the newest model; run it again and it goes on where it stopped."""
    if (rows is None) == (again is None):
        raise UserError("ledger forget: give either --forget FILE or --again REQUEST")
    if epochs is not None and steps is not None:
        raise UserError("ledger forget: give --epochs or --steps, not both")
    options = {
        "epochs": epochs, "steps": steps, "lr": lr, "batch": batch, "lora": lora, "budget": budget, "until": until,
        "seed": seed, "attack": attack, "dtype": dtype,
    }  # fmt: skip
    kept = _given(retain=retain, neighbour=neighbour, holdout=holdout)
    with _held(folder):
        ledger, entry, tree = _in_step(lambda: _begin(folder, rows, again, name, method, hold, kept, options, sets or ()))
        _carry_out(ledger, entry, tree, track or [])


@app.command()
def test(
    folder: Folder, attack: Attack = False, sets: Sets = None, track: Trackers = None,
) -> None:  # fmt: skip
    """Measure every request once more with the newest model."""
    from amends.cli.run import carry_out
    from amends.engine.parallel import is_main_process
    from amends.runs.ledger_tree import NEWEST

    with _held(folder):
        ledger, tree = _in_step(lambda: _retest(folder, attack, sets or ()))
        resolved = _resolved(tree)
        run = carry_out(resolved, ledger.folder / "tests" / resolved.hash[:12], track or [], report=True)
        if is_main_process():
            ledger.tested(run, NEWEST)
            _show(folder)


@app.command()
def show(folder: Folder, as_json: Json = False) -> None:
    """Every request after each later one, what is kept, and what has come back."""
    from amends.runs import console
    from amends.runs.ledger import Ledger

    ledger = Ledger.open(folder)
    if as_json:
        from amends.report.drift import load

        console.out(json.dumps({**asdict(ledger.book), "drift": load(folder).as_dict()}, indent=1, ensure_ascii=False))
    else:
        _show(folder, page=False)


@app.command()
def report(folder: Folder) -> None:
    """Build report.html, one page about the whole ledger."""
    from amends.report.ledger import build
    from amends.runs import console
    from amends.runs.ledger import Ledger

    Ledger.open(folder)
    console.out(str(build(folder)))


@app.command()
def undo(folder: Folder, request: RequestId) -> None:
    """Take the last request back: it stays in the book as withdrawn, and the model before it is the newest again."""
    from amends.runs import console
    from amends.runs.ledger import Ledger, locked

    with locked(folder):
        ledger = Ledger.open(folder)
        entry = ledger.withdraw(request)
    console.out(f"{entry.id} is withdrawn; the newest model is that of {ledger.newest}: {ledger.model(ledger.newest)}")
    console.say(f"  its files are left in {folder / entry.folder}: remove them when you need them no more")


def _given(**files: Path | None) -> dict[str, Path]:
    return {role: path for role, path in files.items() if path is not None}


def _held(folder: Path) -> Any:
    """The ledger's lock, in the process that writes."""
    from amends.engine.parallel import is_main_process
    from amends.runs.ledger import locked

    if not (folder / "ledger.json").is_file():  # a mistyped folder must not be made
        return nullcontext()
    return locked(folder) if is_main_process() else nullcontext()


def _in_step(work: Callable[[], T]) -> T:
    """Done by the main process alone, and known to all of them."""
    from amends.engine.parallel import Parallel, is_main_process

    found = work() if is_main_process() else None
    return Parallel().same(found)


def _resolved(tree: dict[str, Any]) -> Resolved:
    from amends.runs.recipe import Resolved, build_recipe

    return Resolved(build_recipe(tree), tree, None)


def _begin(
    folder: Path, file: Path | None, again: str | None, name: str, method: str, hold: bool, kept: dict[str, Path],
    options: dict[str, Any], sets: Sequence[str],
) -> tuple[Ledger, Entry, dict[str, Any]]:  # fmt: skip
    """Everything that can be found wrong without a model; the request stands in the book afterwards."""
    from amends.runs import console
    from amends.runs.ledger import Ledger
    from amends.runs.ledger_rows import gather
    from amends.runs.ledger_tree import refuse_keeping, request_tree, with_sets
    from amends.runs.request import describe

    ledger = Ledger.open(folder)
    rows = gather(file, "forget") if file is not None else None
    with ledger.all_or_nothing():
        entry = ledger.begin(rows, again, kept, name=name, method=method, hold=hold, settings={**options, "set": list(sets)})
        tree = with_sets(request_tree(ledger, entry, **options), sets)
        recipe = _resolved(tree).recipe
        refuse_keeping(recipe, method)
    if rows is not None and rows.twice:
        console.say(f"  {rows.twice} row(s) stand in {file} more than once, and are taken once")
    for earlier, count in entry.overlaps.items():
        console.say(f"  {count} of the {entry.rows.count} rows were forgotten in {earlier} already")
    console.say(f"  {entry.id}, starting from {entry.start}: {describe(recipe)}")
    return ledger, entry, tree


def _carry_out(ledger: Ledger, entry: Entry, tree: dict[str, Any], track: list[str]) -> None:
    from amends.cli.run import carry_out
    from amends.engine.parallel import is_main_process
    from amends.runs import console
    from amends.runs.request import hand_over

    out = ledger.folder / entry.folder
    run = carry_out(_resolved(tree), out / "run", track, report=True)
    if not is_main_process():
        return
    if hand_over(run, entry.method, out) == 0:
        console.say("  warning: a guard stopped before the first step: nothing was unlearned, and the model is the one before")
    ledger.finish(entry, run, entry.method)
    _show(ledger.folder)
    console.out(f"model:   {out}  (AutoModelForCausalLM.from_pretrained)")


def _retest(folder: Path, attack: bool, sets: Sequence[str]) -> tuple[Ledger, dict[str, Any]]:
    from amends.runs.ledger import Ledger
    from amends.runs.ledger_book import BASE
    from amends.runs.ledger_tree import retest_tree, with_sets

    ledger = Ledger.open(folder)
    if not ledger.live:
        raise UserError(f"{folder}: no request has been met yet, so there is nothing to test again")
    ledger.check_model(ledger.newest)
    if attack:
        ledger.check_model(BASE)
    return ledger, with_sets(retest_tree(ledger, attack), sets)


def _show(folder: Path, page: bool = True) -> None:
    from amends.report.drift import load
    from amends.report.ledger import build
    from amends.runs import console

    console.out(load(folder).as_text())
    if page:
        console.out(f"ledger:  {build(folder)}")
