"""What a ledger's requests look like from each model that came after them: who stayed forgotten, who came back.

Rows are requests, columns the models: the base, then the one that each request left. A request's own column is the first
after it was met; the one before is what it started from. Rules, said on the page and in the terminal:

- it CAME BACK when the 95 % interval of the newest number lies above what it was right after its own request, by more
  than a hundredth (so that rounding is no return);
- it was NOT FORGOTTEN when the interval right after its own request still meets the one before it; where the model gave
  it a tenth or less before, it was HARDLY KNOWN, and nothing can be said.

A request's state is read from its probability, but one that came back by its extraction strength came back.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from amends.core.errors import UserError
from amends.report import words
from amends.report.load import Row, mapping, number, rows
from amends.report.table import Cell
from amends.report.text import aligned
from amends.report.verdict import KEPT as KEPT_SHARE

FILE = "ledger.json"
BASE = "base"
METRICS = ("probability", "extraction_strength")
"""What every request is tested by."""
BACK = 0.01
"""How far above its own request's number the newest interval must lie."""
KEPT = {"retain_aside": "rows like those kept, never trained on", "retain": "rows that are kept", "neighbour": "neighbours"}
_SOURCE = {"retain_aside": "retain", "retain": "retain", "neighbour": "neighbour"}
KNOWN = 0.1
"""What a model gives at most to something that it hardly knows."""
State = Literal["came back", "not forgotten", "forgotten", "hardly known", "not measured"]


@dataclass(frozen=True)
class Line:
    """One request, or one role of rows to keep, under every model; None where it was not measured."""

    label: str
    name: str
    n: int
    own: int
    """The column of its own request; 0 for rows to keep."""
    cells: tuple[Cell | None, ...]

    @property
    def now(self) -> Cell | None:
        """The newest number."""
        return next((c for c in reversed(self.cells) if c is not None), None)

    @property
    def share(self) -> float | None:
        """Of rows to keep: how much of the base's probability is left."""
        first, now = self.cells[0], self.now
        return now.value / first.value if first is not None and now is not None and first.value > 0 else None

    @property
    def lost(self) -> bool:
        """Whether less is left than a method must keep to be named in a run's verdict."""
        return self.share is not None and self.share < KEPT_SHARE

    @property
    def state(self) -> State:
        """By the two rules of this module."""
        own, now = self.cells[self.own], self.now
        if own is None or now is None:
            return "not measured"
        if now is not own and now.low is not None and now.low > own.value + BACK:
            return "came back"
        before = self.cells[self.own - 1]
        if before is None or (own.value < before.value and not own.overlaps(before)):
            return "forgotten"
        return "not forgotten" if before.value > KNOWN else "hardly known"


@dataclass(frozen=True)
class Drift:
    """A ledger as its report reads it."""

    folder: Path
    book: Row
    requests: tuple[Row, ...]
    """Those that the newest model has met, in order."""
    test: Row | None
    """The last test of the newest model."""

    @property
    def columns(self) -> tuple[str, ...]:
        """`base`, `r001`, ..., and `test` where the newest model was tested again."""
        return (BASE, *(str(r.get("id")) for r in self.requests), *(["test"] if self.test else []))

    @property
    def newest(self) -> str:
        """The request whose model is the newest."""
        return str(self.requests[-1].get("id")) if self.requests else BASE

    def lines(self, metric: str) -> list[Line]:
        """Every request by one metric; one that was made again goes on in its own line."""
        return [self._line(i, r, metric) for i, r in enumerate(self.requests) if not r.get("again")]

    def _line(self, i: int, request: Row, metric: str) -> Line:
        me = str(request.get("id"))
        later = [_cell(r.get("after"), f"{metric}.forget_{me}") for r in self.requests[i + 1 :]]
        own = [_cell(request.get(key), f"{metric}.forget") for key in ("before", "after")]
        tested = [_cell(self.test.get("measured"), f"{metric}.forget_{me}")] if self.test else []
        n = int(number(mapping(request.get("rows")).get("count")) or 0)
        return Line(me, str(request.get("name") or ""), n, i + 1, (*[None] * i, *own, *later, *tested))

    def kept(self) -> list[Line]:
        """The rows that must survive, by probability: the base, then after each request."""
        found = []
        for role, what in KEPT.items():
            key = f"probability.{role}"
            cells = [_cell(r.get("after"), key) for r in self.requests]
            tested = [_cell(self.test.get("measured"), key)] if self.test else []
            if any(cells):
                first = _cell(self.requests[0].get("before"), key)
                n = max(c.n or 0 for c in cells if c)
                found.append(Line(role, what, n, 0, (first, *cells, *tested)))
        return found

    def changed_rows(self) -> list[str]:
        """Sentences for requests from which on other rows to keep are measured: their numbers are no drift."""
        said = []
        for before, now in zip(self.requests, self.requests[1:], strict=False):
            for role in dict.fromkeys(_SOURCE.values()):
                old, new = (mapping(mapping(r.get("kept")).get(role)).get("content") for r in (before, now))
                if old != new:
                    said.append(f"From {now.get('id')} on, other {role} rows are measured: the step there is not drift alone.")
        return said

    def states(self) -> dict[str, tuple[State, list[str]]]:
        """Each request's state and the metrics that say so: by probability, but whoever came back by either came back."""
        found: dict[str, tuple[State, list[str]]] = {}
        for metric in METRICS:
            for line in self.lines(metric):
                state, said = found.setdefault(line.label, (line.state, []))
                if line.state == "came back" != state:
                    state, said = line.state, []
                found[line.label] = (state, [*said, metric] if line.state == state else said)
        return found

    def verdict(self) -> tuple[str, list[str]]:
        """One sentence about all requests, and one for each that did not stay forgotten and each role to keep."""
        states = self.states()
        if not states:
            return "No request has been met yet.", []
        back = [i for i, (state, _) in states.items() if state == "came back"]
        fine = sum(state == "forgotten" for state, _ in states.values())
        asked = words.several(len(states), "request")
        lead = f"{asked}; {fine} of {len(states)} forgotten and still so with the newest model, that of {self.newest}"
        lead += f"; {words.listed(back)} came back" if back else ""
        lost = [f"{words.plain(k.label)} kept only {words.share(k.share)} of its probability" for k in self.kept() if k.lost]
        lead += f". But {words.listed(lost)}: the model has lost what must survive." if lost else "."
        return lead, [*self._troubles(states), *self._costs()]

    def _troubles(self, states: Mapping[str, tuple[State, list[str]]]) -> Iterator[str]:
        for metric in METRICS:
            for line in self.lines(metric):
                state, why = states[line.label]
                own, now = line.cells[line.own], line.now
                if state not in ("came back", "not forgotten") or metric not in why or own is None or now is None:
                    continue
                before = line.cells[line.own - 1]
                who = f"{line.label} ({line.name})" if line.name else line.label
                if state == "came back":
                    said = f"{words.number(own.value)} after its own request, {words.with_interval(now)} now"
                    yield f"{who} came back: {words.plain(metric)} {said}."
                elif metric == METRICS[0]:
                    said = f"{words.number(before.value if before else None)} before it, {words.with_interval(own)} after"
                    yield f"{who} was not forgotten: {words.plain(metric)} {said}."

    def _costs(self) -> Iterator[str]:
        for line in self.kept():
            first = line.cells[0]
            if first is not None and line.share is not None:
                then = f"probability {words.number(first.value)} with the base"
                yield f"{words.plain(line.label)}: {then}, {words.with_interval(line.now)} now ({words.share(line.share)})."

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        states = {i: {"state": state, "by": by} for i, (state, by) in self.states().items()}
        requests = {metric: [_plain(line) for line in self.lines(metric)] for metric in METRICS}
        return {"columns": list(self.columns), "states": states, "requests": requests, "kept": [_plain(k) for k in self.kept()]}

    def as_text(self) -> str:
        """Aligned text for a terminal."""
        lead, more = self.verdict()
        parts = [f"base     {mapping(self.book.get('base')).get('name')}\n{lead}", "\n".join([*more, *self.changed_rows()])]
        states = self.states()
        for metric in METRICS if self.requests else ():
            head = [f"{words.plain(metric)} v", "rows", *self.columns, "now, 95 %", ""]
            body = [[*_row(line), states[line.label][0]] for line in self.lines(metric)]
            parts.append(aligned([head, *body]))
        if self.kept():
            head = ["kept, probability ^", "rows", *self.columns, "now, 95 %"]
            parts.append(aligned([head, *(_row(line) for line in self.kept())]))
        if any(r.get("status") == "begun" for r in rows(self.book.get("requests"))):
            parts.append("One request was begun and has not ended: run it again to go on.")
        return "\n\n".join(p for p in parts if p).replace(words.NONE, "-").replace("\N{NO-BREAK SPACE}", " ")


def load(folder: Path) -> Drift:
    """Reads a ledger's book. UserError when the folder holds none."""
    try:
        book = mapping(json.loads((folder / FILE).read_text(encoding="utf-8")))
    except (OSError, ValueError):
        book = {}
    if not book:
        raise UserError(f"{folder / FILE}: no such file, or not a ledger's")
    done = tuple(r for r in rows(book.get("requests")) if r.get("status") == "done")
    newest = done[-1].get("id") if done else BASE
    tests = [t for t in rows(book.get("tests")) if t.get("model") == newest]
    return Drift(folder, book, done, tests[-1] if tests else None)


def _cell(measured: object, name: str) -> Cell | None:
    found = mapping(mapping(measured).get(name))
    value = number(found.get("value"))
    if value is None:
        return None
    n = number(found.get("n"))
    return Cell(value, number(found.get("low")), number(found.get("high")), None if n is None else int(n), {0: value})


def _row(line: Line) -> list[str]:
    label = line.label if not line.name or line.own == 0 else f"{line.label} {line.name}"
    cells = [words.number(c.value if c else None) if c or i >= line.own else "" for i, c in enumerate(line.cells)]
    return [label if len(label) <= 32 else f"{label[:29]}...", str(line.n), *cells, words.with_interval(line.now)]


def _plain(line: Line) -> dict[str, Any]:
    shown = {k: v for k, v in asdict(line).items() if k != "cells"}
    cells = [None if c is None else {"value": c.value, "low": c.low, "high": c.high, "n": c.n} for c in line.cells]
    return {**shown, "state": line.state if line.own else None, "cells": cells}
