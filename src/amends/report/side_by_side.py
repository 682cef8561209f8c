"""Methods of a bench in every variant, side by side: dense / sparse in one cell, as in table 2 of arXiv 2304.04934."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from amends.report import words
from amends.report.load import rows
from amends.report.table import Cell
from amends.report.text import aligned

if TYPE_CHECKING:
    from amends.report.leaderboard import Board

PLAIN = ""
"""The variant that is none."""


@dataclass(frozen=True)
class Line:
    """One preset: what each of its variants gave."""

    name: str
    each: Mapping[str, Mapping[str, Cell | None]]
    """variant -> metric -> number; `seconds` is a metric here."""

    def cell(self, metric: str) -> str:
        """All variants' means, in order."""
        cells = [found.get(metric) for found in self.each.values()]
        if metric == "seconds":
            return " / ".join(words.seconds(cell.value if cell else None) for cell in cells)
        return " / ".join(words.number(cell.value if cell else None) for cell in cells)

    @property
    def change(self) -> str:
        """By how many of the seeds that both have the second variant's first number is lower than the first one's."""
        cells = [next(iter(found.values())) for found in self.each.values()]
        if len(cells) < 2 or cells[0] is None or cells[1] is None:
            return words.NONE
        both = [seed for seed in cells[0].by_seed if seed in cells[1].by_seed]
        lower = sum(cells[1].by_seed[seed] < cells[0].by_seed[seed] for seed in both)
        return f"{lower} of {len(both)}"


def variants(board: Board) -> tuple[str, ...]:
    """The variants of the bench, the methods as they are first; () where there is only that."""
    found = dict.fromkeys(str(raw.get("variant") or PLAIN) for raw in rows(board.values.get("methods")))
    return tuple(sorted(found, key=lambda v: v != PLAIN)) if len(found) > 1 else ()


def lines(board: Board) -> list[Line]:
    """One line a preset, in the order of the first variant's places."""
    order, names = variants(board), {}
    for raw in rows(board.values.get("methods")):
        names.setdefault(str(raw.get("preset") or raw.get("name")), {})[str(raw.get("variant") or PLAIN)] = str(raw.get("name"))
    place = {s.name: i for i, s in enumerate(board.standings)}
    found = []
    for preset, each in sorted(names.items(), key=lambda item: min(place.get(n, len(place)) for n in item[1].values())):
        cells = {}
        for variant in order:
            name = each.get(variant, "")
            cells[variant] = {m: board.table.cell(name, m) for m in board.metrics} | {
                "seconds": board.table.cost(name, "seconds")
            }
        found.append(Line(preset, cells))
    return found


def heading(board: Board) -> str:
    """What stands on which side of the stroke."""
    return " / ".join(v or "as it is" for v in variants(board))


def as_text(board: Board) -> str:
    """The table for a terminal; "" where the bench has one variant."""
    if not variants(board):
        return ""
    head = ["method", *board.metrics, "seconds", "second lower"]
    body = [[line.name, *(line.cell(m) for m in (*board.metrics, "seconds")), line.change] for line in lines(board)]
    return f"{heading(board)}\n" + aligned([head, *body])
