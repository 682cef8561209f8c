"""Listing commands: recipes, methods, runs, show, check. Each takes `--json`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from amends.cli.options import Json, Plugins, Profile, Runs, Sets, add_plugins
from amends.core import catalog
from amends.core.errors import UserError

if TYPE_CHECKING:
    from amends.runs.recipe import Recipe


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
    """Methods for `amends unlearn` (language models) and benches, or the parts that a recipe may use."""
    add_plugins(plugin)
    if kind == "methods":
        _print([{k: v for k, v in row.items() if as_json or k in _SHOWN} for row in _methods()], list(_SHOWN), as_json)
        return
    if kind not in catalog.PLACES:
        raise UserError(f"methods: no such kind '{kind}': methods, {', '.join(catalog.PLACES)}")
    rows = [{"use": e.name, "what": e.summary, "from": e.origin} for e in catalog.list_kind(kind)]
    if as_json:
        from amends.core.spec import describe

        rows = [{**row, "fields": describe(e.load())} for row, e in zip(rows, catalog.list_kind(kind), strict=True)]
    _print(rows, ["use", "what"], as_json)


_SHOWN = ("method", "for", "paper", "needs", "cost", "recipe", "what")


def _methods() -> list[dict[str, Any]]:
    from amends.runs.about import cost_of, recipe_of
    from amends.runs.methods import packaged_methods

    rows = []
    for m in packaged_methods(None).values():
        cost = cost_of(m)
        numbers = {"forwards": cost.forwards, "backwards": cost.backwards, "copies": cost.copies} if cost else {}
        words = cost.words if cost else f"the stage {m.stage['use']} has a loop of its own"
        rows.append(
            {
                "method": m.name, "for": ", ".join(m.kinds), "paper": m.arxiv, "needs": ", ".join(m.needs) or "-",
                "cost": words, "recipe": recipe_of(m), "what": m.summary, **numbers,
            }
        )  # fmt: skip
    return rows


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


_DATA = "Read the rows and files that it names, too: finds a role, an answer or a mask that is not there."


def check(
    recipe: Annotated[str | None, typer.Argument(help="A recipe's name or YAML file.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="Every packaged recipe and bench in every profile.")] = False,
    data: Annotated[bool, typer.Option("--data", help=_DATA)] = False,
    sets: Sets = None, plugin: Plugins = None, as_json: Json = False,
) -> None:  # fmt: skip
    """Find mistakes in recipes without loading a model."""
    add_plugins(plugin)
    from amends.runs.recipe import locate, packaged, read, resolve

    if (recipe is None) != everything:
        raise UserError("check: name a recipe, or give --all")
    rows = []
    for name in packaged() if everything else [str(recipe)]:
        for profile in [None, *(read(locate(name)).get("profiles") or {})]:
            resolved = resolve(name, profile, sets or ())
            row = {"recipe": name, "profile": profile or "-", "hash": resolved.hash, "stages": len(resolved.recipe.stages)}
            rows.append({**row, "rows": _check_data(name, profile, resolved.recipe)} if data else row)
    rows += _check_benches() if everything else []
    _print(rows, ["recipe", "profile", "hash", "stages", *(["rows"] if data else [])], as_json)


def _check_data(name: str, profile: str | None, recipe: Recipe) -> str:
    """How many rows each role has; raises UserError for what a stage, a metric or an attack lacks."""
    from amends.core.context import around
    from amends.runs.console import Aloud

    try:
        with around(Aloud("data")):
            bundle = recipe.data.load(recipe.seeds[0])
        recipe.check_data(bundle)
    except UserError as error:
        raise UserError(f"{name}{f', profile {profile}' if profile else ''}: {error}") from None
    return ", ".join(f"{len(rows)} {role}" for role, rows in bundle.roles.items())


def _check_benches() -> list[dict[str, Any]]:
    """Every bench with every method, in every profile; a method that does not fit is an error here."""
    from amends.runs.bench import benches, load
    from amends.runs.methods import packaged_methods
    from amends.runs.recipe import read

    rows = []
    for name, path in benches().items():
        for profile in [None, *(read(path).get("profiles") or {})]:
            bench = load(name, profile)
            stages = [len(bench.recipe(method, (0,)).recipe.stages) for method in packaged_methods(bench.kind).values()]
            rows.append({"recipe": f"bench {name}", "profile": profile or "-", "hash": bench.print, "stages": sum(stages)})
    return rows
