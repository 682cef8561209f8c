"""Looks at an answer with every checker of a list: strictly or loosely, with what depends on what.

An empty answer meets nothing, whatever a checker says of it ("no comma" holds of an empty text).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence

from amends.constraints.constraint import Checker, Constraint, Finding, Verdict
from amends.core.errors import UserError, nearest

EMPTY = "The answer is empty: write one."


def variants(text: str) -> tuple[str, ...]:
    """The text, then what IFEval's loose score looks at besides: without asterisks, first line, last line, and together.

    >>> variants("Sure!\\n*yes*")
    ('Sure!\\n*yes*', 'Sure!\\nyes', '*yes*', 'yes', 'Sure!')
    """
    lines = text.split("\n")
    cut = [text, *("\n".join(some).strip() for some in (lines[1:], lines[:-1], lines[1:-1]))]
    return tuple(dict.fromkeys(t for one in cut for t in (one, one.replace("*", "")) if t.strip()))


def look(checker: Checker, text: str, loose: bool = False) -> Finding:
    """One checker's finding; a loose one is that of the first variant that passes, or else of the text itself."""
    finding = checker.check(text)
    if not text.strip():
        return Finding(False, finding.measured, finding.target, max(finding.distance, 1.0), EMPTY)
    if finding.passed or not loose:
        return finding
    others = (checker.check(variant) for variant in variants(text)[1:])
    passing = next((other for other in others if other.passed), None)
    return dataclasses.replace(passing, span=None) if passing else finding


def passes(checker: Checker, text: str) -> tuple[bool, bool]:
    """Whether an answer passes strictly, and loosely; one checker serves both."""
    strict = look(checker, text).passed
    return strict, strict or look(checker, text, loose=True).passed


def check_order(constraints: Sequence[Constraint], at: str) -> None:
    """Refuses ids that stand twice, dependencies on nothing and on one another."""
    ids = [c.id for c in constraints]
    for constraint in constraints:
        place = f"{at}.{constraint.id}"
        if ids.count(constraint.id) > 1:
            raise UserError(f"{place}: this id stands twice; give each constraint its own")
        for other in constraint.depends_on:
            if other not in ids:
                raise UserError(f"{place}.depends_on: there is no constraint {other!r}{nearest(other, ids)}")
    before = {c.id: set(c.depends_on) for c in constraints}
    while free := [name for name, needed in before.items() if not needed]:
        before = {name: needed - set(free) for name, needed in before.items() if name not in free}
    if before:
        names = ", ".join(before)
        if len(before) == 1:
            raise UserError(f"{at}.{names}.depends_on: it depends on itself; take that away")
        raise UserError(f"{at}: {names} depend on one another in a circle; take one `depends_on` away")


def verdicts(constraints: Sequence[Constraint], text: str, loose: bool = False) -> tuple[Verdict, ...]:
    """One verdict for each constraint, in their order; None for what no code decides.

    A constraint counts as violated where one that it depends on is. Raises UserError on dependencies that cannot be followed.
    """
    check_order(constraints, "constraints")
    own = {c.id: _own(c, text, loose) for c in constraints}
    violated: set[str] = {name for name, verdict in own.items() if verdict.passed is False}
    while added := {c.id for c in constraints if c.id not in violated and violated.intersection(c.depends_on)}:
        violated |= added
    return tuple(_dependent(c, own[c.id], violated) for c in constraints)


def _own(constraint: Constraint, text: str, loose: bool) -> Verdict:
    if constraint.checker is None:
        return Verdict(constraint.id, None, "checker", "A judge has to decide this.")
    return Verdict.of(constraint, look(constraint.checker, text, loose))


def _dependent(constraint: Constraint, verdict: Verdict, violated: Iterable[str]) -> Verdict:
    """Violated because of another: with the distance 1 where it was not violated itself."""
    if verdict.passed is False or constraint.id not in violated:
        return verdict
    cause = next(name for name in constraint.depends_on if name in violated)
    reason = f"It depends on {cause}, which is violated."
    return dataclasses.replace(verdict, passed=False, reason=reason, score=0.0, distance=1.0)
