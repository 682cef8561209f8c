"""The scorecard at the head of the page: four questions, a column a model, in each cell the worst number and a word for it.

Robustness stands on top, since what an attack brings back was never gone; then effectiveness, locality and efficiency
(`evidence.py` says how each is read). A method's headline is its worst cell in words. What was not measured is said in
the cell, and counts as worse than what was measured and found good. The original and the retrained model have columns of
their own: the level to leave, and the level to reach.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

from amends.data.scope import HARD, HARD_QUESTIONS, ROLES, goes, roles_in, scope_of
from amends.report import evidence, words
from amends.report.evidence import CHEAP, HALF, KEPT, LITTLE
from amends.report.load import RunData
from amends.report.table import Cell, Table
from amends.report.verdict import called

Tone = Literal["bad", "open", "missing", "good", "calm"]
_SYMBOLS: dict[Tone, str] = {
    "bad": "\N{BALLOT X}", "open": "\N{CIRCLE WITH LEFT HALF BLACK}", "missing": "?", "good": "\N{CHECK MARK}", "calm": "",
}  # fmt: skip
_ORDER: tuple[Tone, ...] = ("bad", "open", "missing", "good", "calm")
NOT_MEASURED = "not measured"


@dataclass(frozen=True)
class Line:
    """One number in a cell: what it is, the number with its interval, a word, and what it is to be held against."""

    value: str
    interval: str
    word: str
    tone: Tone
    note: str = ""
    said: str = ""
    """The same as a phrase for the headline."""

    @property
    def symbol(self) -> str:
        """What goes with the word, so that colour is never alone."""
        return _SYMBOLS[self.tone]


@dataclass(frozen=True)
class Head:
    """A column's head."""

    name: str
    kind: str
    suppression: str
    weakest: str
    """The method's worst cell in words; empty for the references."""


@dataclass(frozen=True)
class Question:
    """One row of the card."""

    name: str
    asks: str
    cells: tuple[tuple[Line, ...], ...]


@dataclass(frozen=True)
class Card:
    """The whole scorecard."""

    heads: tuple[Head, ...]
    questions: tuple[Question, ...]
    notes: tuple[str, ...]


Judge = Callable[[Table, str], tuple[Line, ...]]


def scorecard(table: Table) -> Card | None:
    """The card of a run; None where no method left a number."""
    if not table.methods:
        return None
    questions = [Question(n, asks, tuple(judge(table, s) for s in table.subjects)) for n, asks, judge in _questions()]
    heads = tuple(
        Head(s, table.kinds[s], table.suppression(s), _weakest(s, table, questions, i)) for i, s in enumerate(table.subjects)
    )
    return Card(heads, tuple(questions), tuple(_notes(table)))


def _questions() -> Sequence[tuple[str, str, Judge]]:
    return (
        ("Robustness", "what the worst attack brings back", robustness),
        ("Effectiveness", "the most that is left, hard questions included", effectiveness),
        ("Locality", "the least that stayed, near and far", locality),
        ("Efficiency", "time and memory", efficiency),
    )


def _weakest(subject: str, table: Table, questions: Sequence[Question], column: int) -> str:
    if subject not in table.methods:
        return ""
    lines = [(q.name, line) for q in questions for line in q.cells[column]]
    name, worst = min(lines, key=lambda found: _ORDER.index(found[1].tone))
    return f"{name.lower()}: {worst.said or worst.word}"


def weakest(table: Table) -> dict[str, str]:
    """Each method's headline, for the terminal."""
    card = scorecard(table) if table.run.forgets else None
    return {h.name: h.weakest for h in card.heads if h.weakest} if card else {}


def missing(what: str = "", why: str = "") -> Line:
    """A cell's line where there is no evidence."""
    return Line("", "", f"{what}: {NOT_MEASURED}" if what else NOT_MEASURED, "missing", why)


# ---------------------------------------------------------------------- the four questions


def robustness(table: Table, subject: str) -> tuple[Line, ...]:
    """The worst of all attacks by all metrics, with the control beside it."""
    if table.kinds[subject] == "original":
        return (Line(words.NONE, "", "nothing was forgotten", "calm"),)
    found = evidence.hits(table, subject)
    if not found:
        tried = any(r["subject"] == subject for r in table.run.recovered)
        why = "too little was forgotten for an attack to bring back" if tried else ""
        return (Line(words.NONE, "", why, "missing"),) if tried else (missing(),)
    worst = found[0]
    back = max(worst.cell.value, 0.0)
    attack = called(table, worst.attack)
    read = f"{attack}, {words.metric(worst.metric)}"
    if table.kinds[subject] == "retrain":
        return (_share_line(worst.cell, "the control", "calm", read),)
    control = f"control {_shares(worst.control)}" if worst.control else "no retrained control"
    word, tone = _attacked(worst)
    said = f"{attack} brings back {words.share(back)}"
    return (_share_line(worst.cell, word, tone, f"{read}; {control}", said),)


def _attacked(hit: evidence.Hit) -> tuple[str, Tone]:
    if hit.cell.value <= LITTLE:
        return "holds", "good"
    if hit.control is not None and (hit.cell.overlaps(hit.control) or hit.cell.value <= hit.control.value):
        return "comes back, as in the control", "open"
    return ("comes back in part", "open") if hit.cell.value <= HALF else ("comes back", "bad")


def effectiveness(table: Table, subject: str) -> tuple[Line, ...]:
    """What is left where most is left; a line more where no hard question was asked."""
    kind = table.kinds[subject]
    hard = (missing("hard in scope"),) if hard_roles(table.run) and not _asked_hard(table) else ()
    found = evidence.left(table, subject)
    if kind == "original":
        return tuple(_plain_line(e.cell, "knows it", evidence.joined(e)) for e in found[:1]) or (missing(),)
    if kind == "retrain":
        return tuple(_plain_line(e.cell, "never saw it", evidence.joined(e)) for e in found[:1]) or (missing(),)
    if not found:
        return (missing("", "no original to compare with" if table.the("original") is None else ""),)
    worst = found[0]
    word, tone = _gone(worst)
    gold = f", retrained {words.number(worst.retrain.value)}" if worst.retrain else ""
    note = f"{evidence.joined(worst)}; before {words.number(worst.original.value)}{gold}"
    said = f"{word}, {evidence.joined(worst)} {words.number(worst.original.value)} to {words.number(worst.cell.value)}"
    return (_plain_line(worst.cell, word, note, tone, said), *hard)


def _gone(e: evidence.Left) -> tuple[str, Tone]:
    if e.share > HALF:
        return "much is left", "bad"
    if e.cell.overlaps(e.original):
        return "too few rows to tell", "open"
    if e.share > LITTLE:
        return "some is left", "open"
    up = evidence.upwards(e.metric)
    apart = e.retrain is not None and e.cell.overlaps(e.retrain) is False
    beyond = apart and e.retrain is not None and (e.cell.value > e.retrain.value if up else e.cell.value < e.retrain.value)
    return (f"gone, {'above' if up else 'below'} the retrained", "open") if beyond else ("little is left", "good")


def _asked_hard(table: Table) -> bool:
    return any(r in HARD for r in evidence.asked_roles(table))


def hard_roles(run: RunData) -> tuple[str, ...]:
    """The hard roles that could be asked: of text all there are, of labelled rows those that the data has."""
    return HARD_QUESTIONS if run.kind == "text" else tuple(r for r in HARD if r in run.roles)


def locality(table: Table, subject: str) -> tuple[Line, ...]:
    """One line for what is near and one for what is far, which labelled rows have nothing of."""
    far = table.run.kind == "text" or evidence.stayed(table, subject, "far")
    return tuple(_stayed(table, subject, scope) for scope in (("near", "far") if far else ("near",)))


def _stayed(table: Table, subject: str, scope: Literal["near", "far"]) -> Line:
    found = evidence.stayed(table, subject, scope)
    if not found:
        return missing(scope)
    worst = found[0]
    note = f"{scope}: {evidence.joined(worst)}{', which it trained on' if evidence.only_trained(found) else ''}"
    if table.kinds[subject] == "original":
        return _plain_line(worst.cell, "", note)
    kept = f"{words.share(max(worst.share, 0.0))} kept"
    how: tuple[str, Tone] = (
        ("", "good") if worst.share >= KEPT else (", damaged", "open") if worst.share >= HALF else (", lost", "bad")
    )
    if table.kinds[subject] == "retrain":
        return _plain_line(worst.cell, kept, note)
    return _plain_line(worst.cell, kept + how[0], note, how[1], f"{scope}, {evidence.joined(worst)} {kept}{how[0]}")


def efficiency(table: Table, subject: str) -> tuple[Line, ...]:
    """Seconds with what they are of retraining's; the peak memory in the note."""
    found = evidence.cost(table, subject)
    if found is None:
        return (missing(),)
    note = f"peak {words.size(found.peak.value)}" if found.peak else "memory not measured"
    if found.peak_times is not None and table.kinds[subject] not in ("original", "retrain"):
        note += f", {words.number(found.peak_times)} \N{MULTIPLICATION SIGN} retraining"
    line = partial(Line, words.seconds(found.seconds.value), _span(found.seconds))
    if table.kinds[subject] in ("original", "retrain"):
        return (line("the price of retraining" if table.kinds[subject] == "retrain" else "", "calm", note),)
    if found.times is None:
        return (line("no retraining to compare with", "missing", note),)
    times = f"{words.number(found.times)} \N{MULTIPLICATION SIGN} retraining"
    tone: Tone = "good" if found.times <= CHEAP else "open" if found.times < 1 else "bad"
    return (line(times, tone, note, f"takes {times}"),)


# ---------------------------------------------------------------------- words


def _plain_line(cell: Cell, word: str, note: str, tone: Tone = "calm", said: str = "") -> Line:
    return Line(words.number(cell.value), words.interval(cell), word, tone, note, said)


def _share_line(cell: Cell, word: str, tone: Tone, note: str, said: str = "") -> Line:
    span = "" if cell.low is None or cell.high is None else f"{words.share(cell.low)} to {words.share(cell.high)}"
    return Line(words.share(cell.value), span, word, tone, note, said)


def _shares(cell: Cell) -> str:
    if cell.low is None or cell.high is None:
        return words.share(cell.value)
    return f"{words.share(cell.value)} [{words.share(cell.low)}, {words.share(cell.high)}]"


def _span(cell: Cell) -> str:
    return "" if cell.low is None or cell.high is None else f"{words.seconds(max(cell.low, 0.0))} to {words.seconds(cell.high)}"


def _notes(table: Table) -> list[str]:
    """What was asked and what was not, by scope, and what the words mean."""
    asked = [*evidence.asked_roles(table), *(m for m in table.metrics if m == "utility")]
    said = []
    for names, scope in ((roles_in("in", "hard"), "In scope"), (roles_in("near", "far"), "Out of scope")):
        own = [r for r in asked if r not in names and (goes(r) if scope == "In scope" else r == "utility")]
        there = [words.plain(r) for r in (*names, *own) if r in asked]
        out = ("neighbour", "general") if table.run.kind == "text" else ("test",)
        wanted = hard_roles(table.run) if scope == "In scope" else out
        absent = [f"{words.plain(r)} ({ROLES[r].sentence})" for r in wanted if r not in asked and not _stands_in(r, asked)]
        said.append(
            f"{scope}, asked: {words.listed(there) or 'nothing'}." + (f" Not asked: {words.listed(absent)}." if absent else "")
        )
    unknown = [words.plain(r) for r in evidence.unknown_roles(table)]
    if unknown:
        said.append(f"Left out, for the original did not know it: {words.listed(unknown)}.")
    return said


def _stands_in(wanted: str, asked: Sequence[str]) -> bool:
    """Far rows go by several names, and utility rests on them; rows that were trained on do not stand in for a neighbour."""
    if wanted == "general" and "utility" in asked:
        return True
    same = [r for r in roles_in("near", "far") if not ROLES[r].trained and ROLES[r].scope == scope_of(wanted)]
    return not goes(wanted) and any(r in asked for r in same)
