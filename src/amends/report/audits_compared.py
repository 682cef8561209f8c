"""Auditors of several runs in one table: how well each finds the bad rows of each run, one column a run, and their means.

A run is called by its profile, for audits are mostly compared between attacks, and each attack is a profile of one recipe. The
last column is the mean over the runs that know of bad rows: a run without any has no AUROC, and is a control for FPR.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from amends.report import words
from amends.report.audits import COLUMNS
from amends.report.load import RunData
from amends.report.table import Cell, aggregate
from amends.report.text import aligned

SHOWN = ("auroc", "auroc_within", "tpr", "fpr")


@dataclass(frozen=True)
class Found:
    """One auditor: its cells by run, then by measurement."""

    auditor: str
    cells: tuple[dict[str, Cell | None], ...]

    def mean(self, what: str) -> float | None:
        """Over the runs that have the number; of AUROC and TPR that is those with bad rows."""
        values = [cell.value for found in self.cells if (cell := found.get(what)) is not None]
        return math.fsum(values) / len(values) if values else None

    def means(self) -> str:
        """AUROC, that in the attacker's class, TPR and FPR, over the runs."""
        return " / ".join(words.number(self.mean(what)) for what in SHOWN)

    def words(self, i: int) -> str:
        """AUROC and its spread over seeds, the other numbers of run `i`; the share that was flagged where nothing is known."""
        auroc, *others, flagged = (self.cells[i].get(what) for what in (*SHOWN, "flagged"))
        if auroc is None:
            return words.NONE if flagged is None else f"flags {words.number(flagged.value)}"
        spread = f" \N{PLUS-MINUS SIGN} {words.number(deviation(auroc))}" if len(auroc.by_seed) > 1 else ""
        return f"{words.number(auroc.value)}{spread} / " + " / ".join(words.number(_value(cell)) for cell in others)


@dataclass(frozen=True)
class Audits:
    """The table."""

    runs: tuple[str, ...]
    lines: tuple[Found, ...]

    def as_text(self) -> str:
        """For a terminal, best mean AUROC first."""
        head = ["AUROC / in class / TPR / FPR", *self.runs, "mean"]
        return aligned([head, *([f.auditor, *(f.words(i) for i in range(len(self.runs))), f.means()] for f in self.lines)])

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            found.auditor: {
                "mean": {what: found.mean(what) for what in SHOWN},
                "runs": [{what: _plain(cell) for what, cell in cells.items()} for cells in found.cells],
            }
            for found in self.lines
        }


def audits_of(runs: Sequence[RunData], labels: Sequence[str]) -> Audits | None:
    """All auditors of some runs, the best mean AUROC first; None where no run has any."""
    names = dict.fromkeys(str(row["auditor"]) for run in runs for row in run.flags if isinstance(row.get("auditor"), str))
    if not names:
        return None
    lines = [Found(name, tuple({what: _cell(run, name, what) for what in COLUMNS} for run in runs)) for name in names]
    lines.sort(key=lambda found: -(found.mean("auroc") or 0.0))
    called = [str(run.manifest.get("profile") or run.name) for run in runs]
    once = [name if called.count(name) == 1 else f"{name} {label}" for name, label in zip(called, labels, strict=True)]
    return Audits(tuple(once), tuple(lines))


def deviation(cell: Cell) -> float:
    """The sample deviation over seeds."""
    values = list(cell.by_seed.values())
    return math.sqrt(math.fsum((v - cell.value) ** 2 for v in values) / (len(values) - 1))


def _cell(run: RunData, auditor: str, what: str) -> Cell | None:
    return aggregate([row for row in run.flags if (row.get("auditor"), row.get("name")) == (auditor, what)], what)


def _value(cell: Cell | None) -> float | None:
    return None if cell is None else cell.value


def _plain(cell: Cell | None) -> dict[str, Any] | None:
    return None if cell is None else {"value": cell.value, "by_seed": {str(s): v for s, v in cell.by_seed.items()}}
