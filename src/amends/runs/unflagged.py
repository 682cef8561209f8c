"""Seeds on which the auditor who decides flagged nothing: nothing is forgotten there, and other seeds are not made useless.

Stages behind the audit are not made on such a seed. What was measured of the stages before it is left out of the results, so
that means over seeds compare the same seeds; a stage that is made `once` belongs to no seed and stays. Where nothing is flagged
on any seed, the run is an audit alone: what was measured stays, and claims on forgetting are not tested. Without stages behind
the audit no seed is left out of anything.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from amends.data.bundle import Bundle
from amends.runs.claims import Claim
from amends.runs.recipe import Recipe

Skipped = Sequence[dict[str, Any]]
"""For each such seed: `seed`, `why` in a sentence, and the `stages` that were not made."""


def skipped(recipe: Recipe, seed: int) -> dict[str, Any]:
    """One seed's line for the manifest."""
    assert recipe.audit is not None
    left = [stage.name for stage in recipe.stages if stage.name not in recipe.audit.before]
    return {"seed": seed, "why": f"seed {seed}: nothing was flagged, so nothing is forgotten", "stages": left}


def measurable(recipe: Recipe, data: Bundle) -> list[Any]:
    """The metrics whose rows are there although nothing is to be forgotten, and that compare with no other stage."""
    return [
        metric for metric in recipe.measure
        if not getattr(metric, "needs_reference", False) and all(role in data for role in metric.roles())
    ]  # fmt: skip


def comparable(measured: list[dict[str, Any]], recipe: Recipe, out: Skipped) -> list[dict[str, Any]]:
    """The measurements on seeds that forgot something; all of them where no seed did."""
    seeds = {line["seed"] for line in out}
    once = {stage.name for stage in recipe.stages if stage.once}
    if len(seeds) == len(recipe.seeds) or not _cut_short(out):
        return measured
    return [row for row in measured if row["seed"] not in seeds or row["subject"] in once]


def note(claim: Claim, recipe: Recipe, out: Skipped) -> str:
    """On how many seeds a claim rests: `on 2 of 3 seeds`; nothing where it is all, and for claims on the audit alone."""
    if not _cut_short(out) or claim.on_flags:
        return ""
    left = len(recipe.seeds) - len(out)
    return f"on {left} of {len(recipe.seeds)} seeds" if left else "nothing was flagged, so nothing is forgotten"


def _cut_short(out: Skipped) -> bool:
    """Whether there were stages that could not be made."""
    return any(line["stages"] for line in out)
