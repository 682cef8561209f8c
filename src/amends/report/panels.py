"""Which figures a run gets, from what it measured."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from amends.report import figures, words
from amends.report.load import Row, RunData, number
from amends.report.table import Cell, Table, role
from amends.report.verdict import attacks_on

_TERM = re.compile(r"\d+\.")


@dataclass(frozen=True)
class Panel:
    """A figure, its heading and what to see in it."""

    title: str
    note: str
    picture: Markup


@dataclass(frozen=True)
class Curves:
    """The training curves of one stage."""

    stage: str
    note: str
    folded: bool
    panels: tuple[Panel, ...]


def tradeoff(table: Table) -> Panel | None:
    """Forgetting against keeping, if both were measured."""
    if table.target is None or table.keeping is None:
        return None
    points = []
    for subject in table.subjects:
        x, y = table.cell(subject, table.target), table.cell(subject, table.keeping)
        if x is not None and y is not None:
            points.append((subject, table.kinds[subject], x, y))
    if not points:
        return None
    names = [f"{words.metric(m)} ({words.DIRECTIONS.get(table.better(m), '')})" for m in (table.target, table.keeping)]
    note = "The retrained model is the place to be; a method that moves left without sinking forgets without collapse."
    if table.better(table.target) == "closer":
        note = "The retrained model is the place to be: more of either is not better."
    elif table.the("retrain") is None:
        note = "A method that moves left without sinking forgets without collapse."
    return Panel("Forgetting against keeping", note, figures.scatter(points, *names))


def by_role(table: Table) -> list[tuple[str, list[Panel]]]:
    """A forest of subjects for each headline metric, grouped by role."""
    found: dict[str, list[Panel]] = {}
    for metric in table.headline:
        entries = [(s, table.kinds[s], c) for s in table.subjects if (c := table.cell(s, metric))]
        better = words.DIRECTIONS.get(table.better(metric), "")
        panel = Panel(words.metric(metric), better, figures.forest(entries, words.metric(metric)))
        found.setdefault(words.plain(role(metric)) or "whole model", []).append(panel)
    return list(found.items())


def recovery(table: Table) -> list[Panel]:
    """What each attack brings back, a bar a subject, the retrained control among them."""
    by_attack: dict[str, list[tuple[str, str, Cell]]] = {}
    metrics: dict[str, set[str]] = {}
    names: dict[str, str] = {}
    for subject, kind in table.kinds.items():
        for hit in attacks_on(table, subject):
            label = f"{subject} (control)" if kind == "retrain" else subject
            by_attack.setdefault(hit.attack, []).append((label, kind, hit.recovered))
            names[hit.attack] = hit.label
            metrics.setdefault(hit.attack, set()).add(words.metric(hit.metric))
    note = "Share of what was forgotten that comes back: 0 % is still gone, 100 % is as before unlearning."
    return [
        Panel(
            f"{names[attack]}: {words.listed(sorted(metrics[attack]))} brought back",
            note,
            figures.bars(entries, f"brought back by {names[attack]}"),
        )
        for attack, entries in by_attack.items()
    ]


def training(run: RunData) -> list[Curves]:
    """Loss and each of its terms for every stage that logged steps; the unlearning stages first and open."""
    kinds = {s.name: s.kind for s in run.stages}
    stages = dict.fromkeys(str(row.get("stage", "?")) for row in run.steps)
    ordered = sorted(stages, key=lambda s: kinds.get(s, "unlearned") in ("original", "retrain"))
    found = []
    for i, stage in enumerate(ordered):
        logged = [row for row in run.steps if str(row.get("stage", "?")) == stage]
        keys = dict.fromkeys(k for row in logged for k in row if k == "loss" or _TERM.match(str(k)))
        panels = [p for k in sorted(keys, key=lambda k: (k != "loss", k)) if (p := _curve(logged, k))]
        if panels:
            seeds = len({row.get("seed") for row in logged})
            note = f"{len(logged)} logged steps, {words.several(seeds, 'seed')}"
            found.append(Curves(stage, note, kinds.get(stage) in ("original", "retrain") or i >= 4, tuple(panels)))
    return found


def _curve(logged: Sequence[Row], key: str) -> Panel | None:
    by_seed: dict[int, dict[float, float]] = {}
    for row in logged:
        step, value = number(row.get("step")), number(row.get(key))
        if step is not None and value is not None:  # a resumed run logs some steps again: the last line counts
            by_seed.setdefault(int(number(row.get("seed")) or 0), {})[step] = value
    if not by_seed:
        return None
    place, _, rest = key.partition(".")
    title = "loss" if key == "loss" else f"term {place}: {rest.replace('.', ' on ')}"
    return Panel(title, "", figures.curve({s: sorted(p.items()) for s, p in by_seed.items()}, title))
