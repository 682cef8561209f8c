"""Two numbers of many methods against each other: numbered points with intervals, and the front that no other one beats.

Forgetting against keeping, and the distance to the retrained model against time. A method and the same method on a sparse
model (`fine-tune` and `fine-tune-sparse`) are joined by a line, the sparse one a square.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from amends.report import words
from amends.report.svg import (
    WIDTH,
    Axis,
    Box,
    Scale,
    axis,
    el,
    line,
    log_axis,
    place,
    shape,
    shorten,
    square,
    svg,
    text,
    within_reach,
)
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


TWIN = "-sparse"
"""Ends the name of a method that works on a sparse model; without it, it is the same method on the dense one."""
MOST_NAMED = 12
"""From more points on, a name that has no room is left out."""
Level = tuple[str, float]
"""A height that is marked across the picture, and what it is."""


def front(points: Iterable[tuple[str, float, float]]) -> set[str]:
    """The names of those that no other one is at least as good as in both numbers, and better in one; less is better.

    >>> sorted(front([("a", 1, 3), ("b", 2, 2), ("c", 2, 3), ("d", 2, 2)]))
    ['a', 'b', 'd']
    """
    known = {name: (x, y) for name, x, y in points}
    return {
        name for name, point in known.items()
        if not any(other != point and other[0] <= point[0] and other[1] <= point[1] for other in known.values())
    }  # fmt: skip


def has_twins(points: Sequence[Point]) -> bool:
    """Whether a method stands there with the same method on a sparse model."""
    return bool(_twins(points))


def plot(
    points: Sequence[Point], x_name: str, y_name: str, x_better: str, *, log: bool = False, levels: Sequence[Level] = ()
) -> Markup:
    """The picture; points on the front come first when labels are given out, then by place.

    Args:
        x_better: `lower` or `higher`; upwards more is better, or less where both are (distance against time).
        log: the axis to the right is logarithmic.
        levels: heights to mark across the picture: what doing nothing reaches.
    """
    ordered = sorted(points, key=lambda p: (p.kind == "unlearned", not p.front, p.place or 0))
    x = _log([p.x for p in ordered]) if log else _axis([p.x for p in ordered], _LEFT + 10, _RIGHT - 10)
    y = _axis([p.y for p in ordered], _BOTTOM - 10, _TOP + 10, [height for _, height in levels])
    spots = [(x(p.x.value), y(p.y.value)) for p in ordered]
    twins = _twins(ordered)
    parts = [*_frame(x, y, x_name, y_name)]
    marked = _marked(levels, y)
    parts += [line(_LEFT, y(height), _RIGHT, y(height), "reference") for _, height in levels]
    parts += [text(_RIGHT, base, name, "tick", "end") for name, base in marked]
    parts += [line(*spots[a], *spots[b], cls="twin") for a, b in twins.items()]
    for p, (px, py) in zip(ordered, spots, strict=True):
        parts += _whiskers(x, p.x, py, across=False) + _whiskers(y, p.y, px, across=True)
    best = [p for p in ordered if p.front]
    parts += _stairs(sorted(best, key=lambda p: -p.x.value if x_better == "higher" else p.x.value), x, y)
    for i, (p, (px, py)) in enumerate(zip(ordered, spots, strict=True)):
        said = f"{p.name}: {words.with_interval(p.x)}, {words.with_interval(p.y)}"
        if p.kind != "unlearned":
            parts.append(shape(p.kind, px, py, said))
        else:
            parts.append((square if i in twins else _disc)(px, py, said, "method" if p.front else "behind"))
    full = [shorten(f"{p.place} {p.name}" if p.place else p.name, 18) for p in ordered]
    crowded = len(ordered) > MOST_NAMED  # a name without room stays away: the mark says it, and so does the picture's text
    brief = [str(p.place) if p.place else "" if crowded else shorten(p.name, 9) for p in ordered]
    above: list[Box] = [(_RIGHT - 7.2 * len(name), base - 11, float(_RIGHT), base + 3) for name, base in marked]
    parts += place(spots, full, (_LEFT, _TOP, _RIGHT, _BOTTOM), [*above, *(_middle(p) for p in spots)], brief)
    told = [f"{p.name} {words.number(p.x.value)} and {words.number(p.y.value)}" for p in ordered]
    said = "; ".join([*told, *(f"{name} {words.number(height)}" for name, height in levels)])
    on = words.listed([p.name for p in best]) or "none"
    return svg(f"{x_name} across, {y_name} upwards: {said}. On the front: {on}", WIDTH, _HEIGHT, *parts)


def _marked(levels: Sequence[Level], y: Axis) -> list[tuple[str, float]]:
    """(words, baseline) of what is said of the levels: one above its line, two on either side, of more only how many."""
    ordered = sorted(levels, key=lambda each: y(each[1]))
    if len(ordered) > 2:
        return [(f"doing nothing to {len(ordered)} originals", y(ordered[0][1]) - 5)]
    return [(name, y(height) + (13 if i else -5)) for i, (name, height) in enumerate(ordered)]


def _twins(ordered: Sequence[Point]) -> dict[int, int]:
    """The place of each method on a sparse model, and of the same method on the dense one."""
    places = {p.name: i for i, p in enumerate(ordered) if p.kind == "unlearned"}
    return {i: places[dense] for n, i in places.items() if n.endswith(TWIN) and (dense := n.removesuffix(TWIN)) in places}


def _axis(cells: Sequence[Cell], start: float, stop: float, more: Sequence[float] = ()) -> Axis:
    values = [c.value for c in cells]
    span = (max(values) - min(values) or max(abs(values[0]), 1.0)) / 4
    return axis([*more, *(v for c in cells for v in within_reach(c.value, c.low, c.high, span))], start, stop)


def _log(cells: Sequence[Cell]) -> Scale:
    """By values alone: an interval over seeds may reach below 0, where a logarithm has no place for it."""
    return log_axis([c.value for c in cells], _LEFT + 10, _RIGHT - 10)


def _frame(x: Scale, y: Axis, x_name: str, y_name: str) -> list[Markup]:
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


def _stairs(front: Sequence[Point], x: Scale, y: Axis) -> list[Markup]:
    """The edge of what the front reaches: a step from each of its points to the next."""
    if len(front) < 2:
        return []
    steps: list[str] = []
    for here, after in zip(front, [*front[1:], front[-1]], strict=True):
        steps += [f"{x(here.x.value):.1f},{y(here.y.value):.1f}", f"{x(after.x.value):.1f},{y(here.y.value):.1f}"]
    return [el("polyline", points=" ".join(steps), cls="frontier")]


def _disc(px: float, py: float, said: str, cls: str) -> Markup:
    return el("circle", el("title", said), cx=px, cy=py, r=5 if cls == "method" else 4, cls=f"mark {cls}")


def _whiskers(along: Scale, cell: Cell, at: float, *, across: bool) -> list[Markup]:
    if cell.low is None or cell.high is None:
        return []
    low, high = along(cell.low), along(cell.high)
    return [line(*((at, low, at, high) if across else (low, at, high, at)), cls="whisker faint")]


def _middle(spot: tuple[float, float]) -> Box:
    """The crossing of a point's whiskers: labels may lie on their ends, for there are too many to keep out of."""
    return spot[0] - 9, spot[1] - 3, spot[0] + 9, spot[1] + 3
