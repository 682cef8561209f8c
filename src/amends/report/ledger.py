"""A ledger's page: report.html in the ledger's folder, about all its requests; self-contained, as a run's page is.

Each request has its own report beside its model; this page shows what no single run can: the triangle of every request
under every later model, what was to survive under each of them, and who came back, by the rules of `drift.py`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from amends.report import figures, words
from amends.report.build import write
from amends.report.drift import BACK, KNOWN, METRICS, Drift, Line, load
from amends.report.load import Row, mapping, number, rows
from amends.report.panels import Panel
from amends.report.svg import WIDTH, el, line, shorten, svg, text

_LABEL, _VALUE, _ROW, _DOT = 96, 50, 30, 11.0
_TONES = {"came back": "bad", "not forgotten": "bad", "forgotten": "good", "hardly known": "open", "not measured": "open"}
_SYMBOLS = {"bad": "\N{BALLOT X}", "good": "\N{CHECK MARK}", "open": "?"}


def build(folder: Path) -> Path:
    """Writes report.html into a ledger's folder and returns its path. UserError when it holds no ledger."""
    return write(folder / "report.html", "ledger.html.j2", context(load(folder)))


def context(drift: Drift) -> dict[str, Any]:
    """Everything the page shows, in its order."""
    lead, more = drift.verdict()
    states = drift.states()
    return {
        "drift": drift,
        "base": str(mapping(drift.book.get("base")).get("name") or words.NONE),
        "lead": lead,
        "trouble": any(k.lost for k in drift.kept()) or any(_TONES[state] == "bad" for state, _ in states.values()),
        "more": [*more, *drift.changed_rows()],
        "tally": tally([state for state, _ in states.values()]),
        "states": {i: (state, _TONES[state], _SYMBOLS[_TONES[state]]) for i, (state, _) in states.items()},
        "facts": facts(drift),
        "triangles": [(metric, lines) for metric in METRICS if (lines := drift.lines(metric))],
        "panels": [triangle_panel(metric, lines, drift.columns) for metric in METRICS if (lines := drift.lines(metric))],
        "kept": drift.kept(),
        "kept_panels": [_kept_panel(k, drift) for k in drift.kept()],
        "requests": [_request(r) for r in rows(drift.book.get("requests"))],
        "attacks": attacks(drift),
        "limits": limits(drift),
        "records": records(drift),
        "back": BACK,
        "known": KNOWN,
    }


def tally(states: Sequence[str]) -> list[tuple[str, str, str]]:
    """How many requests are in each state, the worst first: symbol, words, tone."""
    return [(_SYMBOLS[t], f"{states.count(s)} {s}", t) for s, t in _TONES.items() if s in states]


def facts(drift: Drift) -> list[tuple[str, str]]:
    """The line of small print under the verdict."""
    named = sum(int(number(mapping(r.get("rows")).get("count")) or 0) for r in drift.requests if not r.get("again"))
    last = drift.requests[-1] if drift.requests else {}
    known = [
        ("requests", str(len(drift.requests))),
        ("rows to forget", str(named)),
        ("newest model", drift.newest),
        ("last change", _date(last.get("ended") or drift.book.get("created"))),
        ("tested again", _date(drift.test.get("ended")) if drift.test else "not since the last request"),
    ]
    return [(k, v) for k, v in known if v]


def triangle_panel(metric: str, lines: Sequence[Line], columns: Sequence[str]) -> Panel:
    """The triangle of one metric as a figure."""
    note = "A ring: the model that the request started from. A disc: after it. The area is the number; growing is coming back."
    return Panel(f"{words.plain(metric)} of each request under each model", note, triangle(lines, columns, words.plain(metric)))


def triangle(lines: Sequence[Line], columns: Sequence[str], name: str) -> Markup:
    """Requests downwards, models across: a dot a number, its area the number, the newest one in figures at the end."""
    left, right = _LABEL + 18.0, WIDTH - _VALUE - 12.0
    step = (right - left) / max(len(columns) - 1, 1)
    most = min(_DOT, max(step / 2 - 1, 3.0))
    bottom = 8 + _ROW * len(lines)
    parts: list[Markup] = []
    every = max(1, math.ceil(40 / step)) if len(columns) > 1 else 1
    for j, column in enumerate(columns):
        parts.append(line(left + j * step, 6, left + j * step, bottom, "grid"))
        if j % every == 0 or (j == len(columns) - 1 and j % every > every / 2):
            parts.append(text(left + j * step, bottom + 16, column, "tick", "middle"))
    for i, request in enumerate(lines):
        y = 8 + _ROW * (i + 0.5)
        label = request.label if not request.name else f"{request.label} {request.name}"
        parts.append(text(_LABEL, y + 4, shorten(label, 13), "label", "end"))
        for j, cell in enumerate(request.cells):
            if cell is not None:
                last = cell is request.now and request.state == "came back"
                kind = "original" if j < request.own else "back" if last else "method"
                tip = el("title", f"{request.label} under {columns[j]}: {words.with_interval(cell)}")
                r = max(1.3, most * math.sqrt(min(max(cell.value, 0.0), 1.0)))
                parts.append(el("circle", tip, cx=left + j * step, cy=y, r=float(r), cls=f"mark {kind}"))
        if request.now is not None:
            parts.append(text(WIDTH - 4, y + 4, words.number(request.now.value), "label strong", "end"))
    said = "; ".join(f"{r.label} {words.with_interval(r.now)}, {r.state}" for r in lines)
    return svg(f"{name} with the newest model: {said}", WIDTH, bottom + 24, *parts)


def attacks(drift: Drift) -> list[tuple[str, str, str, str]]:
    """What attacks brought back in the last test of the newest model: attack, read from, share, interval."""
    tested = rows(list(drift.test.get("recovered") or ())) if drift.test else []
    found = []
    for row in tested:
        value, low, high = (number(row.get(k)) for k in ("value", "low", "high"))
        if value is not None:
            span = "" if low is None or high is None else f"{words.share(low)} to {words.share(high)}"
            found.append((_attack(row), words.metric(str(row.get("metric"))), words.share(value), span))
    return found


def limits(drift: Drift) -> list[str]:
    """What the ledger does not show."""
    said = []
    if not drift.test:
        said.append("The newest model was not tested again since its request (amends ledger test).")
    if not attacks(drift):
        said.append(
            "No attack on the newest model was made for all requests together (amends ledger test --attack), so it is "
            "unknown whether earlier requests can be brought back."
        )
    if not drift.kept():
        said.append("Nothing that must survive was measured.")
    elif not any(k.label == "neighbour" for k in drift.kept()):
        said.append("No neighbours were given: what lies close to the forgotten rows was not measured.")
    return [
        *said,
        "No model was retrained without the forgotten rows, so it is unknown what such a model would answer: a number above "
        "zero can be what anyone would guess.",
        "This is empirical evidence about these rows and these metrics. It is not a proof of erasure: another wording, another "
        "language or a stronger attacker may still find what is not seen here.",
    ]


def records(drift: Drift) -> list[tuple[str, str]]:
    """Fingerprints: what an audit compares."""
    base = mapping(drift.book.get("base"))
    found = [("base model", f"{base.get('name')}, weights {base.get('weights')}")]
    for role, kept in mapping(drift.book.get("kept")).items():
        found.append((f"{role} rows", f"{mapping(kept).get('count')} rows, {mapping(kept).get('content')}"))
    for r in drift.requests:
        content = mapping(r.get("rows")).get("content")
        found.append((str(r.get("id")), f"rows {content}, weights {r.get('weights')}, in requests/{r.get('id')}"))
    if drift.test:
        found.append(("last test", f"{drift.test.get('ended')}, in {drift.test.get('run')}"))
    return found


def _kept_panel(kept: Line, drift: Drift) -> Panel:
    entries = [
        (column if column in ("base", "test") else f"after {column}", "original" if column == "base" else "unlearned", cell)
        for column, cell in zip(drift.columns, kept.cells, strict=True)
        if cell is not None
    ]
    name = f"probability of {words.plain(kept.label)}"
    return Panel(name, f"{kept.name}; higher is better", figures.forest(entries, name))


def _request(row: Row) -> dict[str, Any]:
    kept = mapping(row.get("rows"))
    seconds, steps = number(row.get("seconds")), number(row.get("steps"))
    overlaps = [f"{n} of {i}" for i, n in mapping(row.get("overlaps")).items()]
    said = [
        f"{kept.get('count')} rows",
        f"{row.get('method')}, from {row.get('start')}",
        f"{steps:.0f} steps in {words.seconds(seconds)}" if steps is not None else "",
        f"the rows of {row.get('again')} once more" if row.get("again") else "",
        "earlier rows held" if row.get("hold") else "",
        f"forgotten before: {', '.join(overlaps)}" if overlaps and not row.get("again") else "",
        f"stopped by a guard: {row.get('stopped')}" if row.get("stopped") else "",
    ]
    back = [
        f"{_attack(r)} brings back {words.share(number(r.get('value')))} ({words.metric(str(r.get('metric')))})"
        for r in rows(list(row.get("recovered") or ()))
        if r.get("value") is not None and r.get("metric") == "probability.forget"
    ]
    return {
        "id": str(row.get("id")), "name": str(row.get("name") or ""), "status": str(row.get("status")),
        "date": _date(row.get("ended") or row.get("began")), "said": "; ".join(s for s in [*said, *back] if s),
    }  # fmt: skip


def _attack(row: Row) -> str:
    return str(row.get("label") or row.get("attack"))


def _date(value: object) -> str:
    return str(value or "").replace("T", " ").removesuffix("Z")
