"""What a run shows, in sentences that are computed from its numbers: the verdict, the worst attack, the controls.

The verdict names the method that forgets most among those that keep at least 80 % of what they should keep. It says
what was measured and never that something is erased.
"""

from __future__ import annotations

from dataclasses import dataclass

from amends.data.scope import HARD
from amends.report import words
from amends.report.audits import audit
from amends.report.evidence import LITTLE, joined, left, upwards
from amends.report.load import RunData
from amends.report.refined import refining
from amends.report.table import Cell, Table, role

KEPT = 0.8
"""The share of the original's locality that a method must keep to be named in the verdict."""
_OWNERS = {
    "test": "the test rows",
    "test_retain": "the untouched test rows",
    "neighbour": "the neighbours",
    "retain_aside": "the retain rows set aside",
    "retain": "the retain set",
}
_SEVERAL = ("the test rows", "the untouched test rows", "the neighbours", "the retain rows set aside")
_JUDGED = ("met", "missed", "not tested")
_STATES = {
    "failed": "The run failed",
    "cancelled": "The run was cancelled",
    "running": "The run has not ended",
    "unknown": "The run left no manifest",
}


@dataclass(frozen=True)
class Verdict:
    """One sentence for the head of the page, and one for each other method."""

    sentence: str
    others: tuple[str, ...]
    trouble: str = ""
    """Why the run is not complete; empty for a run that is."""


@dataclass(frozen=True)
class Attacked:
    """What one attack does to one method."""

    method: str
    attack: str
    label: str
    """The attack in words."""
    metric: str
    before: Cell | None
    after: Cell | None
    recovered: Cell
    control: Cell | None
    """What the same attack brings back to the retrained model."""

    @property
    def sentence(self) -> str:
        """What it means."""
        name = self.label[:1].upper() + self.label[1:]
        back = self.recovered.value
        said = f"{name} brings back {words.share(back)} of what {self.method} forgot" if back > 0.02 else (
            f"{name} brings back nothing of what {self.method} forgot"
        )  # fmt: skip
        return f"{said} ({words.metric(self.metric)}). {self._against_control()}"

    def _against_control(self) -> str:
        if self.control is None:
            return "Without a retrained control it is not known how much of that is learning it anew."
        gained = f"the retrained model, which never saw the data, gains {words.share(self.control.value)}"
        if self.recovered.overlaps(self.control) is not False:
            return f"In the same attack {gained}: the two cannot be told apart here."
        if self.recovered.value > self.control.value:
            return f"In the same attack {gained}. The difference points to knowledge that was hidden rather than removed."
        return f"In the same attack {gained}: more than the method does."


def verdict(run: RunData, table: Table) -> Verdict:
    """The head of the page."""
    sentences = {m: method_sentence(table, m) for m in table.methods}
    trouble = _trouble(run)
    if not run.forgets:
        asked = refining(run, table)
        return Verdict(asked.sentence if asked else _audited(run) or _studied(run), (), trouble)
    if not sentences:
        return Verdict("No method left a number, so nothing can be said about forgetting.", (), trouble)
    best = _best(table)
    what = _OWNERS.get(role(table.keeping or ""), words.plain(table.keeping or ""))
    if best is None:
        first = max(sentences, key=lambda m: kept_share(table, m) or 0.0)
        rest = tuple(s for m, s in sentences.items() if m != first)
        lead = f"None of {len(sentences)} methods kept {words.share(KEPT)} of {what}; {first} kept most"
        several = len(sentences) > 1 and table.keeping
        return Verdict(lead + sentences[first].removeprefix(first) if several else sentences[first], rest, trouble)
    others = tuple(s for m, s in sentences.items() if m != best)
    if not others:
        return Verdict(sentences[best], (), trouble)
    if _measured(table):
        return Verdict(_closest(table, best) + sentences[best].removeprefix(best), others, trouble)
    lead = f"Of {len(sentences)} methods, {best} forgets most while keeping at least {words.share(KEPT)} of {what}"
    return Verdict(lead + sentences[best].removeprefix(best), others, trouble)


def method_sentence(table: Table, method: str) -> str:
    """`npo: forget probability 0.81 -> 0.04, the neighbours kept 94 % of their probability, relearning brings back 62 %.`"""
    parts = [
        _distance(table, method),
        _forgot(table, method),
        _hard(table, method),
        _kept(table, method),
        _came_back(table, method),
    ]
    said = ", ".join(p for p in parts if p)
    held = suppressed(table, method)
    also = f" {held}" if held else ""
    return f"{method}: {said}.{also}" if said else f"{method}: nothing that forgetting could be read from was measured.{also}"


def suppressed(table: Table, method: str) -> str:
    """That a method's weights are what they were and its output is held back; empty for one that changes weights."""
    why = table.suppression(method)
    return f"Its weights are unchanged and its output is suppressed: {why.rstrip('.')}." if why else ""


def kept_share(table: Table, method: str) -> float | None:
    """A method's locality as a share of the original's."""
    original = table.the("original")
    if table.keeping is None or original is None:
        return None
    start, now = table.cell(original, table.keeping), table.cell(method, table.keeping)
    return now.value / start.value if start is not None and now is not None and start.value > 0 else None


def worst_attacks(table: Table) -> list[Attacked]:
    """The strongest attack on each method, the worst hit method first."""
    found = []
    for method in table.methods:
        each = attacks_on(table, method)
        if each:
            found.append(max(each, key=lambda a: a.recovered.value))
    return sorted(found, key=lambda a: -a.recovered.value)


def attacks_on(table: Table, subject: str) -> list[Attacked]:
    """Every attack on a subject, on the metric that forgetting is read from, else on what was recorded."""
    keys = {(r["attack"], str(r.get("metric", ""))) for r in table.run.recovered if r["subject"] == subject}
    preferred = {k for k in keys if k[1] == table.target} or keys
    control = table.the("retrain") or next((s for s, kind in table.kinds.items() if kind == "retrain"), None)
    found = []
    for attack, metric in sorted(preferred):
        cell = table.recovered(subject, attack, metric)
        if cell is not None:
            against = table.recovered(control, attack, metric) if control and control != subject else None
            before, after = table.cell(subject, metric), table.cell(subject, metric, attack)
            found.append(Attacked(subject, attack, called(table, attack), metric, before, after, cell, against))
    return found


def called(table: Table, attack: str) -> str:
    """An attack in words: its own, or those of this report where the results hold none."""
    return table.labels.get(attack) or words.attack(attack)


def _trouble(run: RunData) -> str:
    if run.status == "ok":
        return ""
    state = _STATES.get(run.status, f"The run ended as {run.status!r}")
    error = run.manifest.get("error")
    return f"{state}{f': {error}' if error else ''}. Whatever it wrote before is shown below."


def _audited(run: RunData) -> str:
    """The head of a run that only looks for rows that should not have been there; empty for every other run."""
    found = audit(run)
    return "" if found is None else found.sentence


def _studied(run: RunData) -> str:
    """The head of a run that forgets nothing: how many of its claims hold, and which do not."""
    states = {word: [str(c.get("that", "?")) for c in run.claims if c.get("verdict") == word] for word in _JUDGED}
    tally = f"{len(states['met'])} of {len(run.claims)} claims hold"
    said = f"Nothing is forgotten here: this run studies how a model learns, and {tally}"
    open_ = [f"{word}: {words.listed(states[word])}" for word in ("missed", "not tested") if states[word]]
    return f"{said}; {'; '.join(open_)}." if open_ else f"{said}."


def _measured(table: Table) -> bool:
    """Whether the models' distance to the retrained one was measured, which then decides."""
    return table.the("retrain") is not None and any(table.cell(m, "disparity") for m in table.methods)


def _closest(table: Table, best: str) -> str:
    original = table.cell(str(table.the("original")), "disparity")
    now = table.cell(best, "disparity")
    tried = [m for m in table.methods if m not in table.idle]
    if original is not None and now is not None and now.value >= original.value:
        return f"None of {len(tried)} methods is closer to the retrained model than doing nothing; {best} is the closest"
    if original is not None and now is not None and now.overlaps(original):
        told = "can be told from doing nothing by its distance to the retrained model"
        return f"None of {len(tried)} methods {told}; nearest is {best}"
    return f"Of {len(tried)} methods, {best} is the closest to the retrained model"


def _distance(table: Table, method: str) -> str:
    now, original = table.cell(method, "disparity"), table.the("original")
    start = table.cell(original, "disparity") if original else None
    if now is None:
        return ""
    return f"disparity {words.with_interval(now)}" + (f" (doing nothing: {words.number(start.value)})" if start else "")


def _best(table: Table) -> str | None:
    if _measured(table):
        gaps = {m: c.value for m in table.methods if m not in table.idle and (c := table.cell(m, "disparity"))}
        return min(gaps, key=gaps.__getitem__) if gaps else None
    target = table.target
    if target is None:
        return None
    able = {m: c.value for m in table.methods if (c := table.cell(m, target)) and (kept_share(table, m) or 0) >= KEPT}
    sign = -1 if table.better(target) == "higher" else 1
    return min(able, key=lambda m: sign * able[m]) if able else None


def _forgot(table: Table, method: str) -> str:
    target, original, retrain = table.target, table.the("original"), table.the("retrain")
    now = table.cell(method, target) if target else None
    if target is None or now is None:
        return ""
    before = table.cell(original, target) if original else None
    way = f"{words.number(before.value)} \N{RIGHTWARDS ARROW} {words.number(now.value)}" if before else words.number(now.value)
    gold = table.cell(retrain, target) if retrain else None
    return f"{words.metric(target)} {way}{f' (retrained model: {words.number(gold.value)})' if gold else ''}"


def _hard(table: Table, method: str) -> str:
    """The hard question that most is left of; empty where little is left of any."""
    worst = next((e for e in left(table, method) if e.role in HARD and e.share > LITTLE), None)
    if worst is None:
        return ""
    if upwards(worst.metric):
        gold = words.number(worst.retrain.value) if worst.retrain else "1"
        return f"but {joined(worst)} is only {words.number(worst.cell.value)} of {gold}"
    return f"but {joined(worst)} is still {words.number(worst.cell.value)} of {words.number(worst.original.value)}"


def _kept(table: Table, method: str) -> str:
    kept = kept_share(table, method)
    if kept is None or table.keeping is None:
        return ""
    owner = _OWNERS.get(role(table.keeping))
    what = words.column(table.keeping)
    return f"{owner} kept {words.share(kept)} of their {what}" if owner in _SEVERAL else (
        f"{owner or words.plain(table.keeping)} kept {words.share(kept)} of its {what if owner else 'value'}"
    )  # fmt: skip


def _came_back(table: Table, method: str) -> str:
    each = attacks_on(table, method)
    if not each:
        return "too little was forgotten for an attack to bring back" if table.attacks else "no attack was tried"
    worst = max(each, key=lambda a: a.recovered.value)
    return f"{worst.label} brings back {words.share(max(worst.recovered.value, 0.0))}"
