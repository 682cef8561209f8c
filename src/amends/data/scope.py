"""The scope of evidence: what a role's rows say about unlearning (survey, arXiv 2402.08787, sections on scope and assessment).

An unlearning request has an inside and an outside. Inside are the rows themselves and every other way to get at the same
fact: a model that goes silent in one wording and answers in the next has learned to keep quiet. Outside are what lies
close by and what lies far off, and both must stay. Data, metrics, reports and limits all read this one table.

What differs from the survey: its `in-scope` examples are divided into the rows that unlearning is given and the hard
ones that it never sees, and `out-of-scope` into near and far.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from amends.core.types import Role
from amends.data.bundle import asked_to_go

Scope = Literal["in", "hard", "near", "far"]
"""In-scope, hard in-scope, near out-of-scope, far out-of-scope."""

SCOPES: dict[Scope, str] = {
    "in": "in scope: what is to go, as it was asked for",
    "hard": "hard in scope: the same facts got at in another way, never trained on while forgetting",
    "near": "near, out of scope: the same kind of fact about something else, which must stay",
    "far": "far, out of scope: unrelated facts, which must stay",
}
"""Each scope in words."""


@dataclass(frozen=True)
class Scoped:
    """Where a role stands, and what its rows are."""

    scope: Scope
    sentence: str
    """What the rows ask, to follow the role's name and a colon."""
    trained: bool = False
    """Whether unlearning usually trains on these rows to keep them: weaker evidence than rows it never saw."""
    kind: Literal["text", "labels", "both"] = "text"
    """Whether such rows ask for an answer or carry a label to be told."""


ROLES: dict[Role, Scoped] = {
    "forget": Scoped("in", "the rows that unlearning is given", kind="both"),
    "paraphrase": Scoped("hard", "the same questions in other words"),
    "multihop": Scoped("hard", "questions whose answer needs a forgotten fact as a step"),
    "reverse": Scoped("hard", "the other direction, from the value to the name"),
    "language": Scoped("hard", "the same questions in another language"),
    "test_forget": Scoped("hard", "rows of the forgotten classes that no model has seen", kind="labels"),
    "triggered": Scoped("hard", "rows of other classes with the trigger and the attacker's label", kind="labels"),
    "neighbour": Scoped("near", "the same kind of fact about another subject, not seen while forgetting"),
    "retain_aside": Scoped("near", "rows like those kept, set aside and never trained on", kind="both"),
    "test": Scoped("near", "rows of the classes that stay, which no model has seen", kind="labels"),
    "test_retain": Scoped("near", "rows of the classes that were not touched, which no model has seen", kind="labels"),
    "clean": Scoped("near", "rows known to be clean, put aside for auditors", kind="labels"),
    "valid": Scoped("near", "rows set aside to choose settings by", kind="labels"),
    "retain": Scoped("near", "rows that unlearning is given to keep", trained=True, kind="both"),
    "retain_eval": Scoped("near", "rows that unlearning is given to keep, those with wrong answers", trained=True),
    "forms": Scoped("near", "the hard kinds of question asked of those who stay"),
    "real_authors": Scoped("near", "real authors, beside the invented ones"),
    "general": Scoped("far", "unrelated questions"),
    "world": Scoped("far", "facts about countries"),
    "world_facts": Scoped("far", "facts about the real world"),
}
"""The agreed names, in a reader's order. A role that is not here has no scope: it is measured, and counted as kept."""

HARD: tuple[Role, ...] = tuple(r for r, s in ROLES.items() if s.scope == "hard")
"""The hard in-scope roles."""
HARD_QUESTIONS: tuple[Role, ...] = tuple(r for r in HARD if ROLES[r].kind == "text")
"""Those of them that ask."""
FORGOTTEN: frozenset[Role] = frozenset(r for r, s in ROLES.items() if s.scope in ("in", "hard"))
"""The roles whose answers are meant to go."""


def scope_of(role: Role) -> Scope | None:
    """A role's scope; None for a name of the user's own, for `holdout` and for a whole model.

    >>> scope_of("reverse"), scope_of("neighbour"), scope_of("forget_a"), scope_of("holdout")
    ('hard', 'near', 'in', None)
    """
    found = ROLES.get(role)
    return found.scope if found else "in" if asked_to_go(role) else None


def goes(role: Role) -> bool:
    """Whether a role's answers are meant to go.

    >>> goes("forget"), goes("language"), goes("retain")
    (True, True, False)
    """
    return scope_of(role) in ("in", "hard")


def roles_in(*scopes: Scope) -> tuple[Role, ...]:
    """The agreed roles of some scopes, in a reader's order.

    >>> roles_in("in", "hard")
    ('forget', 'paraphrase', 'multihop', 'reverse', 'language', 'test_forget', 'triggered')
    """
    return tuple(r for r, s in ROLES.items() if s.scope in scopes)
