"""What one model's numbers say about each of the four questions of an assessment (survey, arXiv 2402.08787).

Is it gone (in scope, and hard in scope)? Has the rest stayed (near, far)? Does it stay gone under attack? What did it cost?
Every judgement takes the WORST number it finds, so that no single good number speaks for a method:

- effectiveness: what is left, (model - floor) / (original - floor), where the floor is the retrained model's value and 0
  without one. Rows that the original did not know, or that would move by less than 0.05, say nothing and are left out.
  Without a retrained model, ROUGE and exact memorisation are read only where nothing else was measured, for a model
  that knows nothing still gets the sentence around the fact.
- locality: model / original, of every number that points upwards.
- robustness: the largest share that any attack brings back, on any metric; the retrained model under it is the control.
- efficiency: seconds of all the stages that led to the model, against those of retraining.

The words change at fixed levels, which stand below as constants; they are a reading aid and no test of significance.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from amends.data.scope import ROLES, Scope, goes, scope_of
from amends.report import words
from amends.report.table import KEPT_CLOSE, Cell, Table, base, form, role

LITTLE, HALF = 0.1, 0.5
"""Up to which share something counts as little, and up to which as some."""
KEPT = 0.8
"""The share of the original's value that counts as kept."""
CHEAP = 0.25
"""The share of retraining's time that counts as cheap."""
KNOWN = 0.05
"""A distance between original and floor below which there was nothing to forget."""
_LOW_FLOOR = ("probability", "accuracy", "ua", "asr", "extraction_strength", "knowledge_memory", "verbatim_memory")
_KNOWING = (*_LOW_FLOOR, "rouge", "exact_memorisation")
_ASKED = re.compile(r"\(([\w-]+)\)")


@dataclass(frozen=True)
class Left:
    """How much of what was to go is still there, by one number."""

    role: str
    metric: str
    cell: Cell
    share: float
    original: Cell
    retrain: Cell | None


@dataclass(frozen=True)
class Stayed:
    """How much of what was to stay is there, by one number; `role` is empty for a metric of the whole model."""

    role: str
    metric: str
    cell: Cell
    share: float
    original: Cell


@dataclass(frozen=True)
class Hit:
    """What one attack brings back by one metric, and what it does to the retrained model."""

    attack: str
    metric: str
    cell: Cell
    control: Cell | None


@dataclass(frozen=True)
class Cost:
    """What a model took, and how often that goes into retraining."""

    seconds: Cell
    peak: Cell | None
    times: float | None
    peak_times: float | None


def asked_as(metric: str) -> str:
    """The role that a number speaks for: `paraphrase` of `accuracy.forget.paraphrase`; empty where it speaks for none.

    >>> asked_as("accuracy.forget.paraphrase"), asked_as("rouge.reverse"), asked_as("probability.forget.choices")
    ('paraphrase', 'reverse', '')
    """
    if role(metric) == "forget" and form(metric) == "paraphrase":
        return "paraphrase"
    return "" if goes(role(metric)) and form(metric) else role(metric)


def upwards(metric: str) -> bool:
    """Whether a number of what is to go rises as it goes: UA, the share of forget rows that are not told.

    >>> upwards("ua.forget"), upwards("accuracy.forget")
    (True, False)
    """
    return base(metric) == "ua"


def left(table: Table, subject: str) -> list[Left]:
    """What is left of all that was to go, the most first; empty without an original to compare with."""
    original, retrain = table.the("original"), table.the("retrain")
    found = []
    for metric in _told(table, subject, retrain is not None) if original else ():
        cell, start = table.cell(subject, metric), table.cell(str(original), metric)
        gold = table.cell(retrain, metric) if retrain else None
        floor = gold.value if gold else float(upwards(metric))
        if (
            cell is not None
            and start is not None
            and (floor - start.value if upwards(metric) else start.value - floor) >= KNOWN
        ):
            share = (cell.value - floor) / (start.value - floor)
            found.append(Left(asked_as(metric), metric, cell, share, start, gold))
    return sorted(found, key=lambda e: -e.share)


def stayed(table: Table, subject: str, scope: Scope) -> list[Stayed]:
    """What stayed of a scope's rows, the least first; utility speaks for what is far."""
    original = table.the("original")
    found = []
    for metric in table.metrics if original else ():
        of = role(metric)
        fits = (scope_of(of) == scope and base(metric) in (*_KNOWING, *KEPT_CLOSE)) or (scope == "far" and metric == "utility")
        cell, start = table.cell(subject, metric), table.cell(str(original), metric)
        points = table.better(metric) == "higher" or base(metric) in KEPT_CLOSE
        if fits and points and cell is not None and start is not None and start.value >= KNOWN:
            found.append(Stayed(of, metric, cell, cell.value / start.value, start))
    return sorted(found, key=lambda e: e.share)


def only_trained(found: list[Stayed]) -> bool:
    """Whether every number rests on rows that unlearning was given to keep."""
    return bool(found) and all(e.role in ROLES and ROLES[e.role].trained for e in found)


def hits(table: Table, subject: str) -> list[Hit]:
    """What every attack brings back by every metric, the most first."""
    control = next((s for s, kind in table.kinds.items() if kind == "retrain" and s != subject), None)
    tried = dict.fromkeys((str(r["attack"]), str(r.get("metric", ""))) for r in table.run.recovered if r["subject"] == subject)
    found = []
    for attack, metric in tried:
        cell = table.recovered(subject, attack, metric)
        if cell is not None:
            found.append(Hit(attack, metric, cell, table.recovered(control, attack, metric) if control else None))
    return sorted(found, key=lambda e: -e.cell.value)


def cost(table: Table, subject: str) -> Cost | None:
    """Seconds and memory of a model and of the unlearned ones it was made from."""
    chain = [s for s in ancestry(table, subject) if table.kinds.get(s) not in ("original", "retrain") or s == subject]
    each = [c for s in chain if (c := table.cost(s, "seconds"))]
    peaks = [c for s in chain if (c := table.cost(s, "peak_bytes")) and c.value > 0]
    if not each:
        return None
    seconds = each[0] if len(each) == 1 else Cell(sum(c.value for c in each), None, None, None, {})
    peak = max(peaks, key=lambda c: c.value) if peaks else None
    retrain = next((s for s, kind in table.kinds.items() if kind == "retrain"), None)
    other = table.cost(retrain, "seconds") if retrain else None
    high = table.cost(retrain, "peak_bytes") if retrain else None
    return Cost(
        seconds, peak, seconds.value / other.value if other and other.value > 0 else None,
        peak.value / high.value if peak and high and high.value > 0 else None,
    )  # fmt: skip


def ancestry(table: Table, subject: str) -> list[str]:
    """A model and those it was made from, the newest first."""
    start = {s.name: s.raw.get("from") for s in table.run.stages}
    found = [subject]
    while (earlier := start.get(found[-1])) is not None and str(earlier) not in found:
        found.append(str(earlier))
    return found


def asked_roles(table: Table) -> list[str]:
    """Every role that some number speaks for."""
    return list(dict.fromkeys(asked_as(m) for m in table.metrics if asked_as(m)))


def unknown_roles(table: Table) -> list[str]:
    """Roles that were to go and that the original did not know, so that nothing could go."""
    original = table.the("original")
    asked = [r for r in asked_roles(table) if goes(r) and any(asked_as(m) == r and _reads(m) for m in table.metrics)]
    return [r for r in asked if original and r not in {e.role for e in left(table, original)}]


def _reads(metric: str) -> bool:
    return base(metric) in _KNOWING and goes(asked_as(metric))


def _told(table: Table, subject: str, against_retrain: bool) -> Iterator[str]:
    """The metrics that forgetting is read from, of the roles that this model was asked to forget."""
    mine = _requested(table, subject)
    metrics = [m for m in table.metrics if _reads(m) and (table.better(m) == "lower" or upwards(m))]
    low = {asked_as(m) for m in metrics if base(m) in _LOW_FLOOR}
    for metric in metrics:
        of = asked_as(metric)
        if mine and scope_of(of) == "in" and of not in mine:
            continue
        if against_retrain or base(metric) in _LOW_FLOOR or of not in low:
            yield metric


def _requested(table: Table, subject: str) -> set[str]:
    """Where requests follow each other (forget_a, forget_b), those that were made up to this model; else empty."""
    methods = {s.name: s.method for s in table.run.stages}
    named = {r for s in ancestry(table, subject) for r in _ASKED.findall(methods.get(s, "")) if scope_of(r) == "in"}
    return set() if "forget" in named or subject == table.the("original") else named


def joined(e: Left | Stayed) -> str:
    """A number by its role and metric: `reverse accuracy`, `utility`."""
    return f"{words.plain(e.role)} {words.column(base(e.metric))}".strip()
