"""`amends export`: what a run of arms teaches, as files that training takes: preference pairs, and rows for a critic."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from amends.cli.options import examples
from amends.core.errors import UserError

EXAMPLES = examples(
    ("amends export runs/NAME/TIME-HASH --pairs p.jsonl", "for preference training"),
    ("amends export runs/NAME/TIME-HASH --critic c.jsonl", "for `run critic`"),
    ("amends export o.json --pairs p.jsonl", "of one `refine --out o.json`"),
)
Run = Annotated[
    Path,
    typer.Argument(metavar="RUN", help="A run's folder whose stages answer requests, or what `refine --out` wrote."),
]


def export(
    run: Run,
    pairs: Annotated[Path | None, typer.Option(help="Write {prompt, chosen, rejected} here, by dominance.")] = None,
    critic: Annotated[Path | None, typer.Option(help="Write a critic's questions and labels here.")] = None,
    stages: Annotated[str, typer.Option(metavar="NAME,...", help="Only these stages; else all.")] = "",
    judged: Annotated[bool, typer.Option("--judged", help="Take judges' verdicts as labels too: they may be wrong.")] = False,
) -> None:  # fmt: skip
    """Write a run's answers as training data: JSON Lines of preference pairs, of a critic's rows, or both."""
    from amends.cli.audit import names
    from amends.cli.refine import writable
    from amends.refine.export import EXACT, critic_rows, preference_pairs, write_rows
    from amends.runs import console

    if pairs is None and critic is None:
        raise UserError("export: say what to write: --pairs FILE, --critic FILE, or both")
    for path, at in ((pairs, "--pairs"), (critic, "--critic")):
        writable(path, at)
    if run.is_file():
        if stages:
            raise UserError(f"--stages: {run} is one answer and has no stages")
        answered = [_one(run)]
    else:
        answered = [one for path in _records(run, names(stages, "--stages")) for one in _refined(path)]
    every: list[dict[str, Any]]
    if pairs is not None:
        every = [row for one in answered for row in preference_pairs(one)]
        console.out(f"{write_rows(_once(every), pairs)} pairs: {pairs}")
    if critic is not None:
        sources = (*EXACT, "judge", "supervised") if judged else EXACT
        every = [row for one in answered for row in critic_rows(one, sources)]
        console.out(f"{write_rows(_once(every), critic)} rows: {critic}")


def _records(run: Path, wanted: tuple[str, ...]) -> list[Path]:
    from amends.subjects.responder import RECORDS

    if not run.exists():
        raise UserError(f"{run}: no such folder or file: give the folder of a run, runs/NAME/TIME-HASH")
    if not (run / "stages").is_dir():
        raise UserError(f"{run}: holds no stages: give the folder of a run, runs/NAME/TIME-HASH")
    found = {path: path.parents[1].name.partition("-")[2] for path in sorted(run.glob(f"stages/*/model/{RECORDS}"))}
    if not found:
        raise UserError(f"{run}: no stage of this run answered requests; `use: answer` does")
    lacking = next((name for name in wanted if name not in found.values()), None)
    if lacking is not None:
        raise UserError(f"--stages {lacking}: no stage of this run is called so (known: {', '.join(found.values())})")
    return [path for path, name in found.items() if not wanted or name in wanted]


def _one(path: Path) -> Any:
    """What `amends refine --out` wrote."""
    from amends.refine.saved import from_json

    try:
        return from_json(json.loads(path.read_text(encoding="utf-8")), str(path))
    except (OSError, ValueError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{path}: is no whole JSON file ({error}): write it again with `amends refine --out`") from None


def _refined(path: Path) -> list[Any]:
    from amends.refine.saved import from_json

    found = []
    for number, line in enumerate(path.read_text(encoding="utf-8").split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            raise UserError(f"{path}:{number}: is no JSON: remove the stage's folder and run again") from None
        found.append(from_json(row, f"{path}:{number}"))
    return found


def _once(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Each row once, in order: arms share their first answers."""
    return list({json.dumps(row, sort_keys=True): row for row in rows}.values())
