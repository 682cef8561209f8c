"""Forgetting against keeping for many methods: numbered points with intervals, and the front that no other one beats."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from amends.report import words
from amends.report.svg import WIDTH, Axis, Box, axis, el, line, place, shape, shorten, svg, text, within_reach
from amends.report.table import Cell

_TOP, _BOTTOM, _LEFT, _RIGHT, _HEIGHT = 14, 320, 48, WIDTH - 12, 372


@dataclass(frozen=True)
class Point:
    """One model: a method by its place, or a reference."""

    name: str
    kind: str
    """`original`, `retrain` or `unlearned`."""
    place: int | None
    front: bool
    x: Cell
    y: Cell


def plot(points: Sequence[Point], x_name: str, y_name: str, x_better: str) -> Markup:
    """The picture; points on the front come first when labels are given out, then by place.

    Args:
        x_better: `lower` or `higher`; upwards more is better.
    """
    ordered = sorted(points, key=lambda p: (p.kind == "unlearned", not p.front, p.place or 0))
    x = _axis([p.x for p in ordered], _LEFT + 10, _RIGHT - 10)
    y = _axis([p.y for p in ordered], _BOTTOM - 10, _TOP + 10)
    spots = [(x(p.x.value), y(p.y.value)) for p in ordered]
    parts = [*_frame(x, y, x_name, y_name)]
    for p, (px, py) in zip(ordered, spots, strict=True):
        parts += _whiskers(x, p.x, py, across=False) + _whiskers(y, p.y, px, across=True)
    front = [p for p in ordered if p.front]
    parts += _stairs(sorted(front, key=lambda p: -p.x.value if x_better == "higher" else p.x.value), x, y)
    for p, (px, py) in zip(ordered, spots, strict=True):
        said = f"{p.name}: {words.with_interval(p.x)}, {words.with_interval(p.y)}"
        parts.append(shape(p.kind, px, py, said) if p.front or p.kind != "unlearned" else _behind(px, py, said))
    full = [shorten(f"{p.place} {p.name}" if p.place else p.name, 18) for p in ordered]
    brief = [str(p.place) if p.place else shorten(p.name, 9) for p in ordered]
    parts += place(spots, full, (_LEFT, _TOP, _RIGHT, _BOTTOM), [_middle(p) for p in spots], brief)
    said = "; ".join(f"{p.name} {words.number(p.x.value)} and {words.number(p.y.value)}" for p in ordered)
    on = words.listed([p.name for p in front]) or "none"
    return svg(f"{x_name} across, {y_name} upwards: {said}. On the front: {on}", WIDTH, _HEIGHT, *parts)


def _axis(cells: Sequence[Cell], start: float, stop: float) -> Axis:
    values = [c.value for c in cells]
    span = (max(values) - min(values) or max(abs(values[0]), 1.0)) / 4
    return axis([v for c in cells for v in within_reach(c.value, c.low, c.high, span)], start, stop)


def _frame(x: Axis, y: Axis, x_name: str, y_name: str) -> list[Markup]:
    parts: list[Markup] = []
    for tick in y.ticks(6):
        parts += [line(_LEFT, y(tick), _RIGHT, y(tick), "grid"), text(_LEFT - 6, y(tick) + 4, words.tick(tick), "tick", "end")]
    for tick in x.ticks(6):
        parts += [
            line(x(tick), _TOP, x(tick), _BOTTOM, "grid"), text(x(tick), _BOTTOM + 16, words.tick(tick), "tick", "middle"),
        ]  # fmt: skip
    middle = (_TOP + _BOTTOM) / 2
    parts.append(text((_LEFT + _RIGHT) / 2, _BOTTOM + 38, x_name, "axis-name", "middle"))
    turned = el("text", y_name, x=12, y=middle, cls="axis-name", text_anchor="middle", transform=f"rotate(-90 12 {middle:g})")
    return [*parts, turned]


def _stairs(front: Sequence[Point], x: Axis, y: Axis) -> list[Markup]:
    """The edge of what the front reaches: a step from each of its points to the next."""
    if len(front) < 2:
        return []
    steps: list[str] = []
    for here, after in zip(front, [*front[1:], front[-1]], strict=True):
        steps += [f"{x(here.x.value):.1f},{y(here.y.value):.1f}", f"{x(after.x.value):.1f},{y(here.y.value):.1f}"]
    return [el("polyline", points=" ".join(steps), cls="frontier")]


def _behind(px: float, py: float, said: str) -> Markup:
    return el("circle", el("title", said), cx=px, cy=py, r=4, cls="mark behind")


def _whiskers(along: Axis, cell: Cell, at: float, *, across: bool) -> list[Markup]:
    if cell.low is None or cell.high is None:
        return []
    low, high = along(cell.low), along(cell.high)
    return [line(*((at, low, at, high) if across else (low, at, high, at)), cls="whisker faint")]


def _middle(spot: tuple[float, float]) -> Box:
    """The crossing of a point's whiskers: labels may lie on their ends, for there are too many to keep out of."""
    return spot[0] - 9, spot[1] - 3, spot[0] + 9, spot[1] + 3
