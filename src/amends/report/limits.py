"""What a run did NOT test, from what is absent in it, and the controls that say whether its numbers can be believed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from amends.data.scope import HARD, HARD_QUESTIONS, ROLES, roles_in
from amends.report import words
from amends.report.audits import unflagged
from amends.report.evidence import upwards
from amends.report.load import RunData
from amends.report.table import Table, base, role

_KNOWN_ATTACKS = ("relearn", "quantise", "prefix", "few_shot", "paraphrase", "probe", "logit_lens")
_ON_WEIGHTS = ("relearn", "quantise")
"""Those of them that need no text."""
_FEW = 30
_MEMBERSHIP = ("mia", "membership", "min_k", "mink")


@dataclass(frozen=True)
class Control:
    """A check on the experiment itself."""

    name: str
    verdict: Literal["holds", "fails", "absent"]
    sentence: str


def not_tested(run: RunData, table: Table) -> list[str]:
    """Plain sentences, the most weighty first; the last one is always there."""
    if not run.forgets:
        return [*_sampling(run), *_claims(run), *run.gaps, _STUDY]
    asked = _questions(run, table) if run.kind == "text" else _labels(run, table)
    return [*_models(run, table), *asked, *_sampling(run), *_claims(run), *run.gaps, _ALWAYS.format(_OTHER[run.kind == "text"])]


_ALWAYS = (
    "This is empirical evidence about these rows, these metrics and these attacks. It is not a proof of erasure: {} or a "
    "stronger attacker may still find what is not seen here."
)
_STUDY = "These numbers hold for this data, this network and this training: other models were not looked at."
_OTHER = ("other rows of the same kind", "another wording, another language")


def _models(run: RunData, table: Table) -> list[str]:
    said = []
    if table.the("retrain") is None:
        said.append(
            "No model retrained without the forget set was measured, so forget quality - whether the result behaves like a "
            "model that never saw the data - is unknown, and the attacks have no control."
        )
    if table.the("original") is None:
        said.append("The original model was not measured, so no number here can be called a change.")
    if not any(base(m).startswith(_MEMBERSHIP) for m in table.metrics):
        why = (
            "" if "holdout" in run.roles or run.kind == "labels" else ": there is no holdout set of rows that no model has seen"
        )
        said.append(f"Membership inference - whether one can tell that a row was once trained on - was not tested{why}.")
    return said + _attacks(table)


def _attacks(table: Table) -> list[str]:
    if not table.attacks:
        return ["No attack was tried, so it is unknown whether what was forgotten can be brought back."]
    absent = [
        words.attack(a)
        for a in (_KNOWN_ATTACKS if table.run.kind == "text" else _ON_WEIGHTS)
        if a not in {x.partition("-")[0].replace("ize", "ise") for x in table.attacks}
    ]
    return [f"Known attacks that were not tried: {words.listed(absent)}."] if absent else []


def _questions(run: RunData, table: Table) -> list[str]:
    measured = {role(m) for m in table.metrics}
    said = []
    if "forget" not in measured:
        said.append("Nothing was measured on the forget set itself.")
    if not any("paraphrase" in m for m in table.metrics):
        said.append("The questions were asked in the wording of training only; paraphrases were not tried.")
    absent = [r for r in HARD_QUESTIONS if r != "paraphrase" and r not in measured]
    hard = [f"{words.plain(r)} ({ROLES[r].sentence})" for r in absent]
    if hard:
        said.append(f"Hard questions about the same facts that were not asked: {words.listed(hard)}.")
    if "neighbour" not in measured:
        said.append("Facts close to the forgotten ones (a neighbour set) were not asked, so locality near them is unknown.")
    if not measured & {*roles_in("far")} and not any(base(m) == "utility" for m in table.metrics):
        said.append("Nothing far from the forgotten facts (general questions) was asked, so damage to the rest is unknown.")
    if not measured & {"retain", "neighbour"} and not any(base(m) == "utility" for m in table.metrics):
        said.append("What the model should have kept was not measured at all.")
    if not run.answers:
        said.append("No answers were kept, so nobody can read what the models now say.")
    return said


def _labels(run: RunData, table: Table) -> list[str]:
    measured = {role(m) for m in table.metrics}
    said = []
    if "forget" not in measured:
        said.append("Nothing was measured on the forget set itself.")
    if not measured & {"test", "test_retain"}:
        said.append("Nothing was measured on rows that no model has seen, so damage beyond the retain rows is unknown.")
    hard = [f"{words.plain(r)} ({ROLES[r].sentence})" for r in HARD if r in run.roles and r not in measured]
    if hard:
        said.append(
            f"Rows that show whether it is gone beyond the rows themselves, and that were not looked at: {words.listed(hard)}."
        )
    if not any(base(m) == "disparity" for m in table.metrics):
        said.append("How far the models are from the retrained one altogether (`disparity`) was not measured.")
    if not run.answers:
        said.append("No predictions were kept, so nobody can look at single rows.")
    return said


def _sampling(run: RunData) -> list[str]:
    said = [text] if (text := unflagged(run)) else []
    if len(run.seeds) < 2:
        said.append("One seed: the intervals cover which rows were asked, not how training might have gone otherwise.")
    few = run.roles.get("forget", _FEW)
    if few < _FEW:
        said.append(f"The forget set has {words.several(few, 'row')}: the intervals are wide, and one row weighs much.")
    profile = run.manifest.get("profile")
    if profile:
        said.append(f"The profile '{profile}' was run: what it shows holds for that size and no other.")
    return said


def _claims(run: RunData) -> list[str]:
    open_ = [str(c.get("that", "?")) for c in run.claims if c.get("verdict") == "not tested"]
    none = ["The recipe makes no claim, so there was nothing that could have been missed."] if not run.claims else []
    return [f"Claimed but not tested: {words.listed(open_)}."] if open_ else none


def controls(run: RunData, table: Table) -> list[Control]:
    """Whether the knowledge was there, what the gold standard says, and the claims that had to fail something."""
    return [*([_knew(table), _gold(table)] if run.forgets else []), *_negative(run)]


def _knew(table: Table) -> Control:
    name, target, original = "The original knew it", table.target, table.the("original")
    cell = table.cell(original, target) if original and target else None
    if cell is None or target is None:
        return Control(name, "absent", "The original was not measured on the forget set.")
    said = f"Before unlearning, {words.metric(target)} was {words.with_interval(cell)}"
    retrain = table.the("retrain")
    gold = table.cell(retrain, target) if retrain else None
    if gold is None:
        known = cell.value < 0.9 if upwards(target) else cell.value > 0.1
        return Control(name, "holds" if known else "fails", f"{said}: this is what there was to forget.")
    compared = f"{said}; the retrained model has {words.with_interval(gold)}"
    if cell.overlaps(gold):
        return Control(name, "fails", f"{compared}, and the intervals meet: there may have been nothing to forget.")
    return Control(name, "holds", f"{compared}, and the intervals are apart: there was something to forget.")


def _gold(table: Table) -> Control:
    name, target, retrain = "Retrained without the forget set", table.target, table.the("retrain")
    cell = table.cell(retrain, target) if retrain and target else None
    if cell is None or target is None:
        return Control(
            name, "absent", "No retrained model was measured: how a model answers that never saw the data is unknown."
        )
    said = f"A model that never saw the forget set has {words.metric(target)} {words.with_interval(cell)}: the level to"
    return Control(name, "holds", f"{said} reach; missing it on either side would leave a trace.")


def _negative(run: RunData) -> list[Control]:
    found = [c for c in run.claims if "control" in str(c.get("because", "")).lower()]
    states: dict[str, Literal["holds", "fails", "absent"]] = {"met": "holds", "missed": "fails"}
    return [
        Control(
            str(c.get("that", "?")), states.get(str(c.get("verdict")), "absent"),
            f"{c.get('because')} (observed {observed(c)}, needed {c.get('needed', words.NONE)})",
        )
        for c in found
    ]  # fmt: skip


def observed(claim: object) -> str:
    """What a claim observed: a number, or a dash."""
    value = claim.get("observed") if isinstance(claim, dict) else None
    return words.number(float(value)) if isinstance(value, (int, float)) and not isinstance(value, bool) else words.NONE
