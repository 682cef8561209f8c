"""Repairs by code before a call is paid for: commas struck, case changed, a closing line added."""

from __future__ import annotations

from collections.abc import Sequence

from amends.constraints.constraint import Constraint
from amends.constraints.looked import look


def repaired(text: str, broken: Sequence[Constraint], constraints: Sequence[Constraint]) -> str | None:
    """The text after every safe repair of the broken constraints, in their order; None where there is none.

    A repair is taken only when its own constraint holds afterwards and no other verifiable one is broken by it.
    """
    current, failing = text, failing_ids(text, constraints)
    for constraint in broken:
        mend = getattr(constraint.checker, "repair", None)  # an optional method, by the contract of checkers
        new = mend(current) if mend and constraint.id in failing else None
        if new is None or new == current or not new.strip():
            continue
        after = failing_ids(new, constraints)
        if constraint.id not in after and after <= failing:
            current, failing = new, after
    return current if current != text else None


def failing_ids(text: str, constraints: Sequence[Constraint]) -> frozenset[str]:
    """The verifiable constraints that the text breaks."""
    return frozenset(c.id for c in constraints if c.verifiable and not look(c.checker, text).passed)
