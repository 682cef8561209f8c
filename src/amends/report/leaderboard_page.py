"""The leaderboard as one self-contained page, in the style of the report."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from amends.report import build, pareto, side_by_side, words
from amends.report.figures import bars
from amends.report.leaderboard import Board
from amends.report.load import mapping, rows
from amends.report.panels import Panel
from amends.report.price import GAP, on_front, price


def write(board: Board, path: Path) -> Path:
    """Writes the page. UserError when the disk refuses."""
    return build.write(Path(path), "leaderboard.html.j2", context(board))


def context(board: Board) -> dict[str, Any]:
    """Everything the page shows."""
    values, run = board.values, board.run
    paper = mapping(values.get("paper"))
    return {
        "board": board,
        "table": board.table,
        "title": str(values.get("title") or run.name),
        "question": str(values.get("question") or ""),
        "profile": str(values.get("profile") or ""),
        "paper": ", ".join(str(paper[k]) for k in ("title", "arxiv", "where") if paper.get(k)),
        "facts": [("methods", str(len(board.standings))), *build.facts(run)],
        "sides": side_by_side.heading(board),
        "pairs": side_by_side.lines(board) if side_by_side.variants(board) else [],
        "plots": _plots(board),
        "price": price(board.table, {s.name: s.place for s in board.standings}),
        "cheap": [(s, board.table.cell(s, GAP), board.table.cost(s, "seconds")) for s in on_front(board.table)],
        "every": build.every(board.table),
        "recovery": _recovery(board),
        "claims": build.claims(run),
        "search": _search(board),
        "settings": [_settings(line.raw) for line in sorted(board.standings, key=lambda s: s.name)],
        "notes": [str(n) for n in values.get("notes") or ()] + [str(n) for n in mapping(values.get("data")).get("notes") or ()],
        "command": str(values.get("command") or ""),
        "provenance": [("bench hash", str(values.get("bench_hash") or "")), *build.provenance(run)],
    }


def _plots(board: Board) -> list[Panel]:
    """All models; and, where some keep too little, those that keep enough once more, closer by."""
    points = _points(board)
    able = {s.name for s in board.standings if s.able}
    close = [p for p in points if p.name in able]
    note = (
        "Numbers are places in the table. Filled points lie on the front: no other method is as good in both and better in one."
    )
    if pareto.has_twins(points):
        note += " A square is the same method on the sparse model."
    shown = [("All models", note, points)] if points else []
    if len(close) > 1 and len(close) < len(points):
        enough = f"at least {words.share(board.at_least)} of the original's {words.metric(board.keeping)}"
        shown.append(("Closer by", f"Only the methods that keep {enough}; both axes begin elsewhere.", close))
    better = board.table.better(board.forgetting)
    x_name, y_name = (
        f"{words.metric(m)} ({words.DIRECTIONS.get(board.table.better(m), '')})" for m in (board.forgetting, board.keeping)
    )
    return [Panel(title, said, pareto.plot(some, x_name, y_name, better)) for title, said, some in shown]


def _points(board: Board) -> list[pareto.Point]:
    points = []
    for name in board.references:
        x, y = board.table.cell(name, board.forgetting), board.table.cell(name, board.keeping)
        if x is not None and y is not None:
            points.append(pareto.Point(name, board.table.kinds[name], None, False, x, y))
    for s in board.standings:
        if s.forgetting is not None and s.keeping is not None:
            points.append(pareto.Point(s.name, "unlearned", s.place, s.front, s.forgetting, s.keeping))
    return points


def _recovery(board: Board) -> Panel | None:
    """The worst attack on each method, worst first, with what the same attack gives the retrained model."""
    hit = sorted((s for s in board.standings if s.worst), key=lambda s: -s.worst.recovered.value if s.worst else 0.0)
    entries = [(s.name, "unlearned", s.worst.recovered) for s in hit if s.worst is not None]
    note = "Share of what was forgotten that comes back: 0 % is still gone, 100 % is as before unlearning."
    if not entries:
        return None
    return Panel("Brought back by the worst attack", note, bars(entries, "brought back by the worst attack"))


def _search(board: Board) -> dict[str, Any] | None:
    """How settings were found: the budget, the rule, and every trial."""
    found = mapping(board.values.get("search"))
    if not found:
        return None
    by, kept = str(found.get("forgetting") or board.forgetting), str(found.get("keeping") or board.keeping)
    gone, keep = words.metric(by), words.metric(kept)
    way = words.DIRECTIONS.get(board.table.better(by), "")
    methods = mapping(found.get("methods"))
    tried = sum(len(rows(mapping(m).get("trials"))) for m in methods.values())
    said = (
        f"Settings were chosen on seed {found.get('seed')}, which the table does not show, among at most "
        f"{words.several(int(found.get('budget', 0)), 'trial')} of each method ({tried} in all): of those that kept at least "
        f"{words.share(float(found.get('at_least', 0)))} of the original's {keep}, the one with the best {gone} ({way}); where "
        "none did, the one that kept most."
    )
    lines = [
        (name, ", ".join(f"{k} {_said(v)}" for k, v in mapping(t.get("settings")).items()) or "as the file says",
         t.get("forgetting"), t.get("keeping"), bool(t.get("chosen")))
        for name, m in methods.items() for t in rows(mapping(m).get("trials"))
    ]  # fmt: skip
    untried = [(name, str(mapping(m).get("why"))) for name, m in methods.items() if mapping(m).get("why")]
    return {"said": said, "lines": lines, "untried": untried}


def _settings(raw: Mapping[str, Any]) -> dict[str, Any]:
    stage = mapping(raw.get("stage"))
    return {
        "name": str(raw.get("name", "?")),
        "summary": str(raw.get("summary") or ""),
        "arxiv": str(raw.get("arxiv") or ""),
        "how": compact(stage) if stage else "",
        "tuned": bool(raw.get("tuned")),
    }


def compact(stage: Mapping[str, Any]) -> str:
    """A stage in one line.

    >>> compact({"use": "gradient", "from": "original", "epochs": 2, "objective": [{"use": "npo", "beta": 0.1, "weight": 5}]})
    'gradient, epochs 2, objective: 5 x npo (beta 0.1)'
    """
    parts = [str(stage.get("use", ""))]
    for key, value in stage.items():
        if key not in ("use", "from"):
            parts.append(f"{key}: {_said(value)}" if isinstance(value, (Mapping, list)) else f"{key} {_said(value)}")
    return ", ".join(parts)


def _said(value: Any) -> str:
    if isinstance(value, list):
        return " + ".join(map(_said, value))
    if isinstance(value, Mapping):
        inner = ", ".join(f"{k} {_said(v)}" for k, v in value.items() if k not in ("use", "weight"))
        weight = f"{value['weight']:g} x " if isinstance(value.get("weight"), (int, float)) else ""
        return f"{weight}{value.get('use', '')}{f' ({inner})' if inner else ''}".strip()
    return f"{value:g}" if isinstance(value, float) else str(value)
