"""How close to the retrained model for how much time: the Pareto figure of classifiers, in a run's page and in a bench's.

Both are better when they are lower. Time is the stage's own wall time, on a logarithmic axis. A model that nothing was done to
took no time, for which such an axis has no place: its distance is a line across the picture, which a method has to get below.
Where several originals were made (a dense one and a sparse one), each has its line. Retraining stands at its own price.
"""

from __future__ import annotations

from collections.abc import Mapping

from amends.report import words
from amends.report.panels import Panel
from amends.report.pareto import TWIN, Level, Point, front, plot
from amends.report.table import Cell, Table

GAP = "disparity"


def price(table: Table, places: Mapping[str, int | None] | None = None) -> Panel | None:
    """The figure, where at least two models have both numbers; `places` are the methods' in a leaderboard."""
    known = {s: pair for s in table.subjects if (pair := _both(table, s)) is not None}
    methods = [s for s in known if s in table.methods and s not in table.idle]
    on = front((s, known[s][0].value, known[s][1].value) for s in methods)
    points = [
        Point(s, table.kinds[s], (places or {}).get(s), s in on, *pair)
        for s, pair in known.items()
        if s in methods or table.kinds[s] == "retrain"
    ]
    if len(points) < 2 or not methods:
        return None
    x_name, y_name = "seconds (logarithmic)", f"{GAP} ({words.DIRECTIONS['lower']})"
    return Panel(
        "Distance against time", _note(table, methods), plot(points, x_name, y_name, "lower", log=True, levels=idle(table))
    )


def on_front(table: Table) -> list[str]:
    """The methods that no other one beats in both numbers, the quickest first."""
    pairs = {s: pair for s in table.methods if s not in table.idle and (pair := _both(table, s)) is not None}
    on = front((s, seconds.value, gap.value) for s, (seconds, gap) in pairs.items())
    return sorted(on, key=lambda s: pairs[s][0].value)


def idle(table: Table) -> list[Level]:
    """What doing nothing leaves: the distance of each original, or of a stage that did nothing, once a value."""
    starts = [s for s in table.subjects if table.kinds[s] == "original" or s in table.idle]
    found: dict[float, str] = {}
    for s in starts:
        gap = table.cell(s, GAP)
        if gap is not None:
            found.setdefault(round(gap.value, 3), s)
    if len(found) == 1:
        return [("doing nothing", next(iter(found)))]
    return [(f"doing nothing to {name}", height) for height, name in found.items()]


def _both(table: Table, subject: str) -> tuple[Cell, Cell] | None:
    seconds, gap = table.cost(subject, "seconds"), table.cell(subject, GAP)
    return (seconds, gap) if seconds is not None and gap is not None and seconds.value > 0 else None


def _note(table: Table, methods: list[str]) -> str:
    said = "Lower left is better. The stairs are the front: methods that no other one beats in both."
    if table.the("retrain") is not None:
        said += " Retraining is at its own price."
    if idle(table):
        said += " Below a dashed line is closer than doing nothing."
    if any(m.endswith(TWIN) and m.removesuffix(TWIN) in methods for m in methods):
        said += " A square is the same method on the sparse model."
    return said
