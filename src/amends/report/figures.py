"""The report's figures: forgetting against keeping, one panel a metric, training curves, what attacks bring back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from markupsafe import Markup

from amends.report import words
from amends.report.svg import WIDTH, Axis, Box, axis, el, line, place, shape, shorten, svg, text, within_reach
from amends.report.table import Cell

Entry = tuple[str, str, Cell]
"""A subject's name, its kind, its number."""

_LABEL, _VALUE, _ROW = 104, 54, 28


def scatter(points: Sequence[tuple[str, str, Cell, Cell]], x_name: str, y_name: str) -> Markup:
    """Forgetting (x) against keeping (y), a mark a subject, with both intervals as whiskers and the name beside it."""
    height, left, right, top, bottom = 320, 48, WIDTH - 12, 14, 268
    x = _fitted([p[2] for p in points], left + 8, right - 8)
    y = _fitted([p[3] for p in points], bottom - 8, top + 8)
    parts: list[Markup] = []
    for tick in y.ticks(5):
        parts += [line(left, y(tick), right, y(tick), "grid"), text(left - 6, y(tick) + 4, words.tick(tick), "tick", "end")]
    for tick in x.ticks(5):
        parts += [line(x(tick), top, x(tick), bottom, "grid"), text(x(tick), bottom + 16, words.tick(tick), "tick", "middle")]
    parts.append(text((left + right) / 2, bottom + 38, x_name, "axis-name", "middle"))
    middle = (top + bottom) / 2
    parts.append(
        el("text", y_name, x=12, y=middle, cls="axis-name", text_anchor="middle", transform=f"rotate(-90 12 {middle:g})")
    )
    for _, _, cx, cy in points:
        parts += _whisker(x, cx, y(cy.value), across=False) + _whisker(y, cy, x(cx.value), across=True)
    spots = [(x(cx.value), y(cy.value)) for _, _, cx, cy in points]
    for (name, kind, cx, cy), (px, py) in zip(points, spots, strict=True):
        parts.append(shape(kind, px, py, f"{name}: {words.number(cx.value)}, {words.number(cy.value)}"))
    whiskers = [_reach(x, cx, py, across=False) for (*_, cx, _), (_, py) in zip(points, spots, strict=True)]
    whiskers += [_reach(y, cy, px, across=True) for (*_, cy), (px, _) in zip(points, spots, strict=True)]
    parts += place(spots, [shorten(p[0], 16) for p in points], (left, top, right, bottom), whiskers)
    said = "; ".join(f"{n} {words.number(a.value)} and {words.number(b.value)}" for n, _, a, b in points)
    return svg(f"{x_name} across, {y_name} upwards: {said}", WIDTH, height, *parts)


def forest(entries: Sequence[Entry], name: str) -> Markup:
    """One metric: a row a subject, the way from the original to the method as a bar, intervals as whiskers."""
    height = 10 + _ROW * len(entries) + 24
    x = _fitted([c for *_, c in entries], _LABEL, WIDTH - _VALUE)
    bottom = 10 + _ROW * len(entries)
    parts: list[Markup] = []
    for tick in x.ticks(4):
        parts += [line(x(tick), 6, x(tick), bottom, "grid"), text(x(tick), bottom + 16, words.tick(tick), "tick", "middle")]
    start = next((c for _, kind, c in entries if kind == "original"), None)
    for i, (label, kind, cell) in enumerate(entries):
        y = 10 + _ROW * (i + 0.5)
        if start is not None and kind not in ("original", "retrain"):
            parts.append(line(x(start.value), y, x(cell.value), y, "travel"))
        parts += _whisker(x, cell, y, across=False)
        parts.append(shape(kind, x(cell.value), y, f"{label}: {words.with_interval(cell)}"))
        parts.append(text(_LABEL - 12, y + 4, shorten(label, 14), "label", "end"))
        parts.append(text(WIDTH - 4, y + 4, words.number(cell.value), "label strong", "end"))
    if start is not None:
        parts.insert(0, line(x(start.value), 6, x(start.value), bottom, "reference"))
    said = "; ".join(f"{label} {words.with_interval(cell)}" for label, _, cell in entries)
    return svg(f"{name}: {said}", WIDTH, height, *parts)


def bars(entries: Sequence[Entry], name: str) -> Markup:
    """Shares brought back by attacks, 0 to 100 %; a retrained control is an outlined bar."""
    height = 10 + _ROW * len(entries) + 24
    bottom = 10 + _ROW * len(entries)
    ends = [v for *_, c in entries for v in within_reach(c.value, c.low, c.high, 0.5)]
    x = axis([0.0, 1.0, *ends], _LABEL + 20, WIDTH - _VALUE)
    parts: list[Markup] = []
    for tick in x.ticks(4):
        parts += [line(x(tick), 6, x(tick), bottom, "grid"), text(x(tick), bottom + 16, words.share(tick), "tick", "middle")]
    for i, (label, kind, cell) in enumerate(entries):
        y = 10 + _ROW * (i + 0.5)
        left, wide = min(x(0), x(cell.value)), abs(x(cell.value) - x(0))
        tip = el("title", f"{label}: {words.share(cell.value)}")
        cls = "bar control" if kind == "retrain" else "bar"
        parts.append(el("rect", tip, x=left, y=y - 7, width=max(wide, 1.0), height=14, cls=cls))
        parts += _whisker(x, cell, y, across=False)
        parts.append(text(_LABEL + 12, y + 4, shorten(label, 18), "label", "end"))
        parts.append(text(WIDTH - 4, y + 4, words.share(cell.value), "label strong", "end"))
    parts.append(line(x(0), 6, x(0), bottom, "zero"))
    said = "; ".join(f"{label} {words.share(cell.value)}" for label, _, cell in entries)
    return svg(f"{name}: {said}", WIDTH, height, *parts)


def curve(by_seed: Mapping[int, Sequence[tuple[float, float]]], name: str) -> Markup:
    """One quantity over the steps of a stage, a line a seed, the last value beside its end."""
    width, height, left, right, top, bottom = 260, 150, 44, 206, 12, 122
    drawn = [p for points in by_seed.values() for p in points]
    x = Axis(min(p[0] for p in drawn), max(*(p[0] for p in drawn), min(p[0] for p in drawn) + 1), left, right)
    y = axis([p[1] for p in drawn], bottom, top)
    parts: list[Markup] = []
    for tick in y.ticks(4):
        parts += [line(left, y(tick), right, y(tick), "grid"), text(left - 6, y(tick) + 4, words.tick(tick), "tick", "end")]
    parts += [text(left, bottom + 16, f"step {x.low:.0f}", "tick"), text(right, bottom + 16, f"{x.high:.0f}", "tick", "end")]
    for points in by_seed.values():
        path = " ".join(f"{x(a):.1f},{y(b):.1f}" for a, b in thinned(points))
        parts.append(el("polyline", points=path, cls="curve"))
    ends = [points[-1] for points in by_seed.values()]
    parts += [el("circle", cx=x(a), cy=y(b), r=2.5, cls="curve-end") for a, b in ends]
    mean = sum(b for _, b in ends) / len(ends)
    parts.append(text(right + 7, y(mean) + 4, words.number(mean), "label strong"))
    said = f"{name}: from {words.number(drawn[0][1])} to {words.number(mean)} in {x.high:.0f} steps"
    return svg(said, width, height, *parts)


def thinned(points: Sequence[tuple[float, float]], most: int = 240) -> list[tuple[float, float]]:
    """At most about `most` points, spread evenly, the last one kept."""
    stride = max(1, -(-len(points) // most))
    return [*points[:-1:stride], *points[-1:]]


def _fitted(cells: Sequence[Cell], start: float, stop: float) -> Axis:
    values = [c.value for c in cells]
    span = max(values) - min(values) or max(abs(values[0]), 1.0)
    reach = [v for c in cells for v in within_reach(c.value, c.low, c.high, span)]
    return axis(reach, start, stop, unit_range=True)


def _whisker(along: Axis, cell: Cell, at: float, *, across: bool) -> list[Markup]:
    if cell.low is None or cell.high is None:
        return []
    low, high = along(cell.low), along(cell.high)
    ends = [(low, at, high, at), (low, at - 3, low, at + 3), (high, at - 3, high, at + 3)]
    return [line(*((b, a, d, c) if across else (a, b, c, d)), cls="whisker") for a, b, c, d in ends]


def _reach(along: Axis, cell: Cell, at: float, *, across: bool) -> Box:
    """The box of a whisker, for labels to keep out of."""
    ends = [along(v) for v in (cell.low, cell.value, cell.high) if v is not None]
    low, high = min(ends), max(ends)
    return (at - 2, low, at + 2, high) if across else (low, at - 2, high, at + 2)
