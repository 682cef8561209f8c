"""Listing commands: recipes, methods, runs, show, check. Each takes `--json`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from amends.cli.options import Json, Plugins, Profile, Runs, Sets, add_plugins
from amends.core import catalog
from amends.core.errors import UserError


def _print(rows: list[dict[str, Any]], columns: list[str], as_json: bool) -> None:
    from amends.runs import console

    console.out(json.dumps(rows, indent=1, ensure_ascii=False) if as_json else console.table(rows, columns))


def recipes(as_json: Json = False) -> None:
    """The recipes that come with the library."""
    from amends.runs.recipe import packaged, read

    rows = []
    for name, path in packaged().items():
        tree = read(path)
        profiles = ", ".join(tree.get("profiles", {}))
        rows.append({"recipe": name, "profiles": profiles, "title": tree.get("title", ""), "path": str(path)})
    _print(rows, ["recipe", "profiles", "title"], as_json)


def methods(
    kind: Annotated[str, typer.Argument(help="methods, or a kind of part: " + ", ".join(catalog.PLACES))] = "methods",
    as_json: Json = False, plugin: Plugins = None,
) -> None:  # fmt: skip
    """Methods for `amends unlearn`, or the parts that a recipe may use."""
    add_plugins(plugin)
    if kind == "methods":
        from amends.runs.methods import packaged_methods

        rows = [
            {"method": m.name, "paper": m.arxiv, "needs": ", ".join(m.needs) or "-", "what": m.summary}
            for m in packaged_methods().values()
        ]
        _print(rows, ["method", "paper", "needs", "what"], as_json)
        return
    if kind not in catalog.PLACES:
        raise UserError(f"methods: no such kind '{kind}': methods, {', '.join(catalog.PLACES)}")
    rows = [{"use": e.name, "what": e.summary, "from": e.origin} for e in catalog.list_kind(kind)]
    if as_json:
        from amends.core.spec import describe

        rows = [{**row, "fields": describe(e.load())} for row, e in zip(rows, catalog.list_kind(kind), strict=True)]
    _print(rows, ["use", "what"], as_json)


def runs(root: Runs = Path("runs"), as_json: Json = False) -> None:
    """Runs in a folder, newest last."""
    from amends.runs.record import read_json

    rows = []
    for file in sorted(root.glob("*/*/manifest.json"), key=lambda f: f.parent.name):
        m = read_json(file)
        claims = read_json(file.parent / "claims.json") if (file.parent / "claims.json").is_file() else []
        met = f"{sum(c['verdict'] == 'met' for c in claims)}/{len(claims)}" if claims else "-"
        row = {"run": m.get("name"), "profile": m.get("profile") or "-", "status": m.get("status"), "claims met": met}
        rows.append({**row, "started": m.get("started"), "folder": str(file.parent)})
    _print(rows, ["run", "profile", "status", "claims met", "started", "folder"], as_json)


def show(
    recipe: Annotated[str, typer.Argument(help="A recipe's name or YAML file.")],
    profile: Profile = None, sets: Sets = None, plugin: Plugins = None, as_json: Json = False,
) -> None:  # fmt: skip
    """Print the resolved recipe and its hash."""
    add_plugins(plugin)
    from amends.runs import console
    from amends.runs.recipe import resolve

    resolved = resolve(recipe, profile, sets or ())
    if as_json:
        console.out(json.dumps({"hash": resolved.hash, "recipe": resolved.tree}, indent=1, ensure_ascii=False))
    else:
        console.out(f"# hash {resolved.hash}\n{resolved.as_yaml()}".rstrip())


def check(
    recipe: Annotated[str | None, typer.Argument(help="A recipe's name or YAML file.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="Every packaged recipe in every profile.")] = False,
    plugin: Plugins = None, as_json: Json = False,
) -> None:  # fmt: skip
    """Find mistakes in recipes without loading a model."""
    add_plugins(plugin)
    from amends.runs.recipe import locate, packaged, read, resolve

    if (recipe is None) != everything:
        raise UserError("check: name a recipe, or give --all")
    rows = []
    for name in packaged() if everything else [str(recipe)]:
        for profile in [None, *(read(locate(name)).get("profiles") or {})]:
            resolved = resolve(name, profile)
            rows.append(
                {"recipe": name, "profile": profile or "-", "hash": resolved.hash, "stages": len(resolved.recipe.stages)}
            )
    _print(rows, ["recipe", "profile", "hash", "stages"], as_json)
