"""What auditors found, as tables for other tools: every score in one tidy table, and the deciding auditor's ranked.

A run that audits has in its folder

- `flags.csv`: the rows as the auditor who decides ranks them in the first seed, the highest score first: rank, id, score,
  flagged, label, bad (where the data knows it), and `row`, the row's place in the data. Fits `by: ids, file: FILE`;
- `flags.parquet`: the same of every auditor and seed, one line for each score, with the columns `auditor`, `seed` and
  `decides`. It needs pyarrow; without it a sentence says so, and the run goes on.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from amends.core.types import Sample, Scores
from amends.runs.audits import known_bad, label_name, ranked
from amends.runs.record import Folder, write_bytes, write_text

CSV, PARQUET = "flags.csv", "flags.parquet"
COLUMNS = ("rank", "id", "score", "flagged", "label", "bad", "row")
NO_PYARROW = f"{PARQUET} is not written, for pyarrow is not installed: pip install 'amends[vision]'"


@dataclass(frozen=True)
class Audited:
    """One auditor's scores of one seed, and the rows that they are of."""

    auditor: str
    seed: int
    decides: bool
    found: Scores
    rows: tuple[Sample, ...]
    classes: tuple[str, ...]

    def lines(self) -> list[dict[str, Any]]:
        """A line a row, ranked."""
        bad, places = known_bad(self.rows), {row.id: i for i, row in enumerate(self.rows)}
        return [
            {
                "rank": rank, "id": name, "score": float(self.found.score[name]), "flagged": name in self.found.flagged,
                "label": label_name(self.rows[places[name]].data.get("label"), self.classes), "bad": bad.get(name),
                "row": places[name],
            }
            for rank, name in enumerate(ranked(self.found), 1)
        ]  # fmt: skip


def write_tables(audited: Sequence[Audited], record: Folder, say: Callable[[str], None]) -> None:
    """Writes both files into the run's folder, and says so where one of them cannot be made."""
    if not record.writes:
        return
    write_text(record.path / CSV, as_csv(next(a for a in audited if a.decides).lines()))
    packed = as_parquet(audited)
    if packed is None:
        say(NO_PYARROW)
    else:
        write_bytes(record.path / PARQUET, packed)


def as_csv(lines: Sequence[dict[str, Any]]) -> str:
    """The table as text; a score is written so that reading gives the same number."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows([_cell(line[key]) for key in COLUMNS] for line in lines)
    return out.getvalue()


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return str(value).lower() if isinstance(value, bool) else repr(value) if isinstance(value, float) else str(value)


def as_parquet(audited: Sequence[Audited]) -> bytes | None:
    """Every auditor's lines as the bytes of a Parquet file; None where pyarrow is not installed."""
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError:
        return None
    lines = [{"auditor": a.auditor, "seed": a.seed, "decides": a.decides, **line} for a in audited for line in a.lines()]
    kinds = {
        "auditor": pa.string(), "seed": pa.int64(), "decides": pa.bool_(), "rank": pa.int64(), "id": pa.string(),
        "score": pa.float64(), "flagged": pa.bool_(), "label": pa.string(), "bad": pa.bool_(), "row": pa.int64(),
    }  # fmt: skip
    out = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(lines, schema=pa.schema(list(kinds.items()))), out)
    return out.getvalue().to_pybytes()
