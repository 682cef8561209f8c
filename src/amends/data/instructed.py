"""Requests with constraints as rows: what the loaders of instruction sets share, and the one way from a row to a `Request`.

A sample's data is plain JSON. `prompt` is what is asked; `constraints` is a list of objects, each either of the library's own
form (`id`, `text`, `checker` as `{use: name, ...}`, `category`, `hard`, `weight`, `depends_on`) or of IFEval's (`id`,
`instruction`, `kwargs`, and `of`, the benchmark), whose meaning lies in `amends.constraints`. So fingerprints and score files
need no checker and no package of the extra; `constraints_of` makes checkers of them when somebody is about to check.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from amends.constraints.constraint import Constraint, Request
from amends.core.catalog import normal
from amends.core.errors import UserError
from amends.core.spec import build, build_use
from amends.core.types import Role, Sample
from amends.data.bundle import Bundle
from amends.data.hub import Hub
from amends.data.rows import numbered_rows, shown
from amends.data.splits import shuffled
from amends.data.text import resolve

Located = tuple[str, Mapping[str, Any]]
"""Where a row stands, for errors, and the row."""


# ---------------------------------------------------------------------- from a sample to a request


def request_of(sample: Sample) -> Request:
    """A row as the request that loops, critics and decomposers take."""
    data = sample.data
    return Request(sample.id, data["prompt"], constraints_of(sample), data.get("task", ""), data.get("context", ""))


def constraints_of(sample: Sample) -> tuple[Constraint, ...]:
    """The constraints of a row of any instruction set, with their checkers. Raises UserError that names row and constraint."""
    items = sample.data.get("constraints", ())
    return tuple(_constraint(item, f"{sample.id}.constraints.{i}") for i, item in enumerate(items))


def _constraint(item: Mapping[str, Any], at: str) -> Constraint:
    if "instruction" not in item:
        return build(Constraint, item, at)
    checker = _published(item, at)
    category = item["instruction"].partition(":")[0]
    return Constraint(id=item["id"], text=checker.told(), checker=checker, category=category, depends_on=())


def _published(item: Mapping[str, Any], at: str) -> Any:
    """The checker behind an id of IFEval; or of IFBench, where the row is from there and IFEval has no such id."""
    from amends.constraints.ifeval import TYPES, checker_of

    instruction, kwargs = item["instruction"], item["kwargs"]
    if item.get("of") == "ifbench" and instruction not in TYPES:
        return build_use("checkers", {"use": "ifbench", "type": instruction, "kwargs": kwargs}, at)
    return checker_of(instruction, kwargs, at)


# ---------------------------------------------------------------------- rows of files and of the hub


def located(file: str | None, hub: str, split: str, revision: str | None = None) -> Iterator[Located]:
    """The rows of a file, or of a split on the hub, each with its place. Raises UserError for what is not an object."""
    if file is None:
        rows: Iterable[tuple[str, Any]] = (
            (f"{hub}, split '{split}', row {i}", row) for i, row in enumerate(Hub(name=hub, revision=revision).plain(split))
        )
    else:
        path = resolve(file)
        rows = ((f"{path}:{line}", row) for line, row in numbered_rows(path))
    for where, row in rows:
        if not isinstance(row, Mapping):
            raise UserError(f"{where}: a row must be an object with keys, not {_kind(row)}: write one object a line")
        yield where, row


def files_of(path: Path, pattern: str) -> list[Path]:
    """A file, or the files of a folder that match, by name. Raises UserError where there are none."""
    if path.is_dir():
        found = sorted(path.glob(pattern))
        if not found:
            raise UserError(f"{path}: holds no file {pattern}: name the folder with the set's files, or one of them")
        return found
    return [path]


def words_of(row: Mapping[str, Any], key: str, where: str, remedy: str = "") -> str:
    """The text under a key; raises UserError for anything else than a text that is not blank."""
    value = row.get(key)
    if not isinstance(value, str) or not value.strip():
        what = shown(value) if isinstance(value, str) else _kind(value)
        got = "is missing" if key not in row else f"must be a text that is not blank, not {what}"
        raise UserError(f"{where}: key '{key}' {got}{remedy or ': mend or remove the row'}")
    return value


def list_of(row: Mapping[str, Any], key: str, where: str, kind: type | tuple[type, ...], of: str) -> list[Any]:
    """The list under a key, each of whose items is of a kind; raises UserError that says what it is instead."""
    value = row.get(key)
    if not isinstance(value, (list, tuple)) or not all(isinstance(item, kind) for item in value):
        got = "is missing" if key not in row else f"must be a list of {of}"
        raise UserError(f"{where}: key '{key}' {got}: mend or remove the row")
    return list(value)


def _kind(value: object) -> str:
    names: dict[type, str] = {bool: "true or false", int: "a number", float: "a number", str: "a text", list: "a list"}
    return "null" if value is None else names.get(type(value), "an object")


def unlike(where: str, sample: Sample, seen: dict[str, str]) -> Sample:
    """The sample, its id noted with its place; raises UserError where the id is another row's."""
    if sample.id in seen:
        raise UserError(f"{where}: id {shown(sample.id)} is that of {seen[sample.id]} too: give each row an id of its own")
    seen[sample.id] = where
    return sample


# ---------------------------------------------------------------------- which of them are used


def chosen(
    samples: Sequence[Sample],
    seed: int,
    *,
    limit: int | None = None,
    longest: int | None = None,
    languages: Sequence[str] = (),
    without: Sequence[str] = (),
    skip: int = 0,
) -> tuple[Sample, ...]:
    """The rows that pass every filter, at most `limit` of them, drawn by the seed alone and left in their order.

    With `skip` the first so many that would be drawn are left out: disjoint from what `limit: skip` draws.

    `longest` is in characters of the prompt; `languages` are those that the answer is to be in; `without` names demands by
    IFEval's id (whole, or the part behind the colon), by the checker's name or by the category, and a row with one is left out.
    """
    gone = {normal(name) for name in without}
    kept = [
        s
        for s in samples
        if (longest is None or len(s.data["prompt"]) <= longest)
        and (not languages or s.data.get("lang", "en") in languages)
        and not gone & {normal(name) for name in names_in(s)}
    ]
    if skip == 0 and (limit is None or limit >= len(kept)):
        return tuple(kept)
    drawn = set(shuffled((s.id for s in kept), seed, "instructed")[skip : None if limit is None else skip + limit])
    return tuple(s for s in kept if s.id in drawn)


def names_in(sample: Sample) -> Iterator[str]:
    """What `without` can call a row's constraints."""
    for instruction in sample.data.get("instruction_id_list", ()):
        yield from (instruction, instruction.rpartition(":")[2])
    yield from sample.data.get("kinds", ())  # where a demand is of several kinds, and its category is but one of them
    for item in sample.data["constraints"]:
        yield from (item.get("category", ""), (item.get("checker") or {}).get("use", ""))


def bundled(roles: Mapping[Role, Sequence[Sample]], remarks: Iterable[str] = ()) -> Bundle:
    """A bundle of the roles that hold rows. Raises UserError where the filters left none at all."""
    filled = {role: tuple(rows) for role, rows in roles.items() if rows}
    if not filled:
        raise UserError("data: no request is left: widen data.longest, data.languages or data.without, or look into the file")
    return Bundle(filled, notes=tuple(remarks)).check()
