"""The figures that a recipe asks for (`draw`): a measurement of groups of stages against the sparsity of their models.

The axis is the share of weights that is LEFT, on a logarithmic scale, for 90, 95 and 99 % of zeros are further apart than
they look; ticks say the sparsity. Lines are told apart by mark and dash as well as by colour, so that they can be read in
print and without colour. Points lie where the stage's own sparsity is, means over seeds with 95 % intervals.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from amends.report import words
from amends.report.load import RunData, mapping, number, rows
from amends.report.panels import Panel
from amends.report.svg import WIDTH, Axis, LogAxis, axis, el, line, svg, text, within_reach
from amends.report.table import Cell, Table

LEAST = 1e-3
"""What is left of a model is drawn down to a thousandth."""
_MARKS = 5


@dataclass(frozen=True)
class Line:
    """One group: its name, its points as (sparsity, number), in the order of sparsity."""

    name: str
    points: tuple[tuple[str, float, Cell], ...]
    """(stage, sparsity, number)."""


def drawn(run: RunData, table: Table) -> list[Panel]:
    """Every picture that the recipe asked for and that has a number."""
    sparse = sparsities(run)
    found = []
    for asked in rows(run.manifest.get("draw")):
        if asked.get("over", "sparsity") != "sparsity":
            continue
        for metric in asked.get("of") or ():
            lines = _lines(table, mapping(asked.get("lines")), str(metric), sparse)
            if lines:
                better = words.DIRECTIONS.get(table.better(str(metric)), "")
                title = str(asked.get("title") or "")
                name = f"{words.metric(str(metric))} against sparsity"
                found.append(Panel(f"{title}: {name}" if title else name, better, picture(lines, words.metric(str(metric)))))
    return found


def sparsities(run: RunData) -> dict[str, float]:
    """stage -> the mean over seeds of the share of its prunable weights that is 0, for stages that say it."""
    told: dict[str, list[float]] = {}
    for stage in run.stages:
        if (share := number(stage.raw.get("sparsity"))) is not None:
            told.setdefault(stage.name, []).append(share)
    return {name: math.fsum(values) / len(values) for name, values in told.items()}


def picture(lines: Sequence[Line], name: str) -> Markup:
    """The lines with their marks, whiskers and a legend; `name` is what goes upwards."""
    names = legend([each.name for each in lines])
    top = names[-1][2] + 22
    left, right, bottom = 48, WIDTH - 14, top + 236
    x = _across([s for each in lines for _, s, _ in each.points], left + 12, right - 12)
    y = upwards([c for each in lines for *_, c in each.points], bottom - 8, top + 6)
    parts: list[Markup] = []
    for tick in y.ticks(5):
        parts += [line(left, y(tick), right, y(tick), "grid"), text(left - 6, y(tick) + 4, words.tick(tick), "tick", "end")]
    for share, at in _ticks(lines, x):
        parts.append(line(at, top, at, bottom, "grid"))
        parts.append(text(at, bottom + 16, _said(share), "tick", "middle"))
    for i, word in enumerate(names):
        parts += [*sample(i, word[1], word[2]), text(word[1] + 30, word[2] + 4, word[0], "label")]
    for i, each in enumerate(lines):
        parts += _drawn(i, each, x, y, 4.0 * (i - (len(lines) - 1) / 2))
    parts.append(text((left + right) / 2, bottom + 38, "sparsity (scale: what is left, logarithmic)", "axis-name", "middle"))
    middle = (top + bottom) / 2
    parts.append(
        el("text", name, x=12, y=middle, cls="axis-name", text_anchor="middle", transform=f"rotate(-90 12 {middle:g})")
    )
    said = "; ".join(
        f"{each.name}: " + ", ".join(f"{words.with_interval(c)} at {_said(s)}" for _, s, c in each.points) for each in lines
    )
    return svg(f"{name} against sparsity. {said}", WIDTH, bottom + 50, *parts)


def _lines(table: Table, groups: Mapping[str, object], metric: str, sparse: Mapping[str, float]) -> list[Line]:
    found = []
    for name, stages in groups.items():
        points = [
            (str(s), sparse[s], cell)
            for s in (stages if isinstance(stages, Sequence) else ())
            if s in sparse and (cell := _cell(table, str(s), metric)) is not None
        ]
        if points:
            found.append(Line(str(name), tuple(sorted(points, key=lambda p: p[1]))))
    return found


def _cell(table: Table, stage: str, metric: str) -> Cell | None:
    return table.cost(stage, metric) if metric == "seconds" else table.cell(stage, metric)


def _across(shares: Sequence[float], start: float, stop: float) -> LogAxis:
    """From dense at the left to the sparsest at the right."""
    left = [max(1 - share, LEAST) for share in shares]
    low, high = min(left), max(left)
    if high / low < 1.05:
        low, high = max(low / 2, LEAST / 2), high * 2
    return LogAxis(low, high, stop, start)


def upwards(cells: Sequence[Cell], start: float, stop: float) -> Axis:
    """From 0, so that no small change looks like a large one."""
    values = [c.value for c in cells]
    span = (max(values) - min(values) or max(abs(values[0]), 1.0)) / 2
    return axis([0.0, *(v for c in cells for v in within_reach(c.value, c.low, c.high, span))], start, stop)


def _ticks(lines: Sequence[Line], x: LogAxis) -> list[tuple[float, float]]:
    """(sparsity, place) of the stages, those that have room; groups of several stages first."""
    several = [s for each in lines if len(each.points) > 1 for _, s, _ in each.points]
    kept: list[tuple[float, float]] = []
    for share in sorted(several) or sorted(s for each in lines for _, s, _ in each.points):
        at = x(max(1 - share, LEAST))
        if all(abs(at - other) >= 34 for _, other in kept):
            kept.append((share, at))
    return kept


def _drawn(i: int, each: Line, x: LogAxis, y: Axis, aside: float) -> list[Markup]:
    """One line, moved aside a little so that whiskers of equal sparsity stand beside each other."""
    spots = [(x(max(1 - share, LEAST)) + aside, y(cell.value)) for _, share, cell in each.points]
    parts: list[Markup] = []
    for (px, _), (*_, cell) in zip(spots, each.points, strict=True):
        if cell.low is not None and cell.high is not None and cell.high > cell.low:
            parts.append(line(px, y(cell.low), px, y(cell.high), f"whisker line-{i % _MARKS}"))
    if len(spots) > 1:
        parts.append(el("polyline", points=" ".join(f"{a:.1f},{b:.1f}" for a, b in spots), cls=f"series line-{i % _MARKS}"))
    for (px, py), (stage, share, cell) in zip(spots, each.points, strict=True):
        tip = f"{each.name}, {stage}: {words.with_interval(cell)} at {_said(share)}"
        parts.append(mark(i, px, py, tip))
    return parts


def mark(i: int, x: float, y: float, said: str = "") -> Markup:
    """The mark of line `i`: disc, square, diamond, triangle, ring."""
    tip, cls = ((el("title", said),) if said else ()), f"point line-{i % _MARKS}"
    kind = i % _MARKS
    if kind == 1:
        return el("rect", *tip, x=x - 4.5, y=y - 4.5, width=9, height=9, cls=cls)
    if kind == 2:
        return el("path", *tip, d=f"M{x:.2f} {y - 6:.2f}l6 6l-6 6l-6 -6z", cls=cls)
    if kind == 3:
        return el("path", *tip, d=f"M{x:.2f} {y - 6:.2f}l6 10.5l-12 0z", cls=cls)
    return el("circle", *tip, cx=x, cy=y, r=5, cls=f"{cls} hollow" if kind == 4 else cls)


def legend(names: Sequence[str]) -> list[tuple[str, float, float]]:
    """(words, left, middle) of each line's name, in rows as wide as the picture."""
    at, down, found = 8.0, 12.0, []
    for name in names:
        wide = 30 + 7.2 * len(name) + 14
        if at > 8 and at + wide > WIDTH:
            at, down = 8.0, down + 20
        found.append((name, at, down))
        at += wide
    return found


def sample(i: int, at: float, down: float) -> list[Markup]:
    """What stands before a line's name: a piece of the line, and its mark."""
    return [
        el("polyline", points=f"{at:.1f},{down:.1f} {at + 24:.1f},{down:.1f}", cls=f"series line-{i % _MARKS}"),
        mark(i, at + 12, down),
    ]


def _said(share: float) -> str:
    return words.precise_share(round(share, 3))
