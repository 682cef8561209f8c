"""The headline for a terminal: plain aligned text in ASCII, metrics down, models across, as `amends run` ends with it."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path

from amends.report import words
from amends.report.audits import in_words
from amends.report.load import load
from amends.report.scorecard import weakest
from amends.report.table import Cell, Table
from amends.report.verdict import attacks_on, verdict

_PLAIN = str.maketrans({
    words.NONE: "-", "\N{NO-BREAK SPACE}": " ", "\N{RIGHTWARDS ARROW}": "->", "\N{HORIZONTAL ELLIPSIS}": "...",
    "\N{GREATER-THAN OR EQUAL TO}": ">=", "\N{LESS-THAN OR EQUAL TO}": "<=", "\N{MULTIPLICATION SIGN}": "x",
})  # fmt: skip
_SIGNS = {"lower": "v", "higher": "^", "closer": "~"}
_ORDER = ("missed", "not tested", "met")


def summary(folder: Path, width: int = 100) -> str:
    """The verdict, the headline table and the claims of a run folder, no line of the table wider than `width`."""
    run = load(Path(folder))
    table = Table(run)
    said = verdict(run, table)
    told = in_words(run)
    sentence = said.sentence if run.forgets or not told else ""  # the auditors' own lines say more
    parts = [textwrap.fill(line, width) for line in (said.trouble, sentence, *said.others) if line]
    parts += [line if line.startswith(" ") else textwrap.fill(line, width) for line in told]
    parts += [textwrap.fill(f"weakest of {name}: {said}", width) for name, said in weakest(table).items()]
    blocks = _blocks(table, width)
    if blocks:
        parts += ["", *blocks, f"{_legend(table)}; [95 % interval{' over seeds' if len(run.seeds) > 1 else ''}]"]
    claims = sorted(run.claims, key=lambda c: _ORDER.index(c["verdict"]) if c.get("verdict") in _ORDER else 1)
    if claims:
        lines = [
            [
                str(c.get("verdict", "not tested")),
                str(c.get("that", "?")),
                _observed(c.get("observed")),
                f"needed {c.get('needed', '-')}" + (f" ({c['note']})" if c.get("note") else ""),
            ]
            for c in claims
        ]
        parts += ["", aligned(lines)]
    return "\n".join(parts).translate(_PLAIN)


def aligned(lines: Sequence[Sequence[str]], numbers: bool = False) -> str:
    """Columns of equal width, two spaces apart; `numbers` sets all but the first flush right.

    >>> print(aligned([["a", "10"], ["bcd", "2"]], numbers=True))
    a    10
    bcd   2
    """
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    return "\n".join(
        "  ".join(
            cell.rjust(w) if numbers and i else cell.ljust(w) for i, (cell, w) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def _blocks(table: Table, width: int) -> list[str]:
    """The table, cut into groups of models that fit the width."""
    if not table.headline:
        return []
    first = [
        "",
        *(f"{m} {_SIGNS.get(table.better(m), '')}" for m in table.headline),
        *_attack_rows(table),
        "seconds",
        "peak memory",
    ]
    columns = [[s, *_column(table, s)] for s in table.kinds]
    room = width - max(map(len, first))
    blocks, taken = [[]], 0
    for column in columns:
        wide = max(len(cell.translate(_PLAIN)) for cell in column) + 2
        if blocks[-1] and taken + wide > room:
            blocks, taken = [*blocks, []], 0
        blocks[-1].append(column)
        taken += wide
    return [aligned(list(zip(first, *block, strict=True)), numbers=True) + "\n" for block in blocks]


def _column(table: Table, subject: str) -> list[str]:
    cells = [words.with_interval(table.cell(subject, m)) for m in table.headline]
    hits = {a.attack: a.recovered for a in attacks_on(table, subject)}
    back = [_percent(hits.get(attack)) for attack in _attacks(table)]
    seconds, peak = table.cost(subject, "seconds"), table.cost(subject, "peak_bytes")
    return [*cells, *back, words.seconds(seconds.value if seconds else None), words.size(peak.value if peak else None)]


def _attacks(table: Table) -> dict[str, str]:
    """The attacks in words, by name."""
    return {a.attack: a.label for s in table.kinds for a in attacks_on(table, s)}


def _attack_rows(table: Table) -> list[str]:
    return [f"back by {label} v" for label in _attacks(table).values()]


def _percent(cell: Cell | None) -> str:
    if cell is None:
        return words.NONE
    if cell.low is None or cell.high is None:
        return words.share(cell.value)
    return f"{words.share(cell.value)} [{round(100 * cell.low)}, {round(100 * cell.high)}]"


def _legend(table: Table) -> str:
    used = dict.fromkeys(table.better(m) for m in table.headline)
    said = words.DIRECTIONS if table.run.forgets else words.DIRECTIONS | {"closer": words.CLOSER_TO_IT}
    return ", ".join(f"{_SIGNS[b]} {said[b]}" for b in used if b in _SIGNS)


def _observed(value: object) -> str:
    return words.number(float(value)) if isinstance(value, (int, float)) else "-"
