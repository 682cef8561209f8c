"""The figures that a recipe asks for in an order of its own (`draw`, `over: stages` or `over: measurements`).

`stages` sets a measurement against the place of each stage in its line: how well every task is done as one comes after another.
`measurements` sets several measurements of one stage beside each other, a line a stage: errors against the number of pilots.
Places are evenly spaced, for they are names and no numbers. Points are means over seeds with 95 % intervals; a `level` is a
measurement of the first stage, drawn across.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from amends.report import words
from amends.report.drawn import legend, mark, sample, upwards
from amends.report.load import RunData, mapping, rows
from amends.report.panels import Panel
from amends.report.svg import WIDTH, Axis, el, line, svg, text
from amends.report.table import Cell, Table, base

ACROSS = {"stages": "stages in their order", "measurements": ""}


@dataclass(frozen=True)
class Line:
    """One line: what it is called, and its points as (place, number); places without a number are left out."""

    name: str
    points: tuple[tuple[int, Cell], ...]


@dataclass(frozen=True)
class Figure:
    """What one picture shows."""

    name: str
    """What goes upwards."""
    lines: tuple[Line, ...]
    ticks: tuple[str, ...]
    across: str
    level: tuple[str, Cell] | None = None


def ordered(run: RunData, table: Table) -> list[Panel]:
    """Every picture over stages or measurements that the recipe asked for and that has a number."""
    found = []
    for asked in rows(run.manifest.get("draw")):
        for metric, figure in _figures(asked, table):
            if figure.lines:
                better = words.DIRECTIONS.get(table.better(metric), "")
                title = ": ".join(filter(None, (str(asked.get("title") or ""), figure.name)))
                found.append(Panel(title, better, picture(figure)))
    return found


def _figures(asked: Mapping[str, object], table: Table) -> list[tuple[str, Figure]]:
    over, of, groups = str(asked.get("over") or ""), _names(asked.get("of")), mapping(asked.get("lines"))
    if over not in ACROSS or not of:
        return []
    level, given = _level(asked.get("level"), groups, table), _names(asked.get("ticks"))
    if over == "measurements":
        each = {str(name): [(stage, m) for stage in _names(stages)[:1] for m in of] for name, stages in groups.items()}
        name = words.column(base(of[0]))
        return [(of[0], Figure(name, _lines(each, table), given or tuple(map(words.metric, of)), "", level))]
    figures = []
    for metric in of:
        each = {str(name): [(stage, metric) for stage in _names(stages)] for name, stages in groups.items()}
        places = tuple(str(k) for k in range(1, max((len(points) for points in each.values()), default=0) + 1))
        figure = Figure(words.metric(metric), _lines(each, table), given or places, "" if given else ACROSS[over], level)
        figures.append((metric, figure))
    return figures


def _lines(each: Mapping[str, Sequence[tuple[str, str]]], table: Table) -> tuple[Line, ...]:
    found = []
    for name, points in each.items():
        known = tuple((k, cell) for k, (stage, metric) in enumerate(points) if (cell := table.cell(stage, metric)) is not None)
        if known:
            found.append(Line(name, known))
    return tuple(found)


def _level(metric: object, groups: Mapping[str, object], table: Table) -> tuple[str, Cell] | None:
    first = next((stage for stages in groups.values() for stage in _names(stages)), None)
    cell = table.cell(first, str(metric)) if metric and first is not None else None
    return None if cell is None else (words.metric(str(metric)), cell)


def _names(value: object) -> tuple[str, ...]:
    return tuple(map(str, value)) if isinstance(value, Sequence) and not isinstance(value, str) else ()


def picture(figure: Figure) -> Markup:
    """The lines with their marks, whiskers, a legend, and the level."""
    names = legend([each.name for each in figure.lines])
    top = names[-1][2] + 22
    left, right, bottom = 48, WIDTH - 14, top + 236
    cells = [c for each in figure.lines for _, c in each.points]
    x = Axis(0, max(len(figure.ticks) - 1, 1), left + 26, right - 26)
    y = upwards([*cells, *([figure.level[1]] if figure.level else [])], bottom - 8, top + 6)
    parts: list[Markup] = []
    for tick in y.ticks(5):
        parts += [line(left, y(tick), right, y(tick), "grid"), text(left - 6, y(tick) + 4, words.tick(tick), "tick", "end")]
    for k, word in enumerate(figure.ticks):
        parts += [line(x(k), top, x(k), bottom, "grid"), text(x(k), bottom + 16, word, "tick", "middle")]
    for i, (word, at, down) in enumerate(names):
        parts += [*sample(i, at, down), text(at + 30, down + 4, word, "label")]
    if figure.level is not None:
        called, cell = figure.level
        parts.append(line(left, y(cell.value), right, y(cell.value), "reference"))
        parts.append(text(right, y(cell.value) - 4, called, "tick", "end"))
    for i, each in enumerate(figure.lines):
        parts += _drawn(i, each, figure.ticks, x, y, 4.0 * (i - (len(figure.lines) - 1) / 2))
    parts += [text((left + right) / 2, bottom + 38, figure.across, "axis-name", "middle")] if figure.across else []
    middle = (top + bottom) / 2
    turned = {"cls": "axis-name", "text_anchor": "middle", "transform": f"rotate(-90 12 {middle:g})"}
    parts.append(el("text", figure.name, x=12, y=middle, **turned))
    return svg(f"{figure.name}. {_said(figure)}", WIDTH, bottom + 50, *parts)


def _drawn(i: int, each: Line, ticks: Sequence[str], x: Axis, y: Axis, aside: float) -> list[Markup]:
    """One line, moved aside a little so that whiskers of one place stand beside each other."""
    spots = [(x(k) + aside, y(cell.value)) for k, cell in each.points]
    parts: list[Markup] = []
    for (px, _), (_, cell) in zip(spots, each.points, strict=True):
        if cell.low is not None and cell.high is not None and cell.high > cell.low:
            parts.append(line(px, y(cell.low), px, y(cell.high), f"whisker line-{i}"))
    if len(spots) > 1:
        parts.append(el("polyline", points=" ".join(f"{a:.1f},{b:.1f}" for a, b in spots), cls=f"series line-{i}"))
    for (px, py), (k, cell) in zip(spots, each.points, strict=True):
        parts.append(mark(i, px, py, f"{each.name}, {ticks[k]}: {words.with_interval(cell)}"))
    return parts


def _said(figure: Figure) -> str:
    """The picture in words."""
    level = [] if figure.level is None else [f"{figure.level[0]}: {words.with_interval(figure.level[1])}"]
    lines = [
        f"{each.name}: " + ", ".join(f"{figure.ticks[k]} {words.with_interval(c)}" for k, c in each.points)
        for each in figure.lines
    ]
    return "; ".join([*lines, *level])
