"""A request's constraints as a file that people edit: YAML or JSON, the same for the loop, for a guard and for a test suite.

    prompt: Write to the landlord about the oven.      # may be left out
    task: a letter
    constraints:
    - id: c1
      text: Use at most 150 words.
      use: number_words
      args: {num_words: 150, relation: at most}
    - id: c2
      text: Be polite.
      hard: false
      weight: 2
      depends_on: [c1]
      category: style

A checker is named by `use` and `args`, or in one mapping, `checker: {use: number_words, num_words: 150, relation: at most}`; a
constraint with neither is decided by a judge, one with a checker may leave out its text. What is wrong is a UserError that
names the file, the constraint, the key and the nearest valid one.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from amends.constraints.constraint import Constraint, Request, Verdict
from amends.constraints.looked import check_order, verdicts
from amends.core import catalog, yamls
from amends.core.errors import UserError, nearest
from amends.core.spec import build, build_use

_KEYS = ("prompt", "task", "context", "constraints")
_OF_ONE = ("id", "text", "use", "args", "checker", "hard", "weight", "depends_on", "category")


@dataclass(frozen=True, slots=True)
class Sheet:
    """What is asked of one answer."""

    constraints: tuple[Constraint, ...]
    prompt: str = ""
    task: str = ""
    context: str = ""

    def request(self, name: str = "sheet") -> Request:
        """As a request with an id."""
        return Request(name, self.prompt, self.constraints, self.task, self.context)


def check_text(sheet: Sheet, text: str, loose: bool = False) -> tuple[Verdict, ...]:
    """One verdict for each constraint by code alone; None for those that need a judge. An empty text meets nothing."""
    return verdicts(sheet.constraints, text, loose)


def load(path: Path | str) -> Sheet:
    """A sheet from a `.yaml`, `.yml` or `.json` file."""
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read ({error}); give a YAML or JSON file of constraints") from None
    return parse(text, str(path))


def parse(text: str, at: str = "sheet") -> Sheet:
    """A sheet from YAML, of which JSON is a part; `at` is the file that errors name."""
    try:
        value = yamls.load(text)
    except yaml.YAMLError as error:
        raise UserError(f"{at}: is no YAML ({' '.join(str(error).split())})") from None
    return from_plain(value, at)


def from_plain(value: Any, at: str = "sheet") -> Sheet:
    """A sheet from plain mappings and lists."""
    if not isinstance(value, Mapping):
        got = "nothing: the file is empty" if value is None else type(value).__name__
        raise UserError(f"{at}: expected a mapping with `constraints:`, got {got}")
    _known(value, _KEYS, f"{at}: ")
    items = value.get("constraints")
    if not isinstance(items, list) or not items:
        raise UserError(f"{at}: constraints: expected a list of at least one constraint, got {items!r}")
    for key in ("prompt", "task", "context"):
        if not isinstance(value.get(key) or "", str):
            raise UserError(f"{at}: {key}: expected text, got {value[key]!r}")
    constraints = tuple(_constraint(item, i, f"{at}: constraints") for i, item in enumerate(items))
    check_order(constraints, f"{at}: constraints")
    return Sheet(constraints, *(value.get(key) or "" for key in ("prompt", "task", "context")))


def _known(value: Mapping[Any, Any], keys: tuple[str, ...], at: str) -> None:
    for key in value:
        if key not in keys:
            raise UserError(f"{at}{key}: there is no such key{nearest(str(key), keys)}")


def _constraint(item: Any, i: int, at: str) -> Constraint:
    if not isinstance(item, Mapping):
        raise UserError(f"{at}[{i}]: expected a mapping with `id:` and `text:`, got {item!r}")
    at = f"{at}.{item['id']}" if isinstance(item.get("id"), str) else f"{at}[{i}]"
    _known(item, _OF_ONE, f"{at}.")
    checker = _checker(item, at)
    plain = {key: value for key, value in item.items() if key not in ("use", "args", "checker")}
    if checker is not None and not plain.get("text"):
        plain["text"] = checker.told()
    built = build(Constraint, plain, at)
    if not built.id.strip():
        raise UserError(f"{at}.id: is empty; verdicts and `depends_on` name a constraint by its id")
    if not built.text.strip():
        raise UserError(f"{at}.text: a constraint without a checker needs words that a judge can decide by")
    return dataclasses.replace(built, checker=checker)


def _checker(item: Mapping[Any, Any], at: str) -> Any:
    """What decides it: `use` and `args`, or `checker`, or nothing."""
    if item.get("checker") is not None:
        if "use" in item or "args" in item:
            raise UserError(f"{at}.checker: give either `checker:` or `use:` and `args:`")
        return build_use("checkers", item["checker"], f"{at}.checker")
    if "use" not in item:
        if "args" in item:
            raise UserError(f"{at}.args: say by `use:` which checker they are for")
        return None
    cls = catalog.find("checkers", item["use"], f"{at}.use").load()
    return build(cls, item["args"] if item.get("args") is not None else {}, f"{at}.args")


def to_plain(sheet: Sheet) -> dict[str, Any]:
    """The sheet as plain mappings and lists, with what is not the default."""
    head = {key: getattr(sheet, key) for key in ("prompt", "task", "context") if getattr(sheet, key)}
    return {**head, "constraints": [_plain(c) for c in sheet.constraints]}


def _plain(constraint: Constraint) -> dict[str, Any]:
    values: dict[str, Any] = {"id": constraint.id, "text": constraint.text}
    if constraint.checker is not None:
        values["use"] = used(constraint.checker)
        args = {f.name: _value(getattr(constraint.checker, f.name)) for f in dataclasses.fields(constraint.checker)}
        values |= {"args": args} if args else {}
    defaults = Constraint(id="-", text="-", depends_on=())
    for key in ("category", "hard", "weight", "depends_on"):
        if getattr(constraint, key) != getattr(defaults, key):
            values[key] = _value(getattr(constraint, key))
    return values


def _value(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_value(v) for v in value]
    return {k: _value(v) for k, v in value.items()} if isinstance(value, Mapping) else value


def used(checker: Any) -> str:
    """The name by which a sheet says `use:` for a checker's class."""
    name = type(checker).__name__
    return catalog.find("checkers", name, name).name


def save(sheet: Sheet, path: Path | str) -> None:
    """Writes a sheet, JSON where the file's name ends so and YAML else. Raises UserError where it cannot be written."""
    path = Path(path)
    plain = to_plain(sheet)
    text = json.dumps(plain, indent=2, ensure_ascii=False) + "\n" if path.suffix == ".json" else yamls.dump(plain)
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UserError(f"{path}: could not be written ({error.strerror}): give another file") from None
