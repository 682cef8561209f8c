"""A run whose arms answer requests: which of them meet most, whether refining beat as many new samples, and how loops ended."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from amends.core.paired import mcnemar
from amends.report import words
from amends.report.load import RunData
from amends.report.table import Table

BASE = "all_pass"
ENOUGH = 0.05
"""A p-value above this tells nothing."""


@dataclass(frozen=True)
class Pair:
    """Two arms on the same requests; the second was given the first one's calls, or is the recipe's reference."""

    arm: str
    other: str
    equal: bool
    """Whether the two cost as many calls."""
    value: float
    """The mean over requests of each one's mean difference over the seeds."""
    won: int
    """Requests whose mean difference is above 0."""
    lost: int
    p: float
    """Of the exact sign test over requests; with one seed, McNemar's."""

    @property
    def sentence(self) -> str:
        """What the comparison says."""
        cost = "with as many calls" if self.equal else "at its own cost"
        if self.p > ENOUGH:
            verdict = f"{self.arm} cannot be told from {self.other} {cost}"
        else:
            verdict = f"{self.arm} is {'better' if self.value > 0 else 'worse'} than {self.other} {cost}"
        points = f"{100 * self.value:+.1f} points".replace("-", "\N{MINUS SIGN}")
        return f"{verdict}: {points}, {self.won} requests gained and {self.lost} lost, exact p = {self.p:.2g}."


@dataclass(frozen=True)
class Refining:
    """What the page says of such a run."""

    sentence: str
    pairs: tuple[Pair, ...]
    ends: tuple[tuple[str, tuple[tuple[str, int], ...]], ...]
    """For each arm, why its requests ended, the most frequent reason first."""
    judge: str = ""
    """How far the judge can be believed that was asked about what no code decides; empty where none was."""


def refining(run: RunData, table: Table) -> Refining | None:
    """None for a run without such arms."""
    names = [m for m in table.metrics if m.partition(".")[0] == BASE and not m.endswith(".loose")]
    if not names:
        return None
    arms = [s for s in table.subjects if table.cell(s, names[0])]
    scores = {arm: _scores(run, arm, names[0]) for arm in arms}
    pairs = tuple(p for p in (_pair(scores, *pair) for pair in _wanted(run, arms)) if p is not None)
    ends = tuple((arm, _ends(run, arm)) for arm in arms)
    return Refining(_sentence(table, names[0], arms, pairs), pairs, ends, _judge(table, arms))


def _sentence(table: Table, metric: str, arms: list[str], pairs: tuple[Pair, ...]) -> str:
    found = {arm: cell for arm in arms if (cell := table.cell(arm, metric)) is not None}
    best, first = max(found, key=lambda arm: found[arm].value), arms[0]
    said = f"Of {len(arms)} arms, {best} has the largest share of requests with every constraint met: "
    said += words.with_interval(found[best])
    said += f" ({first}: {words.number(found[first].value)})." if best != first else "."
    equal = [p for p in pairs if p.equal]
    return " ".join([said, *(p.sentence for p in equal)])


def _wanted(run: RunData, arms: list[str]) -> list[tuple[str, str, bool]]:
    """Which arms to compare: each matched one with the arm whose calls it was given, and every arm with the first."""
    raw = {s.name: s.raw for s in run.stages}
    matched = [(str(raw[arm]["from"]), arm, True) for arm in arms if raw.get(arm, {}).get("from") in arms]
    return [*matched, *((arm, arms[0], False) for arm in arms[1:])]


def _pair(scores: Mapping[str, Mapping[tuple[int, str], float]], arm: str, other: str, equal: bool) -> Pair | None:
    """Requests are what is independent, seeds of one are not: a request's gap is its mean over the seeds that both arms have.

    The test is the exact sign test of these gaps, which with one seed is McNemar's.
    """
    own, theirs = scores[arm], scores[other]
    gaps: dict[str, list[float]] = {}
    for seed, row in sorted(own.keys() & theirs.keys()):
        gaps.setdefault(row, []).append(own[seed, row] - theirs[seed, row])
    if not gaps:
        return None
    means = [sum(several) / len(several) for several in gaps.values()]
    won, lost = sum(g > 0 for g in means), sum(g < 0 for g in means)
    return Pair(arm, other, equal, sum(means) / len(means), won, lost, mcnemar(won, lost))


def _scores(run: RunData, arm: str, metric: str) -> dict[tuple[int, str], float]:
    """Each request's 0 or 1, under every seed."""
    found = {}
    for seed in run.seeds:
        for row in _rows(run.folder / "scores" / f"{arm}-seed{seed}" / f"{metric}.jsonl"):
            found[seed, str(row.get("id"))] = float(row.get("score") or 0)
    return found


def _ends(run: RunData, arm: str) -> tuple[tuple[str, int], ...]:
    counted: Counter[str] = Counter()
    for folder in sorted(run.folder.glob("stages/*/")):
        if re.fullmatch(rf"\d+-{re.escape(arm)}(-seed\d+)?", folder.name):
            counted.update(str(row.get("stopped")).replace("_", " ") for row in _rows(folder / "model" / "records.jsonl"))
    return tuple(counted.most_common())


def _judge(table: Table, arms: list[str]) -> str:
    """The judge against code on every arm's answers: the range of its rates, and where it is no better than a coin."""
    roles = [m.partition(".")[2] for m in table.metrics if m.partition(".")[0] in ("judge_tpr", "judge_tnr")]
    if not roles:
        return ""
    pairs = [(table.cell(arm, f"judge_tpr.{roles[0]}"), table.cell(arm, f"judge_tnr.{roles[0]}")) for arm in arms]
    known = [(tpr.value, tnr.value) for tpr, tnr in pairs if tpr is not None and tnr is not None]
    if not known:
        return "The judge could not be held against code: that takes constraints of both kinds, met ones and violated ones."
    tpr, tnr = (_range([pair[i] for pair in known]) for i in (0, 1))
    poor = sum(sum(pair) <= 1 for pair in known)
    said = f"Where code decides, the judge calls {tpr} of the violated constraints violated and {tnr} of the met ones met"
    if not poor:
        return f"{said}; the two shares of a coin add up to 100\N{NO-BREAK SPACE}%."
    where = "" if len(known) == 1 else f" on {'each' if poor == len(known) else poor} of {len(known)} arms"
    return f"{said}; that is no better than a coin{where}: do not believe what it says of the other constraints."


def _range(values: list[float]) -> str:
    low, high = words.share(min(values)), words.share(max(values))
    return low if low == high else f"{low} to {high}"


def _rows(path: Path) -> list[dict[str, Any]]:
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
        return [row for line in lines if line.strip() and isinstance(row := json.loads(line), dict)]
    except (OSError, ValueError):
        return []
