"""Requests as people type them, with the constraints that an answer has to satisfy: a set of RealInstruct's kind.

RealInstruct (Ferraz et al. 2024, arXiv 2410.06458) holds requests of real users, taken apart into task, context and atomic
constraints; it is not public. This set was written for the library, in that form, and comes with it: `docs/real_requests.md`
says how it was made and what it cannot show. Requests with fewer than two constraints are controls for decomposers, which
should find nothing there, and have a role of their own.

A file of your own has one object a line: `id`, `request`, `constraints` (each `id`, `text`, and where code decides it
`checker`), and where you like `task`, `context`, `split`, `lang`, `notes`, `category`, `hard`, `weight`, `depends_on`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from amends.core.errors import UserError, nearest
from amends.core.spec import Count, spec
from amends.core.types import Role, Sample
from amends.data.bundle import Bundle
from amends.data.instructed import bundled, chosen, list_of, located, unlike, words_of
from amends.data.rows import shown
from amends.data.text import FilePath

PACKAGED = Path(__file__).with_name("real_requests.jsonl")
CATEGORIES = (
    "length", "format", "structure", "content", "style", "tone", "audience", "language", "exclusion", "persona", "numeric",
)  # fmt: skip
"""The kinds of demand that the packaged set tells apart; a file of yours may have others."""
SPLITS = ("dev", "test")
KEPT = ("id", "text", "category", "checker", "hard", "weight", "depends_on")
"""What of a constraint goes into a sample; `kind` and `annotators` say how it was made."""
KNOWN = (*KEPT, "kind", "annotators")


@spec
class RealRequests:
    """Requests as people type them, with constraints; the packaged set of 112, or a file of yours in its form."""

    file: FilePath | None = None
    """JSON Lines file of your own; by default the set that the package brings along."""
    limit: Count | None = None
    """At most this many requests of each role, drawn by the seed."""
    longest: Count | None = None
    """Only requests of at most this many characters; for models with a short memory."""
    languages: Annotated[tuple[str, ...], Field(default=())]
    """Only requests whose answer is to be in one of these languages (`en`, `de`, ...); empty means all."""
    without: Annotated[tuple[str, ...], Field(default=())]
    """Leave out requests with such a constraint: a checker's name (`response_language`) or a category (`persona`)."""

    def load(self, seed: int) -> Bundle:
        """Roles dev and test, and `control` for requests with fewer than two constraints. Raises UserError for bad rows."""
        path = self.file or str(PACKAGED)
        roles: dict[Role, list[Sample]] = {"dev": [], "test": [], "control": []}
        seen: dict[str, str] = {}
        for where, row in located(path, "", ""):
            sample = unlike(where, sample_of(row, where), seen)
            controls = self.file is None and len(sample.data["constraints"]) < 2
            roles["control" if controls else _split(row, where)].append(sample)
        filters: dict[str, Any] = {k: getattr(self, k) for k in ("limit", "longest", "languages", "without")}
        return bundled({role: chosen(rows, seed, **filters) for role, rows in roles.items()})


def sample_of(row: Mapping[str, Any], where: str) -> Sample:
    """One row of a file as a sample. Raises UserError with the place and the key."""
    prompt, name = words_of(row, "request", where), words_of(row, "id", where)
    items = list_of(row, "constraints", where, dict, "objects with 'id' and 'text'")
    constraints = [_constraint(item, f"{where}: constraint {i}") for i, item in enumerate(items, 1)]
    ids = [c["id"] for c in constraints]
    if twice := next((i for i in ids if ids.count(i) > 1), None):
        raise UserError(f"{where}: two constraints have the id {shown(twice)}: number them c1, c2, ...")
    for c in constraints:
        if unknown := [d for d in c.get("depends_on", ()) if d not in ids or d == c["id"]]:
            raise UserError(
                f"{where}: constraint {shown(c['id'])}: 'depends_on' names {shown(unknown[0])}, which is no other constraint "
                "of the request: name the id of one"
            )
    told = {key: row[key] for key in ("task", "context", "lang", "notes") if row.get(key)}
    return Sample(name, {"prompt": prompt, "constraints": constraints, **told})


def _constraint(item: Mapping[str, Any], where: str) -> dict[str, Any]:
    for key in item:
        if key not in KNOWN:
            raise UserError(f"{where}: key {shown(key)} is not known{nearest(key, KNOWN)}")
    for key in ("id", "text"):
        words_of(item, key, where, ": a constraint needs 'id' and 'text'")
    checker, kind = item.get("checker"), item.get("kind")
    if checker is not None and not (isinstance(checker, Mapping) and isinstance(checker.get("use"), str)):
        raise UserError(f'{where}: key \'checker\' must be an object that names a checker, {{"use": "no_comma"}}')
    if kind is not None and kind != ("judged" if checker is None else "verifiable"):
        has = "has no" if checker is None else "has a"
        raise UserError(f"{where}: key 'kind' says {shown(kind)} and the constraint {has} checker: mend one of the two")
    if "depends_on" in item:
        list_of(item, "depends_on", where, str, "ids")
    return {key: item[key] for key in KEPT if item.get(key) is not None}


def _split(row: Mapping[str, Any], where: str) -> Role:
    split = row.get("split", "test")
    if split not in SPLITS:
        raise UserError(f"{where}: key 'split' is {shown(split)} and must be dev or test; leave it out for test")
    return split
