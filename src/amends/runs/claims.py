"""Claims: what a recipe expects of its own run. A claim is met, missed, or not tested; it is never dropped.

`that` is `<stage>.<measurement>` (`npo.utility`, `npo.probability.forget`), `<stage>.recovered.<attack>.<measurement>`
(what an attack brings back; with `.unseen` behind it, on the rows that the attacker was not given), `<stage>.seconds`, or
`audit.<auditor>.<auroc, auroc_within, tpr, fpr or flagged>`.
The bound is a number, or a factor `of` another such quantity. Values are means over seeds. Where the deciding auditor flagged
nothing on some seeds, what was measured on the others counts (`runs/unflagged.py`), and the claim says how many they are.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any

from pydantic import Field

from amends.core.errors import UserError, nearest
from amends.core.spec import spec
from amends.runs.audit_entry import SUBJECT

UNSEEN = "unseen"
"""Ends the name of a measurement that was read only on the rows an attacker was not given."""

Bound = Annotated[float, Field(allow_inf_nan=False)]


@spec
class Claim:
    """One expectation; give exactly one of `at_least` and `at_most`."""

    that: str
    """The quantity that is bounded."""
    at_least: Bound | None = None
    """Lower bound, or a factor of `of`."""
    at_most: Bound | None = None
    """Upper bound, or a factor of `of`."""
    of: str | None = None
    """The quantity that the bound is a factor of."""
    because: str = ""
    """Why it matters: what the paper says, or which control it is."""

    def check(
        self, at: str, stages: Sequence[str], metrics: Sequence[str], attacks: Sequence[str], audits: Sequence[str] = ()
    ) -> None:
        """Raises UserError when a name in the claim exists nowhere in the recipe."""
        if (self.at_least is None) == (self.at_most is None):
            raise UserError(f"{at}: give exactly one of at_least and at_most")
        for key, path in (("that", self.that), ("of", self.of)):
            if path is None:
                continue
            stage, _, quantity = path.partition(".")
            if stage == SUBJECT and audits:
                if quantity not in audits:
                    raise UserError(f"{at}.{key}: no auditor measures {quantity!r}{nearest(quantity, audits)}")
                continue
            if stage not in stages:
                raise UserError(f"{at}.{key}: no stage is called {stage!r}{nearest(stage, stages)}")
            if quantity.startswith("recovered."):
                attack, _, quantity = quantity.removeprefix("recovered.").partition(".")
                if attack not in attacks:
                    raise UserError(f"{at}.{key}: no attack is called {attack!r}{nearest(attack, attacks)}")
                quantity = quantity.removesuffix(f".{UNSEEN}")
            if quantity not in (*metrics, "seconds"):
                raise UserError(f"{at}.{key}: nothing measured is called {quantity!r}{nearest(quantity, metrics)}")

    @property
    def on_flags(self) -> bool:
        """Whether it speaks of auditors alone, who look on every seed."""
        return all(path.partition(".")[0] == SUBJECT for path in (self.that, self.of) if path is not None)

    def judge(self, values: Callable[[str], Sequence[float]], note: str = "") -> dict[str, Any]:
        """The verdict; `values` gives a quantity's value for each seed, or nothing where it was not measured.

        Args:
            note: what a reader must know of the seeds, if anything.
        """
        observed = values(self.that)
        base = values(self.of) if self.of else [1.0]
        factor = self.at_least if self.at_least is not None else self.at_most
        assert factor is not None
        sign = ">=" if self.at_least is not None else "<="
        result = {"that": self.that, "because": self.because, "per_seed": list(observed), "observed": None}
        result |= {"note": note} if note else {}
        text = f"{sign} {factor:g}" + (f" x {self.of}" if self.of else "")
        if not observed or not base:
            return {**result, "needed": text, "verdict": "not tested"}
        value, bound = _mean(observed), factor * _mean(base)
        met = value >= bound if self.at_least is not None else value <= bound
        needed = text + (f" = {bound:.4g}" if self.of else "")
        return {**result, "observed": value, "needed": needed, "verdict": "met" if met and not math.isnan(value) else "missed"}


def in_words(verdict: Mapping[str, Any]) -> str:
    """A judged claim in a line: `claim met: npo.utility >= 0.5, observed 0.61 (on 2 of 3 seeds)`."""
    seen = "" if verdict["observed"] is None else f", observed {verdict['observed']:.4g}"
    note = f" ({verdict['note']})" if verdict.get("note") else ""
    return f"claim {verdict['verdict']}: {verdict['that']} {verdict['needed']}{seen}{note}"


Rows = Sequence[Mapping[str, Any]]


def quantity(path: str, stages: Rows, measured: Rows, recovered: Rows, audits: Rows = ()) -> list[float]:
    """The values, one a seed, of what a claim speaks of; [] where it was not measured."""
    name, _, what = path.partition(".")
    if what == "seconds":
        return [s["seconds"] for s in stages if s["name"] == name]
    if what.startswith("recovered."):
        attack, _, metric = what.removeprefix("recovered.").partition(".")
        rows = [r for r in recovered if (r["subject"], r["attack"], r["metric"]) == (name, attack, metric)]
    elif name == SUBJECT and audits:
        rows = [r for r in audits if f"{r['auditor']}.{r['name']}" == what]
    else:
        rows = [r for r in measured if (r["subject"], r["attack"], r["name"]) == (name, None, what)]
    return [r["value"] for r in rows if r["value"] is not None and not math.isnan(r["value"])]


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
