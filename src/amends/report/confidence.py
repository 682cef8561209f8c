"""How sure each model is of the forget rows' own class: one histogram a model, all with the same bins and the same scale.

What is drawn is the probability of the true label, which the measurement `probability` on the forget rows leaves for every
row, or else the readings of the stages. A model that never saw the rows is the shape to reach: bars further right say that
rows are still known, a heap further left says that they are pushed away from their class, which can be told from outside.
"""

from __future__ import annotations

import gzip
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from markupsafe import Markup

from amends.report import words
from amends.report.load import RunData, number, stage_of_folder
from amends.report.panels import Panel
from amends.report.svg import Axis, el, line, svg, text
from amends.report.table import Table

BINS = 10
FOLDED = 9
"""From so many models on the histograms are folded away."""
_ROLE = "forget"
Shares = tuple[float, ...]


def histograms(run: RunData, table: Table) -> list[Panel]:
    """One panel a model in the table's order, the retrained model's outline in each; none but for classifiers."""
    if run.kind != "labels":
        return []
    found = confidences(run)
    by_model = {name: [shares(rows) for rows in found[name].values()] for name in table.kinds if name in found}
    panels = []
    for name, seeds in by_model.items():
        other = _compared_with(run, table, name)
        outline = _mean(by_model[other]) if other in by_model and other != name else None
        rows = sum(len(r) for r in found[name].values())
        note = f"{words.several(rows, 'row')}" + (f" of {len(seeds)} seeds" if len(seeds) > 1 else "")
        panels.append(Panel(name, note, picture(name, table.kinds[name], seeds, outline)))
    return panels


def confidences(run: RunData) -> dict[str, dict[int, list[float]]]:
    """model -> seed -> the probability of the true label of each forget row."""
    found: dict[str, dict[int, list[float]]] = {}
    for stage in run.stages:
        folder = run.folder / "scores" / f"{stage.name}-seed{stage.seed}"
        scored = scores(folder / f"probability.{_ROLE}.jsonl")
        rows = list(scored.values()) or _read(run, stage.name, stage.seed, list(scores(folder / f"ua.{_ROLE}.jsonl")))
        if rows:
            found.setdefault(stage.name, {})[stage.seed] = rows
    return found


def shares(rows: Sequence[float]) -> Shares:
    """The share of rows in each of ten bins from 0 to 1; a probability of 1 is in the last one.

    >>> shares([0.0, 0.05, 0.1, 1.0])
    (0.5, 0.25, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.25)
    """
    counts = [0] * BINS
    for p in rows:
        counts[min(int(p * BINS), BINS - 1)] += 1
    return tuple(n / len(rows) for n in counts)


def picture(name: str, kind: str, seeds: Sequence[Shares], outline: Shares | None = None) -> Markup:
    """Bars of the mean over seeds, the lowest and the highest seed as a whisker, the retrained model's as an outline."""
    width, height, left, right, top, bottom = 260, 176, 40, 252, 10, 124
    x, y = Axis(0, BINS, left, right), Axis(0, 1, bottom, top)
    parts: list[Markup] = []
    for tick in (0.0, 0.5, 1.0):
        parts += [line(left, y(tick), right, y(tick), "grid"), text(left - 5, y(tick) + 4, words.share(tick), "tick", "end")]
        parts.append(text(x(tick * BINS), bottom + 16, words.tick(tick), "tick", "end" if tick == 1 else "middle"))
    mean, bar = _mean(seeds), "bar control" if kind == "retrain" else "bar start" if kind == "original" else "bar"
    for i, share in enumerate(mean):
        said = el("title", f"{_bin(i)}: {words.share(share)}")
        parts.append(el("rect", said, x=x(i) + 1, y=y(share), width=x(1) - x(0) - 2, height=bottom - y(share), cls=bar))
        low, high = min(s[i] for s in seeds), max(s[i] for s in seeds)
        if high > low:
            parts.append(line(x(i + 0.5), y(low), x(i + 0.5), y(high), "whisker"))
    if outline is not None:
        steps = [f"{x(at):.1f},{y(share):.1f}" for i, share in enumerate(outline) for at in (i, i + 1)]
        parts.append(el("polyline", points=" ".join(steps), cls="outline"))
    parts += [
        line(left, bottom, right, bottom, "zero"),
        text((left + right) / 2, bottom + 38, "probability of the true label", "axis-name", "middle"),
    ]
    told = ", ".join(f"{words.share(share)} {_bin(i)}" for i, share in enumerate(mean) if share > 0)
    beside = "" if outline is None else "; retrained model: " + ", ".join(
        f"{words.share(share)} {_bin(i)}" for i, share in enumerate(outline) if share > 0
    )  # fmt: skip
    return svg(f"{name}: forget rows by the probability of their true label: {told}{beside}", width, height, *parts)


def _bin(i: int) -> str:
    return f"from {i / BINS:.1f} to {(i + 1) / BINS:.1f}"


def _mean(seeds: Sequence[Shares]) -> Shares:
    return tuple(sum(s[i] for s in seeds) / len(seeds) for i in range(BINS))


def _compared_with(run: RunData, table: Table, name: str) -> str | None:
    """The model that a stage is compared with: its own, else the retrained one."""
    own = next((s.raw.get("against") for s in run.stages if s.name == name and s.raw.get("against")), None)
    return str(own) if own else next((s for s, kind in table.kinds.items() if kind == "retrain"), None)


def scores(path: Path) -> Mapping[str, float]:
    """id -> score of a file of scores, as far as lines can be read."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
        rows = [json.loads(each) for each in lines if each.strip()]
        return {str(r["id"]): float(r["score"]) for r in rows if number(r["score"]) is not None}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def _read(run: RunData, name: str, seed: int, ids: Sequence[str]) -> list[float]:
    """The same from the stage's reading, where nothing measured it."""
    first = run.seeds[0] if run.seeds else 0
    for path in run.folder.glob("stages/*/reading.json.gz") if ids else ():
        if stage_of_folder(path.parent.name, first) != (name, seed):
            continue
        try:
            tokens = json.loads(gzip.decompress(path.read_bytes()))["tokens"]
            return [math.exp(sum(tokens[i]["logp"]) / len(tokens[i]["logp"])) for i in ids]
        except (OSError, ValueError, KeyError, TypeError, ZeroDivisionError):
            return []
    return []
