"""Methods of a bench in order: what each forgot, kept and cost over seeds, its worst attack, and what is missing.

The order is by one rule that the page states. Nothing is left out: a method without a number stands at the end, with
the reason; a seed that is missing is named. Two methods whose intervals overlap are not told apart by the order alone.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from amends.report import side_by_side, words
from amends.report.load import Row, from_value, mapping, rows
from amends.report.pareto import front
from amends.report.table import Cell, Table
from amends.report.text import aligned
from amends.report.verdict import Attacked, attacks_on

_ASCII = {
    words.NONE: "-", "\N{NO-BREAK SPACE}": " ", "\N{PLUS-MINUS SIGN}": "+-", "\N{SQUARE ROOT}": "sqrt ",
    "\N{HORIZONTAL ELLIPSIS}": "...",
}  # fmt: skip
_WIDTH = 100
BASELINE = "graddiff"
"""The method that the first one's robustness is compared with: the plainest that keeps anything."""


@dataclass(frozen=True)
class Standing:
    """One method's line."""

    place: int | None
    """From 1; None without the two numbers that the order is by."""
    name: str
    raw: Row
    """The method as the bench recorded it: summary, paper, stage, settings, what is missing."""
    forgetting: Cell | None
    keeping: Cell | None
    kept: float | None
    """What it keeps, as a share of the original's."""
    able: bool
    """Whether that is enough to come first."""
    front: bool
    """Whether no other method is at least as good in both, and better in one."""
    worst: Attacked | None
    seconds: Cell | None
    peak: Cell | None
    steps: tuple[int, ...]

    @property
    def missing(self) -> list[tuple[str, str]]:
        """(seeds, why) of what is not there."""
        found: dict[str, list[str]] = {}
        for cell in rows(self.raw.get("missing")):
            found.setdefault(str(cell.get("why") or "no reason is known"), []).append(str(cell.get("seed", "?")))
        return [(", ".join(seeds), why) for why, seeds in found.items()]


class Board:
    """A bench's numbers, put in order."""

    def __init__(self, values: Row) -> None:
        self.values = values
        self.run = from_value(values)
        self.table = Table(self.run)
        rank = mapping(values.get("rank"))
        self.forgetting, self.keeping = str(rank.get("forgetting", "")), str(rank.get("keeping", ""))
        self.at_least = float(rank.get("at_least", 0.8))

    @cached_property
    def standings(self) -> tuple[Standing, ...]:
        """The methods in order."""
        lines = [self._standing(raw) for raw in rows(self.values.get("methods"))]
        front = self._front(lines)
        ordered = sorted(lines, key=self._order)
        placed = {line.name: i for i, line in enumerate(ordered, 1) if _both(line)}
        return tuple(replace(line, place=placed.get(line.name), front=line.name in front) for line in ordered)

    @cached_property
    def references(self) -> tuple[str, ...]:
        """The original and the retrained model."""
        return tuple(s for s in self.table.subjects if self.table.kinds[s] in ("original", "retrain"))

    @cached_property
    def metrics(self) -> tuple[str, ...]:
        """The measurements of the table: the two that the order is by, then the bench's headline."""
        first = (self.forgetting, self.keeping)
        return tuple(m for m in dict.fromkeys((*first, *self.table.headline)) if m in self.table.metrics)

    @property
    def rule(self) -> str:
        """How the order comes about."""
        way = words.DIRECTIONS.get(self.table.better(self.forgetting), "")
        keep, gone = words.metric(self.keeping), words.metric(self.forgetting)
        return (
            f"Methods that keep at least {words.share(self.at_least)} of the original's {keep} come first, by {gone} ({way}); "
            f"the others follow, by the share of {keep} that they keep. Methods without these numbers stand at the end."
        )

    @property
    def intervals(self) -> str:
        """What stands behind a number's interval."""
        n = len(self.run.seeds)
        rows_only = "a 95 % interval over the rows that were asked"
        if n < 2:
            return f"One seed: each number has {rows_only}, and says nothing about another seed."
        return (
            f"Each number of a method is a mean over {n} seeds with a 95 % t-interval over seeds "
            f"(mean \N{PLUS-MINUS SIGN} t(0.975, {n - 1}) s / \N{SQUARE ROOT}{n}), cut at the metric's range: it covers what "
            f"the seed changes. A model that was made once, or is there with one seed, has {rows_only}."
        )

    @cached_property
    def tied(self) -> tuple[str, ...]:
        """Methods that keep enough and whose forgetting cannot be told apart from the first one's: intervals overlap."""
        able = [s for s in self.standings if s.able and s.forgetting is not None]
        if not able:
            return ()
        first = able[0].forgetting
        return tuple(
            s.name for s in able[1:] if first is not None and s.forgetting and first.overlaps(s.forgetting) is not False
        )

    @property
    def verdict(self) -> str:
        """The head of the page."""
        able = [s for s in self.standings if s.able and s.place]
        placed = [s for s in self.standings if s.place]
        if not placed:
            return "No method left the two numbers that the order is by."
        gone, keep = words.metric(self.forgetting), words.metric(self.keeping)
        if not able:
            best = placed[0]
            if best.kept is None:
                return (
                    f"The original's {keep} is 0 or was not measured: no share of it can be kept, and the order says nothing."
                )
            return (
                f"None of {words.several(len(placed), 'method')} kept {words.share(self.at_least)} of the original's {keep}; "
                f"{best.name} kept most ({words.share(best.kept)})."
            )
        first = able[0]
        said = (
            f"Of {words.several(len(placed), 'method')}, {len(able)} kept at least {words.share(self.at_least)} of the "
            f"original's {keep}; among them {first.name} comes first, {gone} {words.with_interval(first.forgetting)}."
        )
        if self.tied:
            few = words.listed(list(self.tied)) if len(self.tied) <= 4 else words.several(len(self.tied), "other")
            said += f" On these seeds its interval overlaps with that of {few}: the order among them is not settled."
        return said

    @property
    def robustness(self) -> tuple[str, ...]:
        """Whether each attack brings back less of what the first method forgot than of what the baseline did."""
        able = [s for s in self.standings if s.able and s.place]
        if not able or able[0].name == BASELINE:
            return ()
        first = able[0].name
        baseline = {(a.attack, a.metric): a.recovered for a in attacks_on(self.table, BASELINE)}
        said = []
        for hit in attacks_on(self.table, first):
            if (other := baseline.get((hit.attack, hit.metric))) is None:
                continue
            less = "less than" if hit.recovered.value < other.value else "no less than"
            told = ", which these seeds cannot tell apart" if hit.recovered.overlaps(other) is not False else ""
            back, back_there = words.with_interval(hit.recovered), words.with_interval(other)
            said.append(
                f"{hit.label[:1].upper()}{hit.label[1:]} brings back {back} of what {first} forgot, {less} of what "
                f"{BASELINE} forgot ({back_there}), read from {words.metric(hit.metric)}{told}."
            )
        return tuple(said)

    # ------------------------------------------------------------------ for machines and terminals

    def as_dict(self) -> dict[str, Any]:
        """Everything that was collected, and the order."""
        lines = [self._line(s) for s in self.standings]
        order = {"rule": self.rule, "intervals": self.intervals, "verdict": self.verdict, "tied_with_first": list(self.tied),
                 "robustness": list(self.robustness)}  # fmt: skip
        return {**self.values, **order, "leaderboard": lines}

    def as_text(self) -> str:
        """The table for a terminal, in ASCII but for names."""
        head = ["", "method", *self.metrics, "keeps", "worst attack", "seconds", "peak"]
        body = [["", s, *self._numbers(s), "", "", *self._cost(s)] for s in self.references]
        for s in self.standings:
            back = f"{words.share(s.worst.recovered.value)} {s.worst.label}" if s.worst else words.NONE
            place = f"{s.place}{'*' if s.front else ''}" if s.place else words.NONE
            body.append([place, s.name, *self._numbers(s.name), words.share(s.kept), back, *self._cost(s.name)])
        said = [_wrapped(self.verdict), "", aligned([head, *body]), "", _wrapped(self.rule), "* on the Pareto front"]
        if both := side_by_side.as_text(self):
            said += ["", both, ""]
        said.append(_wrapped(self.intervals))
        said += [_wrapped(line) for line in self.robustness]
        said += [f"claim {c.get('verdict')}: {c.get('that')} {c.get('needed')}" for c in self.run.claims]
        said += [f"missing: {name}, seed {seeds}: {why}" for name, seeds, why in self.missing]
        text = "\n".join(said)
        for sign, plain in _ASCII.items():
            text = text.replace(sign, plain)
        return text

    @property
    def missing(self) -> list[tuple[str, str, str]]:
        """(method, seeds, why) of every cell that is not there, and of every number that a finished cell lacks."""
        found = [(s.name, seeds, why) for s in self.standings for seeds, why in s.missing]
        for s in self.standings:
            gone = {str(cell.get("seed")) for cell in rows(s.raw.get("missing"))}
            for metric in self.metrics:
                cell = self.table.cell(s.name, metric)
                here = {str(seed) for seed in cell.by_seed} if cell else set()
                lost = [seed for seed in map(str, self.run.seeds) if seed not in here | gone]
                if lost:
                    found.append((s.name, ", ".join(lost), f"{words.metric(metric)} is not a number"))
        return found

    # ------------------------------------------------------------------ one method

    def _standing(self, raw: Row) -> Standing:
        name = str(raw.get("name", "?"))
        original = self._start(raw)
        start, now = (self.table.cell(s, self.keeping) if s else None for s in (original, name))
        kept = now.value / start.value if start is not None and now is not None and start.value > 0 else None
        each = attacks_on(self.table, name)
        return Standing(
            place=None, name=name, raw=raw, forgetting=self.table.cell(name, self.forgetting), keeping=now, kept=kept,
            able=kept is not None and kept >= self.at_least, front=False,
            worst=max(each, key=lambda a: a.recovered.value) if each else None, seconds=self.table.cost(name, "seconds"),
            peak=self.table.cost(name, "peak_bytes"),
            steps=tuple(sorted({s.steps for s in self.run.stages if s.name == name and s.steps is not None})),
        )  # fmt: skip

    def _start(self, raw: Row) -> str | None:
        """The original that a method starts from: of a sparse variant, the sparse one."""
        start = str(mapping(raw.get("stage")).get("from", ""))
        return start if self.table.kinds.get(start) == "original" else self.table.the("original")

    def _order(self, line: Standing) -> tuple[int, float, float, str]:
        if line.forgetting is None or line.keeping is None:
            return (2, 0.0, 0.0, line.name)
        if not line.able:
            return (1, -(line.kept or 0.0), 0.0, line.name)
        return (0, self._loss(line.forgetting), -line.keeping.value, line.name)

    def _loss(self, cell: Cell) -> float:
        """A number of forgetting, so that less is better."""
        return -cell.value if self.table.better(self.forgetting) == "higher" else cell.value

    def _front(self, lines: Sequence[Standing]) -> set[str]:
        both = [(s.name, s.forgetting, s.keeping) for s in lines if s.forgetting is not None and s.keeping is not None]
        return front((name, self._loss(gone), -kept.value) for name, gone, kept in both)

    def _line(self, s: Standing) -> dict[str, Any]:
        cells = {m: _plain(self.table.cell(s.name, m)) for m in self.table.metrics}
        worst = None
        if s.worst is not None:
            worst = {
                "attack": s.worst.attack, "label": s.worst.label, "metric": s.worst.metric,
                "recovered": _plain(s.worst.recovered), "control": _plain(s.worst.control),
            }  # fmt: skip
        return {
            "place": s.place, "method": s.name, "pareto_front": s.front, "keeps_enough": s.able, "kept_share": s.kept,
            "suppression": self.table.suppression(s.name),
            "metrics": cells, "worst_attack": worst,
            "cost": {"seconds": _plain(s.seconds), "peak_bytes": _plain(s.peak), "steps": list(s.steps)},
            "missing": [{"seeds": seeds, "why": why} for name, seeds, why in self.missing if name == s.name],
        }  # fmt: skip

    def _numbers(self, subject: str) -> list[str]:
        shown = []
        for metric in self.metrics:
            cell = self.table.cell(subject, metric)
            main = metric in (self.forgetting, self.keeping)
            shown.append(words.with_interval(cell) if main else words.number(cell.value if cell else None))
        return shown

    def _cost(self, subject: str) -> list[str]:
        seconds, peak = self.table.cost(subject, "seconds"), self.table.cost(subject, "peak_bytes")
        return [words.seconds(seconds.value if seconds else None), words.size(peak.value if peak else None)]


def _wrapped(text: str) -> str:
    return textwrap.fill(text, _WIDTH)


def _both(line: Standing) -> bool:
    return line.forgetting is not None and line.keeping is not None


def _plain(cell: Cell | None) -> Mapping[str, Any] | None:
    if cell is None:
        return None
    by_seed = {str(seed): value for seed, value in cell.by_seed.items()}
    return {"mean": cell.value, "low": cell.low, "high": cell.high, "n": cell.n, "by_seed": by_seed}
