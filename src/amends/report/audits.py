"""What auditors found: how good their flags are, in which classes they lie, and which rows are the most suspicious."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from amends.data.bundle import asked_to_go
from amends.report import words
from amends.report.load import Row, RunData, number, rows
from amends.report.svg import el, svg
from amends.report.table import Cell, aggregate

COLUMNS = {"auroc": "AUROC", "auroc_within": "AUROC in class", "tpr": "TPR", "fpr": "FPR", "flagged": "flagged"}
"""Measurement -> the header of its column."""
CLASSES_TOLD = 5
"""How many classes a line in the terminal names."""
SUSPECTS_TOLD = 5
"""How many rows it names."""
_NEXT = {
    True: "These are what every later stage forgets, or is retrained without.",
    False: "Nothing was forgotten: look at the rows, and decide.",
}
_PIXEL = 8
_LINE = re.compile(r"(?:[0-9a-f]{6}){1,64}")


@dataclass(frozen=True)
class Auditor:
    """One auditor's line: what it measured, over all seeds."""

    name: str
    decides: bool
    cells: tuple[Cell | None, ...]
    note: str


@dataclass(frozen=True)
class Suspect:
    """One of the highest scores."""

    id: str
    score: str
    label: str
    flagged: bool
    bad: bool | None
    picture: Markup | None


@dataclass(frozen=True)
class Shown:
    """What an auditor made on the way, to look at."""

    auditor: str
    name: str
    caption: str
    picture: Markup


@dataclass(frozen=True)
class Audit:
    """The whole panel."""

    sentence: str
    auditors: tuple[Auditor, ...]
    known: bool
    """Whether the data knows which rows are bad."""
    classes: tuple[Row, ...]
    suspects: tuple[Suspect, ...]
    pictures: tuple[Shown, ...] = ()


def audit(run: RunData) -> Audit | None:
    """The panel of a run that audited its rows; None for every other run."""
    lines = [line for line in rows(run.manifest.get("audits")) if isinstance(line.get("auditor"), str)]
    if not lines:
        return None
    first = next((line for line in lines if line.get("decides")), lines[0])
    notes = {str(line["auditor"]): str(line.get("note") or "") for line in reversed(lines)}
    auditors = tuple(_auditor(run, name, name == first["auditor"], note) for name, note in reversed(notes.items()))
    goes = any(map(asked_to_go, run.roles))
    after = _NEXT[goes] if number(first.get("flagged")) or not goes else ""
    lead = " ".join(said for said in (sentence(first), unflagged(run), after) if said)
    return Audit(
        lead, auditors, number(first.get("bad")) is not None, tuple(map(_class, rows(first.get("classes")))),
        tuple(map(_suspect, run.suspects)), tuple(_shown(run)),
    )  # fmt: skip


def sentence(line: Row) -> str:
    """`activation_clustering looked at 1348 rows with the model original and flagged 74 (first seed).`"""
    bad = number(line.get("bad"))
    planted = "" if bad is None else f", {bad:.0f} of which are known to be bad"
    looked, flagged = (number(line.get(key)) or 0 for key in ("rows", "flagged"))
    return (
        f"{line['auditor']} looked at {looked:.0f} rows{planted}, with the model {line.get('model', '?')}, and flagged "
        f"{flagged:.0f} (first seed)."
    )


def unflagged(run: RunData) -> str:
    """`Seed 2: nothing was flagged, so nothing is forgotten; the numbers of models rest on 2 of 3 seeds.`; mostly empty."""
    out = [str(line.get("seed", "?")) for line in rows(run.manifest.get("skipped"))]
    if not out:
        return ""
    said = f"Seed{'s' if len(out) > 1 else ''} {words.listed(out)}: nothing was flagged, so nothing is forgotten"
    left = len(run.seeds) - len(out)
    return f"{said}; the numbers of models rest on {left} of {len(run.seeds)} seeds." if left > 0 else f"{said}."


def in_words(run: RunData) -> list[str]:
    """Each auditor's flags of the first seed in a line for the terminal: how many, of which classes, the highest scores."""
    lines = [line for line in rows(run.manifest.get("audits")) if isinstance(line.get("auditor"), str)]
    first = [line for line in lines if line.get("seed") == lines[0].get("seed")]
    return [*(said for line in first for said in _told(run, line)), *filter(None, [unflagged(run)])]


def _told(run: RunData, line: Row) -> list[str]:
    total, flagged = (number(line.get(key)) or 0 for key in ("rows", "flagged"))
    each = [(str(row.get("class", "?")), number(row.get("flagged")) or 0) for row in rows(line.get("classes"))]
    most = sorted((pair for pair in each if pair[1]), key=lambda pair: -pair[1])
    classes = ", ".join(f"{n:.0f} of '{name}'" for name, n in most[:CLASSES_TOLD])
    more = f" and {sum(n for _, n in most[CLASSES_TOLD:]):.0f} of others" if len(most) > CLASSES_TOLD else ""
    share = words.share(flagged / total) if total else words.NONE
    own = [f for f in run.flags if f.get("auditor") == line["auditor"] and f.get("seed") == line.get("seed")]
    known = [
        f"{COLUMNS[f['name']]} {words.number(number(f.get('value')))}" for f in own if f.get("name") in ("auroc", "tpr", "fpr")
    ]
    said = f"{line['auditor']} flagged {flagged:,.0f} of {total:,.0f} rows ({share}){': ' if most else ''}{classes}{more}"
    said += f"; {', '.join(known)}" if known else ""
    note = [f"  {line['note']}"] if line.get("note") else []
    top = ", ".join(str(row.get("id", "?")) for row in run.suspects[:SUSPECTS_TOLD])
    shared = number(line.get("highest")) or 0
    equal = f" (drawn from {shared:,.0f} rows with one score)" if shared > SUSPECTS_TOLD else ""
    return [said, *note, *([f"  highest scores{equal}: {top}"] if line.get("decides") and top else [])]


def _auditor(run: RunData, name: str, decides: bool, note: str) -> Auditor:
    own = [row for row in run.flags if row.get("auditor") == name]
    cells = [aggregate([row for row in own if row.get("name") == what], what) for what in COLUMNS]
    return Auditor(name, decides, tuple(cells), note)


def _class(row: Row) -> Row:
    counts = {key: f"{n:,.0f}" if (n := number(row.get(key))) is not None else words.NONE for key in ("rows", "flagged", "bad")}
    return {"class": str(row.get("class", "?")), **counts}


def _suspect(row: Row) -> Suspect:
    bad = row.get("bad")
    said = f"row {row.get('id', '?')}"
    return Suspect(
        str(row.get("id", "?")), words.number(number(row.get("score"))), str(row.get("label", "")),
        row.get("flagged") is True, bad if isinstance(bad, bool) else None, picture(row.get("picture"), said),
    )  # fmt: skip


def _shown(run: RunData) -> Iterator[Shown]:
    for row in run.pictures:
        auditor, name = str(row["auditor"]), str(row.get("name", "?"))
        drawn = picture(row.get("picture"), f"{name} of {auditor}")
        if drawn is not None:
            yield Shown(auditor, name, str(row.get("caption") or ""), drawn)


def picture(lines: object, said: str) -> Markup | None:
    """Lines of hexadecimal colours as an image of squares, neighbours of one colour as one; None where they are not that."""
    if not isinstance(lines, list) or not lines or not all(isinstance(v, str) and _LINE.fullmatch(v) for v in lines):
        return None
    width = max(map(len, lines)) // 6
    return svg(said, _PIXEL * width, _PIXEL * len(lines), *(r for y, line in enumerate(lines) for r in _runs(line, y)))


def _runs(line: str, y: int) -> Sequence[Markup]:
    colours = [line[i : i + 6] for i in range(0, len(line), 6)]
    starts = [x for x, colour in enumerate(colours) if x == 0 or colours[x - 1] != colour]
    return [
        el("rect", x=_PIXEL * x, y=_PIXEL * y, width=_PIXEL * (end - x), height=_PIXEL, fill=f"#{colours[x]}")
        for x, end in zip(starts, [*starts[1:], len(colours)], strict=True)
    ]
