"""Numbers over seeds, and which of them stand in the headline. The page, the terminal and `compare` all read this table.

One seed: the value and the interval of that run, which covers the rows that were sampled. Two or more: the mean, a
95 % t-interval over the seeds (mean +- t(0.975, k-1) s / sqrt(k)), which covers training, and every seed's own value.
Intervals are cut at the range of a metric that cannot leave it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from amends.data.scope import roles_in
from amends.report.load import Row, RunData, number

_ROLES = (*roles_in("in", "hard"), "", "holdout", *roles_in("near", "far"))
"""The order of a reader: is it gone, got at in other ways too, in general; then what should have stayed."""
_BASES = (
    "disparity",
    "ua",
    "asr",
    "ra",
    "ta",
    "probability",
    "accuracy",
    "rouge",
    "utility",
    "forget_quality",
    "forget_distance",
)
_IN_UNIT_RANGE = frozenset({
    *_BASES, "truth_ratio", "mia", "exact_memorisation", "extraction_strength", "repetition", "verbatim_memory",
    "knowledge_memory", "harness", "mia_efficacy", "mia_privacy", "auroc", "auroc_within", "tpr", "fpr", "flagged",
    "robust_accuracy", "worst_class", "all_pass", "constraint_rate", "degenerate", "judged", "judge_balanced", "judge_tpr",
    "judge_tnr",
})  # fmt: skip
_KINDS = ("original", "retrain", "unlearned")
KEPT_CLOSE = ("ra", "ta")
"""Accuracies that point to the retrained model's, and of which losing is damage all the same."""
MEMBERSHIP = ("mia", "mia_efficacy", "mia_privacy")
"""Metrics whose second part is how the attack works, not a role."""
HEADLINE = 7
"""How many metrics the headline table has at most."""


@dataclass(frozen=True)
class Cell:
    """One number of one subject, over all seeds."""

    value: float
    low: float | None
    high: float | None
    n: int | None
    """Rows behind the number, the fewest of any seed."""
    by_seed: Mapping[int, float]
    better: str = "lower"
    unit: str = ""
    version: int | None = None
    note: str = ""

    @property
    def seeds(self) -> int:
        """How many seeds the mean is over."""
        return len(self.by_seed)

    @property
    def spread(self) -> tuple[float, float]:
        """The smallest and the largest seed."""
        return min(self.by_seed.values()), max(self.by_seed.values())

    def overlaps(self, other: Cell) -> bool | None:
        """Whether the two 95 % intervals share a point; None when one has no interval."""
        if self.low is None or self.high is None or other.low is None or other.high is None:
            return None
        return self.low <= other.high and other.low <= self.high


def t_interval(values: Sequence[float]) -> tuple[float, float]:
    """The 95 % interval of a mean of two or more values, by Student's t.

    >>> low, high = t_interval([1.0, 3.0])
    >>> round(low, 2), round(high, 2)
    (-10.71, 14.71)
    """
    from scipy.special import stdtrit

    k = len(values)
    mean = math.fsum(values) / k
    deviation = math.sqrt(math.fsum((v - mean) ** 2 for v in values) / (k - 1))
    half = float(stdtrit(k - 1, 0.975)) * deviation / math.sqrt(k)
    return mean - half, mean + half


def aggregate(found: Iterable[Row], metric: str) -> Cell | None:
    """The cell of rows that differ in their seed alone; rows without a finite value are left out."""
    by_seed = {row["seed"]: row for row in found if number(row.get("value")) is not None}
    if not by_seed:
        return None
    values = [float(row["value"]) for row in by_seed.values()]
    first = next(iter(by_seed.values()))
    low, high = (number(first.get("low")), number(first.get("high"))) if len(values) == 1 else t_interval(values)
    if base(metric) in _IN_UNIT_RANGE and len(values) > 1 and all(0 <= v <= 1 for v in values):
        low, high = max(low, 0.0), min(high, 1.0)  # type: ignore[type-var]
    counts = [n for row in by_seed.values() if (n := number(row.get("n"))) is not None]
    version = number(first.get("version"))
    return Cell(
        value=math.fsum(values) / len(values), low=low, high=high, n=int(min(counts)) if counts else None,
        by_seed=dict(zip(by_seed, values, strict=True)), better=str(first.get("better") or "lower"),
        unit=str(first.get("unit") or ""), version=None if version is None else int(version), note=str(first.get("note") or ""),
    )  # fmt: skip


def base(metric: str) -> str:
    """`probability` of `probability.forget`."""
    return metric.partition(".")[0]


def role(metric: str) -> str:
    """`forget` of `probability.forget`; empty for a metric of the whole model, and for membership inference.

    >>> role("accuracy.forget.paraphrase"), role("utility"), role("mia.min_k")
    ('forget', '', '')
    """
    parts = metric.split(".")
    return "" if base(metric) in MEMBERSHIP or len(parts) < 2 else parts[1]


def form(metric: str) -> str:
    """How it was asked or scored: `paraphrase` of `accuracy.forget.paraphrase`, `min_k` of `mia.min_k`; mostly empty."""
    return ".".join(metric.split(".")[1 if base(metric) in MEMBERSHIP else 2 :])


class Table:
    """Every number of a run by subject, metric and attack."""

    def __init__(self, run: RunData) -> None:
        self.run = run
        self._rows: dict[tuple[str, str, str | None], list[Row]] = {}
        for row in run.measurements:
            self._rows.setdefault((row["subject"], str(row["name"]), row["attack"]), []).append(row)

    def cell(self, subject: str, metric: str, attack: str | None = None) -> Cell | None:
        """One number, or None if it was not measured."""
        return aggregate(self._rows.get((subject, metric, attack), ()), metric)

    def recovered(self, subject: str, attack: str, metric: str) -> Cell | None:
        """The share of what was forgotten that an attack brings back."""
        key = (subject, attack, metric)
        found = [r for r in self.run.recovered if (r["subject"], r["attack"], str(r.get("metric", ""))) == key]
        return aggregate([{"better": "lower", **row} for row in found], "recovered")

    @cached_property
    def kinds(self) -> dict[str, str]:
        """Subject -> original, retrain or unlearned, in the order they are shown."""
        found = {s.name: s.kind for s in self.run.stages}
        for row in self.run.measurements:
            name = row["subject"]
            found.setdefault(name, name if name in ("original", "retrain") else "unlearned")
        return dict(sorted(found.items(), key=lambda item: _KINDS.index(item[1]) if item[1] in _KINDS else len(_KINDS)))

    @cached_property
    def subjects(self) -> tuple[str, ...]:
        """Original, retrained, then each method in the order of the recipe; only those with a number."""
        measured = {row["subject"] for row in self.run.measurements}
        return tuple(name for name in self.kinds if name in measured)

    @cached_property
    def methods(self) -> tuple[str, ...]:
        """The unlearned subjects."""
        return tuple(s for s in self.subjects if self.kinds[s] not in ("original", "retrain"))

    @cached_property
    def idle(self) -> frozenset[str]:
        """The subjects that nothing was done to: the row to beat, and no method."""
        return frozenset(s.name for s in self.run.stages if s.raw.get("use") == "nothing")

    def the(self, kind: str) -> str | None:
        """The name of the original, or of the retrained model."""
        return next((s for s in self.subjects if self.kinds[s] == kind), None)

    @cached_property
    def metrics(self) -> tuple[str, ...]:
        """Every metric that was measured without an attack, in reading order."""
        names = dict.fromkeys(
            name for (_, name, attack), found in self._rows.items() if attack is None and aggregate(found, name)
        )
        return tuple(sorted(names, key=_reading_order))

    @cached_property
    def attacks(self) -> tuple[str, ...]:
        """The attacks that left a number."""
        tried = [row["attack"] for row in (*self.run.recovered, *self.run.measurements) if row["attack"]]
        return tuple(dict.fromkeys(tried))

    @cached_property
    def labels(self) -> dict[str, str]:
        """What attacks call themselves, by name; results of earlier versions do not say."""
        return {row["attack"]: str(row["label"]) for row in self.run.recovered if row["attack"] and row.get("label")}

    @cached_property
    def headline(self) -> tuple[str, ...]:
        """The recipe's own choice, else at most seven: each role its best-known metric, then each a second."""
        asked = self.run.manifest.get("headline")
        wanted = tuple(m for m in asked if m in self.metrics) if isinstance(asked, list) else ()
        if wanted:
            return wanted
        chosen: list[str] = []
        for most in (1, 2, len(self.metrics)):
            for metric in sorted(self.metrics, key=lambda m: (most == 2 and "paraphrase" not in form(m), _importance(m))):
                same = sum(_kind(m) == _kind(metric) for m in chosen)
                if metric not in chosen and same < most and len(chosen) < HEADLINE:
                    chosen.append(metric)
        return tuple(sorted(chosen, key=_reading_order))

    @cached_property
    def target(self) -> str | None:
        """The metric that forgetting is read from."""
        asked = [m for m in self.headline if role(m) == "forget"] if self.run.manifest.get("headline") else []
        return next(iter([*asked, *(m for m in sorted(self.metrics, key=_importance) if role(m) == "forget")]), None)

    @cached_property
    def keeping(self) -> str | None:
        """The metric that locality is read from: neighbours, then rows set aside, utility, rows tested on, the retain set."""
        pool = sorted((m for m in self.metrics if self._higher(m)), key=_importance)
        for wanted in ("neighbour", "retain_aside", "utility", "test_retain", "test", "retain"):
            found = [m for m in pool if role(m) == wanted or m == wanted]
            if found:
                return found[0]
        return None

    def better(self, metric: str) -> str:
        """Which way a metric points."""
        return next((c.better for s in self.subjects if (c := self.cell(s, metric))), "lower")

    def _higher(self, metric: str) -> bool:
        return self.better(metric) == "higher" or base(metric) in KEPT_CLOSE

    def suppression(self, subject: str) -> str:
        """What keeps a model's answers back while its weights are unchanged, in the run's own words; mostly empty."""
        said = (s.raw.get("suppression") for s in self.run.stages if s.name == subject)
        return next((text.strip() for text in said if isinstance(text, str) and text.strip()), "")

    def cost(self, subject: str, name: str) -> Cell | None:
        """`seconds` or `peak_bytes` of a subject's own stage, mean over seeds."""
        found = [{"seed": s.seed, "value": getattr(s, name)} for s in self.run.stages if s.name == subject]
        return aggregate(found, name)


def _place(order: Sequence[str], word: str) -> int:
    return order.index(word) if word in order else len(order)


def _reading_order(metric: str) -> tuple[int, str, int, str]:
    return _place(_ROLES, role(metric)), role(metric), _place(_BASES, base(metric)), metric


def _importance(metric: str) -> tuple[bool, int, int, str]:
    return (
        bool(form(metric)) and base(metric) not in MEMBERSHIP,
        _place(_BASES, base(metric)),
        _place(_ROLES, role(metric)),
        metric,
    )


def _kind(metric: str) -> str:
    """What takes a place in the headline: a role, or a metric of the whole model."""
    return role(metric) or base(metric)
