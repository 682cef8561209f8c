"""What metrics of following instructions share: which constraints of a row its answer meets, and what the answer cost.

Names: `all_pass` is the share of requests with every constraint met (DeCRIM's instruction-level, IFEval's prompt-level
accuracy), `constraint_rate` the share of constraints (DeCRIM's constraint-level, IFEval's instruction-level; InFoBench's DRFR).
Verdicts here come from checkers alone, whatever critic an arm used on the way: a model's word is no measurement of itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from amends.constraints.constraint import Constraint
from amends.constraints.looked import passes
from amends.core.errors import UserError
from amends.core.types import Role, Sample
from amends.data.instructed import request_of
from amends.metrics.evaluation import Evaluation

How = Literal["strict", "loose"]
"""The answer as it stands; or passed where any of IFEval's eight variants passes (without asterisks, first or last line)."""

Table = Mapping[str, Mapping[str, bool]]
"""Row id -> constraint id -> whether it is met."""


def requests_of(evaluation: Evaluation, role: Role) -> tuple[Sample, ...]:
    """The rows of a role; raises UserError for an empty one."""
    if not evaluation[role]:
        raise UserError(f"role '{role}' is empty: there is nothing to measure")
    return evaluation[role]


def records(evaluation: Evaluation, role: Role) -> Mapping[str, Mapping[str, Any]]:
    """What the stage left for each row. Raises UserError where the model keeps none, or a row has none."""
    kept = evaluation.once("records", lambda: dict(getattr(evaluation.subject, "records", {})))
    lacking = next((s.id for s in requests_of(evaluation, role) if s.id not in kept), None)
    if lacking is not None:
        raise UserError(f"role '{role}', row {lacking}: no stage answered it: name its role in the stage's `on`")
    return kept


def table(evaluation: Evaluation, role: Role, how: How) -> Table:
    """The verdict of every verifiable constraint of the role's rows. Raises UserError where no row has one."""

    def look() -> dict[str, dict[str, bool]]:
        given = records(evaluation, role)
        requests = (request_of(sample) for sample in requests_of(evaluation, role))
        return {r.id: met(r.constraints, str(given[r.id]["text"]), how) for r in requests if _checked(r.constraints)}

    found = evaluation.once(f"met/{role}/{how}", look)
    if not found:
        raise UserError(f"role '{role}': no row has a constraint that code can check; these numbers need one")
    return found


def met(constraints: tuple[Constraint, ...], text: str, how: How) -> dict[str, bool]:
    """Each verifiable constraint's id with whether the text meets it; one that rests on a violated one is violated as well."""
    found = {c.id: passes(c.checker, text)[how == "loose"] for c in constraints if c.verifiable}
    rests = {c.id: c.depends_on for c in constraints if c.id in found}
    for _ in found:  # a chain is as long as there are constraints, at most
        found = {row: own and all(found.get(other, True) for other in rests[row]) for row, own in found.items()}
    return found


def _checked(constraints: tuple[Constraint, ...]) -> bool:
    return any(c.verifiable for c in constraints)
