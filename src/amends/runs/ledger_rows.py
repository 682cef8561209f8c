"""The rows of a ledger: copied into it under ids that are hashes of their content, so that files may move afterwards.

A row keeps its id through every request, wherever it came from: overlaps are found by id, and a row that was forgotten
once can be told from the rows that are kept, whatever file it comes back in.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from amends.core import fingerprint
from amends.core.errors import UserError
from amends.core.spec import Count, spec
from amends.core.types import Role
from amends.data.bundle import row_print
from amends.data.rows import shown
from amends.data.text import read_rows, resolve
from amends.runs.record import write_text


@spec
class RowFile:
    """A file of rows in the ledger."""

    file: str
    """Its path below the ledger's folder."""
    content: str
    """16 hex digits over the rows."""
    count: Count
    """How many rows."""
    given: str
    """What the user called it."""


@dataclass(frozen=True)
class Rows:
    """Rows by id, as they stand in a ledger's file."""

    by_id: Mapping[str, Mapping[str, Any]]
    given: str
    twice: int = 0
    """How many rows of the user's file stood in it before, and were left out."""

    @property
    def content(self) -> str:
        """16 hex digits over ids and every field, whatever the order of the rows."""
        return fingerprint.of(sorted((i, {k: v for k, v in row.items() if k != "given"}) for i, row in self.by_id.items()))

    def write(self, folder: Path) -> RowFile:
        """Copies the rows into a ledger's folder, unless they are there."""
        file = f"rows/{self.content}.jsonl"
        if not (folder / file).is_file():
            write_text(folder / file, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in self.by_id.values()))
        return RowFile(file=file, content=self.content, count=len(self.by_id), given=self.given)


def gather(path: Path, role: Role) -> Rows:
    """The rows of a user's file under the ids of their content; `given` is the id they had.

    Raises UserError for whatever is not a row, as `amends unlearn` does.
    """
    samples = read_rows(resolve(str(path)), role)
    by_id: dict[str, dict[str, Any]] = {}
    for sample in samples:
        row = row_print(sample)
        by_id.setdefault(row, {"id": row, **sample.data, "given": sample.id})
    return Rows(by_id, str(path), len(samples) - len(by_id))


def recall(folder: Path, kept: RowFile) -> Rows:
    """Rows that were copied before. Raises UserError when the copy is gone or is not what it was."""
    path = folder / kept.file
    try:
        lines = [line for line in path.read_text(encoding="utf-8").split("\n") if line]
        rows = Rows({row["id"]: row for row in map(json.loads, lines)}, kept.given)
        if rows.content == kept.content:
            return rows
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}), and the ledger needs it: put it back") from None
    except (ValueError, KeyError, TypeError, AttributeError):
        pass
    raise UserError(f"{path}: is not the file that the ledger wrote: put the old one back")


def refuse_kept(forgotten: Mapping[str, Rows], kept: Mapping[Role, Rows]) -> None:
    """Raises UserError for a row that is to go, now or since an earlier request, and that stands among those to keep."""
    for role, rows in kept.items():
        for request, gone in forgotten.items():
            both = [i for i in gone.by_id if i in rows.by_id]
            if both:
                raise UserError(
                    f"{len(both)} row(s) stand in both the forget rows of {request} and the {role} set {rows.given} "
                    f"({said(gone.by_id[both[0]])}{', ...' if len(both) > 1 else ''}): remove them from one of the two, "
                    f"and give what is to be kept from now on as --{role}"
                )


def said(row: Mapping[str, Any]) -> str:
    """What a row asks, cut short."""
    return shown(row.get("question") or row.get("prompt") or row.get("text") or row["id"])


def together(each: Iterable[Rows], but: Iterable[str] = ()) -> Rows:
    """The rows of several requests, each once, without some ids."""
    left_out = set(but)
    rows = {i: row for found in each for i, row in found.by_id.items() if i not in left_out}
    return Rows(rows, "several requests")
