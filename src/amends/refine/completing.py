"""A model's list of constraints, completed by what plain rules are sure of: nothing twice, and one word on each thing."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from amends.constraints import conflicts
from amends.constraints.constraint import Constraint
from amends.constraints.counted import Counted

_LISTS = {"Mentions": "words", "KeywordExistence": "keywords", "ForbiddenWords": "forbidden_words"}
"""Checkers that may stand several times in a request, each with other words."""


def completed(listed: Sequence[Constraint], found: Sequence[Constraint]) -> tuple[tuple[Constraint, ...], tuple[str, ...]]:
    """The listed constraints and those of `found` that say something new, with new ids; and notes on what was added or left.

    Equal checkers are one. Where both speak of the same thing and differ (60 words, 80 words), the listed one stays: a model
    that read the whole request may know why.
    """
    kept, added, notes = list(listed), [], []
    for one in found:
        if any(_covers(c.checker, one.checker) for c in kept if c.verifiable):
            continue
        other = next((c for c in listed if c.verifiable and _differ(c, one)), None)
        if other is not None:
            notes.append(f"the plain rules read {one.text!r}, which differs from {other.id}, {other.text!r}: the model's stays")
            continue
        new = dataclasses.replace(one, id=_free(kept))
        kept.append(new)
        added.append(new)
    if added:
        names = ", ".join(f"{c.id} {c.text!r}" for c in added)
        notes.insert(
            0, f"added by the plain rules, since the model did not list {'it' if len(added) == 1 else 'them'}: {names}"
        )
    return tuple(kept), tuple(notes)


def _covers(a: Any, b: Any) -> bool:
    """Whether `a` asks for all that `b` asks for."""
    if a == b:
        return True
    if isinstance(a, Counted) and isinstance(b, Counted):
        return a.of() == b.of() and a.allowed() == b.allowed()
    one, two = _words(a), _words(b)
    return one is not None and two is not None and one[0] == two[0] and two[1] <= one[1]


def _words(checker: Any) -> tuple[bool, frozenset[str]] | None:
    """(whether the words are forbidden, the words) where all of them are asked for."""
    field = _LISTS.get(type(checker).__name__)
    if field is None or getattr(checker, "how", "all") != "all":
        return None
    return field == "forbidden_words", frozenset(word.casefold() for word in getattr(checker, field))


def _differ(a: Constraint, b: Constraint) -> bool:
    """Whether two constraints speak of the same thing and say different things of it."""
    one, two = a.checker, b.checker
    if isinstance(one, Counted) and isinstance(two, Counted):
        if one.of() != two.of():
            return False
        (low, high), (low2, high2) = one.allowed(), two.allowed()
        return (
            (high is not None and high2 is not None)
            or (low > 0 and low2 > 0)
            or (low > (high2 or low))
            or (low2 > (high or low2))
        )
    if type(one) is type(two) and type(one).__name__ not in _LISTS:
        return True
    return any("cannot both hold" in note for note in conflicts.notes((a, dataclasses.replace(b, id=f"{a.id}'"))))


def _free(kept: Sequence[Constraint]) -> str:
    taken = {c.id for c in kept}
    return next(name for n in range(1, len(taken) + 2) if (name := f"c{n}") not in taken)
