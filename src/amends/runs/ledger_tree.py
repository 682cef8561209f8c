"""Recipes of a ledger: a request is what `amends unlearn` runs, with every earlier request measured beside it.

Earlier rows may join the objective (`hold`): they are pushed once more by the method's own forget terms, as one role of
their own whatever the number of requests, so that a step costs one forward more. They are never rows to keep: no other
term may stand on them, and a file of rows to keep that holds one of them is refused.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from amends.core.errors import UserError
from amends.core.types import Role
from amends.runs import overrides
from amends.runs.ledger import Ledger
from amends.runs.ledger_book import BASE, Entry
from amends.runs.ledger_rows import Rows, together
from amends.runs.recipe import Recipe
from amends.runs.request import Request

HELD: Role = "forget_held"
"""The earlier rows that an objective forgets once more."""
NEWEST = "newest"
"""The stage of a test."""
HOLD_WEIGHT = 0.1
"""How hard held rows are pushed, as a share of the new ones. In the recipe sequential-facts (three seeds) the full weight
cost rows to keep 17 to 64 % of their probability, a tenth 8 to 13 %; both took earlier rows far below a retrained model."""
TESTED = ("probability", "extraction_strength")
"""What is measured of every earlier request."""

Tree = dict[str, Any]


def role_of(request: str) -> Role:
    """The role of an earlier request's rows, `forget_r001`."""
    return f"forget_{request}"


def request_tree(ledger: Ledger, entry: Entry, **options: Any) -> Tree:
    """The recipe of a request: from the model it starts from, with every earlier request as a role to be measured."""
    model = ledger.model(entry.start)
    files: dict[str, Any] = {role: ledger.folder / kept.file for role, kept in entry.kept.items()}
    tree = Request(model=model, forget=ledger.folder / entry.rows.file, method=entry.method, **files, **options).tree()
    called = f"{entry.id}{f' ({entry.name})' if entry.name else ''}"
    tree |= {
        "name": f"{entry.id}-{entry.method}",
        "title": f"Request {called}: {entry.method}, starting from {entry.start}",
        "question": f"Does the model of {entry.start} forget the rows of request {called}, do earlier requests stay forgotten, "
        "and what does that cost?",
    }
    earlier = {e.id: e.rows for e in ledger.live if e.again is None}
    _measure(tree, {role_of(i): (ledger.folder / rows.file).resolve() for i, rows in earlier.items()})
    if entry.hold:
        new = ledger.rows_of(entry).by_id
        _hold(tree, entry.method, together(ledger.forgotten().values(), but=new), ledger.folder)
    return tree


def _measure(tree: Tree, earlier: Mapping[Role, Path]) -> None:
    if not earlier:
        return
    tree["data"]["others"] = {role: str(path) for role, path in earlier.items()}
    tree["measure"] += [{"use": metric, "role": role} for role in earlier for metric in TESTED]
    tree["headline"] += [f"probability.{role}" for role in earlier]


def _hold(tree: Tree, method: str, rows: Rows, folder: Path) -> None:
    if not rows.by_id:
        return
    terms = tree["stages"][method].get("objective")
    if terms is None:
        raise UserError(f"--hold: {method} has no objective that earlier rows could join: use --no-hold, or another --method")
    tree["data"]["others"][HELD] = str((folder / rows.write(folder).file).resolve())
    tree["stages"][method]["objective"] = [*terms, *(_lighter(_on(HELD, term)) for term in terms if _role(term) == "forget")]


def _role(term: Mapping[str, Any]) -> Role:
    return _role(term["term"]) if "term" in term else term.get("role", "forget")


def _on(role: Role, term: Mapping[str, Any]) -> Tree:
    return {**term, "term": _on(role, term["term"])} if "term" in term else {**term, "role": role}


def _lighter(term: Tree) -> Tree:
    return {**term, "weight": round(HOLD_WEIGHT * term.get("weight", 1.0), 9)}


def refuse_keeping(recipe: Recipe, method: str) -> None:
    """Raises UserError for an objective that learns or keeps rows which are to be forgotten, as `--set` could make it."""
    stage = next((s for s in recipe.stages if s.name == method), None)
    terms = [w.term for w in getattr(stage.maker, "objective", ())] if stage else []
    pushes = {type(term) for term in terms if term.role == "forget"}
    for term in terms:
        if term.role.startswith("forget_") and type(term) not in pushes:
            raise UserError(
                f"stages.{method}.objective: {type(term).__name__} stands on '{term.role}', rows that an earlier request "
                "forgot: they may be forgotten once more, never kept"
            )


def retest_tree(ledger: Ledger, attack: bool) -> Tree:
    """The recipe of a test: everything measured with the newest model; attacks need the base to compare with."""
    newest = ledger.live[-1]
    every = ledger.forgotten()
    forget = together(every.values()).write(ledger.folder)
    files: dict[str, Any] = {role: ledger.folder / kept.file for role, kept in newest.kept.items()}
    dtype = newest.settings.get("dtype", "float32")
    model = ledger.model(BASE if attack else newest.id)
    tree = Request(model=model, forget=ledger.folder / forget.file, dtype=dtype, attack=attack, **files).tree()
    saved = {"use": "saved", "folder": ledger.model(newest.id), "weights": newest.weights}
    original = {"original": {"use": "pretrained"}} if attack else {}
    tree |= {
        "name": f"test-{newest.id}",
        "title": f"Every request tested again with the model of {newest.id}",
        "question": "Is everything that was ever asked to be forgotten still forgotten?",
        "stages": {**original, NEWEST: {**(saved if attack else {"use": "pretrained"}), "kind": "unlearned"}},
    }
    _measure(tree, {role_of(i): (ledger.folder / ledger.find(i).rows.file).resolve() for i in every})
    tree["attack_measure"] = [f"{metric}.{role}" for role in ("forget", *map(role_of, every)) for metric in TESTED]
    return tree


def with_sets(tree: Tree, sets: Sequence[str]) -> Tree:
    """The tree with the user's `--set`s."""
    return overrides.apply(tree, dict(map(overrides.parse, sets)), "--set")
