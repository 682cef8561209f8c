"""The figures of scores that a recipe asks for (`draw`, `over: place` or `over: size`): a measurement's own, stage by stage.

`place` sets scores from the largest down against their place, on a logarithmic scale: the singular values of an update, where a
low rank is a cliff. `size` counts how many scores lie where: the lengths of neurons, where two groups are two heaps. Lines
are told apart by mark and dash as well as by colour; points and steps are means over seeds, whiskers reach from the lowest
seed to the highest.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from amends.report import words
from amends.report.confidence import scores
from amends.report.drawn import legend, mark, sample
from amends.report.load import RunData, mapping, rows
from amends.report.panels import Panel
from amends.report.svg import WIDTH, Axis, LogAxis, axis, el, line, log_axis, svg, text
from amends.report.table import base, role

PLACES = 10
"""How many scores of a spectrum are drawn."""
FLOOR = 1e-4
"""Scores below this share of the largest are drawn there."""
BINS = 24


@dataclass(frozen=True)
class Spread:
    """One line: what it is called, and the scores of each seed, the largest first."""

    name: str
    by_seed: tuple[tuple[float, ...], ...]


def scored(run: RunData) -> list[Panel]:
    """Every picture of scores that the recipe asked for and that has some."""
    found = []
    for asked in rows(run.manifest.get("draw")):
        over = str(asked.get("over") or "")
        if over not in ("place", "size"):
            continue
        for metric in asked.get("of") or ():
            lines = _lines(run, mapping(asked.get("lines")), str(metric))
            if lines:
                what = words.plain(role(str(metric)) if over == "place" else base(str(metric)))
                title = ": ".join(filter(None, (str(asked.get("title") or ""), what)))
                found.append(Panel(title, _note(lines, over), (places if over == "place" else sizes)(lines, title)))
    return found


def places(lines: Sequence[Spread], name: str) -> Markup:
    """Scores over the largest of their seed against their place, logarithmic upwards."""
    shown = [(each.name, _by_place(each)) for each in lines]
    names, left, right, top = legend([n for n, _ in shown]), 48, WIDTH - 14, 0.0
    top = names[-1][2] + 22
    bottom = top + 200
    most = max(len(points) for _, points in shown)
    x = Axis(1, max(most, 2), left + 12, right - 12)
    y = log_axis([v for _, points in shown for p in points for v in p], bottom - 6, top + 6)
    parts: list[Markup] = []
    for tick in y.ticks(5):
        parts += [line(left, y(tick), right, y(tick), "grid"), text(left - 6, y(tick) + 4, words.tick(tick), "tick", "end")]
    parts += [text(x(k), bottom + 16, k, "tick", "middle") for k in range(1, most + 1)]
    for i, (each, at, down) in enumerate(names):
        parts += [*sample(i, at, down), text(at + 30, down + 4, each, "label")]
    for i, (each, points) in enumerate(shown):
        parts += _spectrum(i, each, points, x, y, 4.0 * (i - (len(shown) - 1) / 2))
    parts.append(text((left + right) / 2, bottom + 38, "place (scale: over the largest, logarithmic)", "axis-name", "middle"))
    said = "; ".join(f"{each}: {', '.join(words.number(mean) for mean, *_ in points)}" for each, points in shown)
    return svg(f"{name}, from the largest down. {said}", WIDTH, bottom + 50, *parts)


def sizes(lines: Sequence[Spread], name: str) -> Markup:
    """The share of scores in each of some equal bins, as steps."""
    names, left, right = legend([each.name for each in lines]), 48, WIDTH - 14
    top = names[-1][2] + 22
    bottom = top + 200
    every = [v for each in lines for seed in each.by_seed for v in seed]
    x = axis([0.0, *every], left, right)
    counted = [(each.name, shares(each, x.low, x.high)) for each in lines]
    y = axis([0.0, *(s for _, row in counted for s in row)], bottom, top + 6)
    parts: list[Markup] = []
    for tick in y.ticks(4):
        parts += [line(left, y(tick), right, y(tick), "grid"), text(left - 6, y(tick) + 4, words.share(tick), "tick", "end")]
    parts += [text(x(tick), bottom + 16, words.tick(tick), "tick", "middle") for tick in x.ticks(5)]
    edges = [x.low + (x.high - x.low) * k / BINS for k in range(BINS + 1)]
    for i, (each, row) in enumerate(counted):
        steps = [f"{x(edge):.1f},{y(row[k]):.1f}" for k in range(BINS) for edge in edges[k : k + 2]]
        parts.append(el("polyline", el("title", each), points=" ".join(steps), cls=f"series line-{i}"))
    for i, (each, at, down) in enumerate(names):
        parts += [sample(i, at, down)[0], text(at + 30, down + 4, each, "label")]
    parts += [line(left, bottom, right, bottom, "zero"), text((left + right) / 2, bottom + 38, name, "axis-name", "middle")]
    said = "; ".join(f"{each}: {_heaps(row, edges)}" for each, row in counted)
    return svg(f"{name}, how many lie where. {said}", WIDTH, bottom + 50, *parts)


def shares(each: Spread, low: float, high: float) -> tuple[float, ...]:
    """The share of scores in each bin, the mean over seeds.

    >>> [round(s, 2) for s in shares(Spread("a", ((1.0, 0.0), (0.0, 0.0))), 0.0, 1.0) if s]
    [0.75, 0.25]
    """
    found = [0.0] * BINS
    for seed in each.by_seed:
        for v in seed:
            found[min(int((v - low) / (high - low) * BINS), BINS - 1)] += 1 / len(seed) / len(each.by_seed)
    return tuple(found)


def _lines(run: RunData, groups: Mapping[str, object], metric: str) -> list[Spread]:
    found = []
    for name, stages in groups.items():
        asked = [str(s) for s in stages] if isinstance(stages, Sequence) else []
        seeds = [
            tuple(sorted(table.values(), reverse=True))
            for stage in run.stages
            if stage.name in asked
            and (table := scores(run.folder / "scores" / f"{stage.name}-seed{stage.seed}" / f"{metric}.jsonl"))
        ]
        if seeds:
            found.append(Spread(str(name), tuple(seeds)))
    return found


def _by_place(each: Spread) -> list[tuple[float, float, float]]:
    """(mean, lowest, highest) over seeds at each place."""
    over = [[max(v / (seed[0] or 1.0), FLOOR) for v in seed[:PLACES]] for seed in each.by_seed]
    return [(sum(at) / len(at), min(at), max(at)) for at in zip(*over, strict=False)]


def _spectrum(
    i: int, name: str, points: Sequence[tuple[float, float, float]], x: Axis, y: LogAxis, aside: float
) -> list[Markup]:
    spots = [(x(k) + aside, y(mean)) for k, (mean, *_) in enumerate(points, 1)]
    parts = [el("polyline", points=" ".join(f"{a:.1f},{b:.1f}" for a, b in spots), cls=f"series line-{i}")]
    for k, ((px, py), (mean, low, high)) in enumerate(zip(spots, points, strict=True), 1):
        if high > low:
            parts.insert(0, line(px, y(low), px, y(high), f"whisker line-{i}"))
        parts.append(mark(i, px, py, f"{name}, place {k}: {words.number(mean)}"))
    return parts


def _heaps(row: Sequence[float], edges: Sequence[float]) -> str:
    full = [f"{words.share(s)} from {edges[k]:.3g} to {edges[k + 1]:.3g}" for k, s in enumerate(row) if s >= 0.01]
    return ", ".join(full)


def _note(lines: Sequence[Spread], over: str) -> str:
    seeds, n = max(len(each.by_seed) for each in lines), max(len(s) for each in lines for s in each.by_seed)
    shown = f"the largest {min(PLACES, n)} of {n}" if over == "place" else f"{n} each"
    return shown + (f", mean of {seeds} seeds" if seeds > 1 else "")
