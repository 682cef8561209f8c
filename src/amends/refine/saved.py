"""A `Refined` as plain JSON and back, for traces and reports: what a person reads in the ledger, exactly."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from amends.chat.client import Usage
from amends.constraints.constraint import Constraint, Request, Verdict
from amends.core import catalog
from amends.core.errors import UserError
from amends.core.spec import build_use
from amends.refine.parts import Attempt, Refined

VERSION = 1


def to_json(refined: Refined) -> dict[str, Any]:
    """Plain values that `json.dumps` takes; checkers as a recipe would name them."""
    request = refined.request
    return {
        "version": VERSION,
        "request": {
            "id": request.id, "prompt": request.prompt, "task": request.task, "context": request.context,
            "constraints": [_constraint(c) for c in request.constraints],
        },
        "best": refined.best, "stopped": refined.stopped, "usage": dataclasses.asdict(refined.usage),
        "notes": list(refined.notes),
        "attempts": [dataclasses.asdict(a) for a in refined.attempts],
    }  # fmt: skip


def from_json(tree: Mapping[str, Any], at: str = "trace") -> Refined:
    """What `to_json` wrote; a `UserError` at the path `at` where it is something else or a checker is not installed."""
    if not isinstance(tree, Mapping) or tree.get("version") != VERSION:
        raise UserError(f"{at}: not a refined answer of version {VERSION}; write it with this version of amends")
    try:
        request: dict[str, Any] = dict(tree["request"])
        request["constraints"] = tuple(_read(c, at) for c in request["constraints"])
        return Refined(
            Request(**request), tree["best"], tuple(_attempt(a) for a in tree["attempts"]), tree["stopped"],
            Usage(**tree["usage"]), tuple(tree["notes"]),
        )  # fmt: skip
    except (KeyError, TypeError) as error:
        raise UserError(f"{at}: not a refined answer ({error}); it may have been edited or cut off") from None


def checker_use(checker: Any) -> dict[str, Any]:
    """`{use: name, ...}` of a checker: the same words that a recipe would build it with."""
    cls = type(checker)
    names = {catalog.normal(e.name): e.name for e in catalog.list_kind("checkers")}
    name = names.get(catalog.normal(cls.__name__), cls.__name__)
    return {"use": name} | {f.name: _plain(getattr(checker, f.name)) for f in dataclasses.fields(cls)}


def _constraint(constraint: Constraint) -> dict[str, Any]:
    return {
        "id": constraint.id, "text": constraint.text, "category": constraint.category, "hard": constraint.hard,
        "weight": constraint.weight, "depends_on": list(constraint.depends_on),
        "checker": checker_use(constraint.checker) if constraint.checker is not None else None,
    }  # fmt: skip


def _read(tree: Mapping[str, Any], at: str) -> Constraint:
    use = tree["checker"]
    checker = build_use("checkers", use, f"{at}.{tree['id']}.checker") if use else None
    values: dict[str, Any] = dict(tree)
    values |= {"checker": checker, "depends_on": tuple(tree["depends_on"])}
    return Constraint(**values)


def _attempt(tree: Mapping[str, Any]) -> Attempt:
    values: dict[str, Any] = dict(tree)
    verdicts = tuple(_said(v) for v in tree["verdicts"])
    values |= {"verdicts": verdicts, "usage": Usage(**tree["usage"]), "warnings": tuple(tree["warnings"])}
    return Attempt(**values)


def _said(tree: Mapping[str, Any]) -> Verdict:
    values: dict[str, Any] = dict(tree)
    values["span"] = tuple(tree["span"]) if tree["span"] else None
    return Verdict(**values)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(inner) for key, inner in value.items()}
    return [_plain(inner) for inner in value] if isinstance(value, (tuple, list, frozenset, set)) else value
