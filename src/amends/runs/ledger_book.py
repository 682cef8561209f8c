"""What a ledger's `ledger.json` holds: the base model, the rows to keep, the requests in order, the tests.

It is checked whole when it is read, and written whole or not at all.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

from amends.core import fingerprint
from amends.core.errors import UserError
from amends.core.spec import Natural, build, spec
from amends.core.types import Role
from amends.runs.ledger_rows import RowFile
from amends.runs.record import read_json, write_json

SCHEMA = 1
FILE = "ledger.json"
BASE = "base"
"""What the book calls the model that the first request started from."""
KEPT: tuple[Role, ...] = ("retain", "neighbour", "holdout")
"""The roles whose rows a request may not name."""
MEASURED = ("probability", "extraction_strength", "rouge", "utility")
"""The metrics that the book keeps; a run's folder has them all."""


@spec
class Number:
    """A measurement with its 95 % interval."""

    value: float | None
    low: float | None
    high: float | None
    n: Natural


@spec
class Model:
    """The base model."""

    name: str
    """A folder, a GGUF file, or a name on the hub."""
    weights: str
    """16 hex digits over its weight files."""


@spec
class Entry:
    """One request: what was asked, from which model, and what came of it."""

    id: str
    """r001, r002, ..."""
    name: str = ""
    """Who asked, or why, in the user's words."""
    status: Literal["begun", "done", "withdrawn"] = "begun"
    start: str
    """The request whose model it starts from, or `base`."""
    again: str | None = None
    """The earlier request whose rows it forgets once more."""
    began: str
    ended: str | None = None
    method: str
    settings: dict[str, Any]
    """The options of the command."""
    hold: bool
    """Whether the rows of earlier requests joined the objective."""
    rows: RowFile
    kept: dict[Role, RowFile]
    overlaps: dict[str, Natural]
    """How many of its rows earlier requests had named."""
    weights: str | None = None
    """16 hex digits over the weight files of the model it left."""
    steps: Natural | None = None
    stopped: str | None = None
    """Why a guard ended it early."""
    seconds: float | None = None
    before: dict[str, Number]
    """Measurements of the model it started from."""
    after: dict[str, Number]
    """The same of the model it left."""
    recovered: tuple[dict[str, Any], ...] = ()
    """What attacks brought back."""

    @property
    def folder(self) -> str:
        """Where its model and its run lie."""
        return f"requests/{self.id}"


@spec
class Retest:
    """Everything measured once more."""

    model: str
    """The request whose model was tested, or `base`."""
    ended: str
    run: str
    """The run's folder below the ledger's."""
    measured: dict[str, Number]
    recovered: tuple[dict[str, Any], ...] = ()


@spec
class Book:
    """What ledger.json holds."""

    schema: Literal[1] = SCHEMA
    created: str
    base: Model
    kept: dict[Role, RowFile]
    requests: tuple[Entry, ...] = ()
    tests: tuple[Retest, ...] = ()


def read(folder: Path) -> Book:
    """Reads a book. Raises UserError where there is none, or where it is not what was written."""
    path = folder / FILE
    if not path.is_file():
        raise UserError(f"{folder}: holds no ledger: start one with `amends ledger init {folder} --model MODEL`")
    try:
        tree = read_json(path)
        schema = tree.get("schema") if isinstance(tree, dict) else None
        if isinstance(schema, int) and schema > SCHEMA:
            raise UserError(f"it has schema {schema}, which a newer amends wrote")
        book = build(Book, tree, "ledger")
        _check_order(book)
    except UserError as error:
        raise UserError(f"{path}: this ledger cannot be used ({error}); put a good copy back") from None
    return book


def write(folder: Path, book: Book) -> None:
    """Writes a book, whole or not at all."""
    write_json(folder / FILE, asdict(book))


def numbers(results: Mapping[str, Any], subject: str) -> dict[str, Number]:
    """The measurements of one model without an attack, of the metrics that the book keeps."""
    return {
        m["name"]: Number(value=m["value"], low=m["low"], high=m["high"], n=m["n"])
        for m in results["measurements"]
        if m["subject"] == subject and m["attack"] is None and m["name"].partition(".")[0] in MEASURED
    }


def weights_of(model: str) -> str:
    """16 hex digits over the weight files of a folder, a GGUF file or a hub name. Raises UserError where there are none."""
    from amends.subjects.load import check_folder

    path = Path(model).expanduser()
    if path.is_file():
        return fingerprint.of_file(path)[:16]
    if path.is_dir():
        check_folder(path)
        return fingerprint.of_files(sorted(path.glob("*.safetensors")))
    if model.startswith((".", "/", "~")) or model.count("/") > 1 or path.suffix == ".gguf":
        raise UserError(f"{model}: no such folder or file")
    return weights_of(_snapshot(model))


def _snapshot(name: str) -> str:
    """The folder in which a model of the hub lies, fetched if it must be."""
    from huggingface_hub import snapshot_download

    try:
        return snapshot_download(name, allow_patterns=["*.safetensors", "config.json"])
    except Exception as error:  # offline, unknown, gated, malformed: each layer of the hub's client has errors of its own
        first = str(error).strip().split("\n")[0]
        raise UserError(f"{name}: no such folder, and the hub does not give it ({first})") from None


def _check_order(book: Book) -> None:
    """Raises UserError when the requests do not follow one another."""
    known = [BASE]
    for number, entry in enumerate(book.requests, 1):
        if entry.id != f"r{number:03d}" or entry.start not in known:
            raise UserError(f"request {number} is called '{entry.id}' and starts from '{entry.start}'")
        known.append(entry.id)
