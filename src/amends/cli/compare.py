"""`amends report` and `amends compare`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from amends.cli.options import Json
from amends.core.errors import UserError


def report(folder: Annotated[Path, typer.Argument(help="A run folder.")]) -> None:
    """Build report.html again from what a run left."""
    _run_folder(folder)
    from amends.report.build import build
    from amends.runs import console

    console.out(str(build(folder)))


def compare(
    folders: Annotated[list[Path], typer.Argument(help="Two or more run folders.")],
    html: Annotated[Path | None, typer.Option("--html", help="Also write a page.")] = None, as_json: Json = False,
) -> None:  # fmt: skip
    """Put runs side by side: what changed in the recipe, and in the numbers."""
    if len(folders) < 2:
        raise UserError("compare: give two or more run folders")
    for folder in folders:
        _run_folder(folder)
    from amends.report import compare as report_compare
    from amends.runs import console

    result = report_compare.compare(folders)
    console.out(json.dumps(result.as_dict(), indent=1, ensure_ascii=False) if as_json else result.as_text())
    if html is not None:
        console.out(str(report_compare.write(result, html)))


def _run_folder(folder: Path) -> None:
    if not (folder / "manifest.json").is_file():
        raise UserError(f"{folder}: holds no manifest.json, so it is not a run folder")
