"""Verdicts put in order, settled by what they rest on, and counted: which of two versions is better.

The order is lexicographic: hard constraints that are met, hard ones that are violated (fewer), the weight of soft ones that
are met, what the guard says, fewer changes to the first answer, and the earlier version. A verdict of "cannot tell" is no
violation, but meets nothing either: a version that was judged is not beaten by one of which nothing is known.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

from amends.constraints.constraint import Constraint, Tally, Verdict
from amends.refine.parts import Attempt

SKIPPED = "not asked: a hard check fails already"
"""The reason of a verdict that a critic saved itself."""


class Score(NamedTuple):
    """Larger is better, compared from left to right."""

    hard: int
    """Hard constraints met."""
    violated: int
    """Minus the hard constraints violated."""
    soft: float
    """Weight of the soft constraints met."""
    quality: float = 1.0
    edits: float = 0.0
    """Minus the share of the first answer's words that were changed."""
    earlier: int = 0

    @property
    def compliance(self) -> tuple[int, int, float]:
        """The part that is about constraints alone."""
        return self.hard, self.violated, self.soft


def aligned(verdicts: Sequence[Verdict], constraints: Sequence[Constraint]) -> tuple[Verdict, ...]:
    """One verdict a constraint, in their order: a missing one is "cannot tell", one too many is dropped."""
    by_id: dict[str, Verdict] = {}
    for verdict in verdicts:
        by_id.setdefault(verdict.constraint, verdict)
    return tuple(by_id.get(c.id) or Verdict(c.id, None, "judge", "the critic said nothing on it") for c in constraints)


def settled(verdicts: Sequence[Verdict], constraints: Sequence[Constraint]) -> tuple[Verdict, ...]:
    """With what rests on a violated constraint violated as well, however long the chain; unknown ids are no obstacle."""
    failed = {v.constraint: v.constraint for v in verdicts if v.passed is False}
    changed = True
    while changed:
        new = {c.id: rest for c in constraints if c.id not in failed for rest in c.depends_on if rest in failed}
        failed |= new
        changed = bool(new)
    return tuple(
        replace(v, passed=False, reason=f"rests on {failed[v.constraint]}, which is violated")
        if v.passed is not False and v.constraint in failed else v for v in verdicts
    )  # fmt: skip


def violated(attempt: Attempt) -> tuple[Verdict, ...]:
    """The verdicts that say no."""
    return tuple(v for v in attempt.verdicts if v.passed is False)


def passed_ids(attempt: Attempt) -> frozenset[str]:
    """The constraints that are met."""
    return frozenset(v.constraint for v in attempt.verdicts if v.passed)


def tally(verdicts: Sequence[Verdict]) -> Tally:
    """Met, of how many, and of how many nothing is known."""
    return Tally(sum(v.passed is True for v in verdicts), len(verdicts), sum(v.passed is None for v in verdicts))


def score(attempt: Attempt, constraints: Mapping[str, Constraint], first: str = "", quality: float = 1.0) -> Score:
    """What a version is worth; `first` is the text that edits are counted from. One without verdicts is worth nothing."""
    said = {v.constraint: v.passed for v in attempt.verdicts}
    known = [(c, said.get(c.id, False)) for c in constraints.values()]
    return Score(
        sum(c.hard and passed is True for c, passed in known),
        -sum(c.hard and passed is False for c, passed in known),
        sum(c.weight for c, passed in known if not c.hard and passed),
        quality, -changed(first, attempt.text), -attempt.k,
    )  # fmt: skip


def changed(first: str, text: str) -> float:
    """Share of words changed between two texts, in 0..1, by the longest matching blocks.

    >>> changed("a b c d", "a b c e")
    0.25
    """
    a, b = first.split()[:1000], text.split()[:1000]
    return 1 - difflib.SequenceMatcher(None, a, b).ratio() if a != b else 0.0
