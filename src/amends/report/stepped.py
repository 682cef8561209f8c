"""The figures of what stages logged that a recipe asks for (`draw`, `over: step`): a quantity over steps, a line a stage.

Lines are means over seeds at each step that all of them reached; the band around one reaches from the lowest seed to the
highest and is told in words, not drawn. The axis upwards leaves out nothing: it reaches from the smallest value to the largest.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from amends.report import words
from amends.report.drawn import legend, mark, sample
from amends.report.figures import thinned
from amends.report.load import RunData, mapping, number, rows
from amends.report.panels import Panel
from amends.report.svg import WIDTH, Axis, axis, el, line, svg, text


@dataclass(frozen=True)
class Course:
    """One line: its name, and (step, mean, lowest, highest) over seeds."""

    name: str
    points: tuple[tuple[float, float, float, float], ...]


def stepped(run: RunData) -> list[Panel]:
    """Every picture over steps that the recipe asked for and that has a logged number."""
    found = []
    for asked in rows(run.manifest.get("draw")):
        if asked.get("over") != "step":
            continue
        for key in asked.get("of") or ():
            lines = [c for name, stages in mapping(asked.get("lines")).items() if (c := course(run, name, stages, str(key)))]
            if lines:
                title = ": ".join(filter(None, (str(asked.get("title") or ""), f"{words.plain(str(key))} over steps")))
                found.append(Panel(title, "mean over seeds", picture(lines, words.plain(str(key)))))
    return found


def course(run: RunData, name: str, stages: object, key: str) -> Course | None:
    """What the first of the stages logged under a key; None where it logged nothing."""
    stage = str(stages[0]) if isinstance(stages, Sequence) and stages else ""
    by_step: dict[float, dict[object, float]] = {}
    for row in run.steps:
        if str(row.get("stage", "")).split(" (seed")[0] == stage and (value := number(row.get(key))) is not None:
            by_step.setdefault(number(row.get("step")) or 0.0, {})[row.get("seed")] = value
    most = max((len(seeds) for seeds in by_step.values()), default=0)
    whole = sorted((step, tuple(seeds.values())) for step, seeds in by_step.items() if len(seeds) == most)
    points = tuple((step, sum(v) / len(v), min(v), max(v)) for step, v in whole)
    return Course(name, points) if points else None


def picture(lines: Sequence[Course], name: str) -> Markup:
    """The lines with a legend, a mark at each end, and what they say in words."""
    names = legend([each.name for each in lines])
    top = names[-1][2] + 22
    left, right, bottom = 48, WIDTH - 14, top + 220
    steps = [p[0] for each in lines for p in each.points]
    x = Axis(min(steps), max(*steps, min(steps) + 1), left + 6, right - 10)
    y = axis([p[1] for each in lines for p in each.points], bottom - 8, top + 6)
    parts: list[Markup] = []
    for tick in y.ticks(5):
        parts += [line(left, y(tick), right, y(tick), "grid"), text(left - 6, y(tick) + 4, words.tick(tick), "tick", "end")]
    parts += [text(x(t), bottom + 16, words.tick(t), "tick", "middle") for t in x.ticks(5)]
    for i, (each, at, down) in enumerate(names):
        parts += [*sample(i, at, down), text(at + 30, down + 4, each, "label")]
    for i, each in enumerate(lines):
        spots = [(x(a), y(b)) for a, b in thinned([(p[0], p[1]) for p in each.points])]
        if len(spots) > 1:
            parts.append(el("polyline", points=" ".join(f"{a:.1f},{b:.1f}" for a, b in spots), cls=f"series line-{i}"))
        parts.append(mark(i, *spots[-1], _told(each)))
    parts.append(text((left + right) / 2, bottom + 38, "step", "axis-name", "middle"))
    middle = (top + bottom) / 2
    parts.append(
        el("text", name, x=12, y=middle, cls="axis-name", text_anchor="middle", transform=f"rotate(-90 12 {middle:g})")
    )
    return svg(f"{name} over steps. {'; '.join(map(_told, lines))}", WIDTH, bottom + 50, *parts)


def _told(each: Course) -> str:
    """`learned: 0.60 to 0.42 (0.40 to 0.45 by seed)`."""
    first, (_, last, low, high) = each.points[0][1], each.points[-1]
    spread = f" ({words.number(low)} to {words.number(high)} by seed)" if high > low else ""
    return f"{each.name}: {words.number(first)} to {words.number(last)}{spread}"
