"""What checkers share: findings in one line, and a base for all that compare a count with a bound."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, StringConstraints

from amends.constraints.constraint import Checker, Finding, Span

Relation = Literal["at least", "less than", "at most", "exactly"]
"""How a count is compared; IFEval knows the first two."""
Phrase = Annotated[str, StringConstraints(pattern=r"\S")]
"""A text that is not blank."""
Phrases = Annotated[tuple[Phrase, ...], Field(min_length=1)]
Range = tuple[int, int | None]
"""The least and the most that is allowed; None is no limit."""


def between(relation: Relation, number: int) -> Range:
    """The counts that a relation allows.

    >>> between("less than", 3), between("at least", 3)
    ((0, 2), (3, None))
    """
    return {
        "at least": (number, None), "less than": (0, number - 1), "at most": (0, number), "exactly": (number, number),
    }[relation]  # fmt: skip


def off(measured: int, allowed: Range) -> int:
    """How many are too few (negative) or too many (positive)."""
    low, high = allowed
    if measured < low:
        return measured - low
    return measured - high if high is not None and measured > high else 0


def met(measured: Any, target: str) -> Finding:
    """A finding that passes."""
    return Finding(True, measured, target, 0.0, "")


def unmet(measured: Any, target: str, feedback: str, distance: float = 1.0, span: Span | None = None) -> Finding:
    """A finding that does not."""
    return Finding(False, measured, target, float(distance), feedback, span)


def quoted(words: Iterable[str]) -> str:
    """`"a", "b"`.

    >>> quoted(["oven", "salt"])
    '"oven", "salt"'
    """
    return ", ".join(f'"{word}"' for word in words)


def kept(checker: Checker, text: str, *candidates: str | None) -> str | None:
    """The first of the text and its repairs that the checker passes; a blank text has none, since somebody has to write one."""
    if not text.strip():
        return None
    return next((t for t in (text, *candidates) if t is not None and t.strip() and checker.check(t).passed), None)


def number_of(count: int, unit: tuple[str, str]) -> str:
    """`1 word`, `3 words`."""
    return f"{count} {unit[0] if count == 1 else unit[1]}"


class Counted(ABC):
    """A checker of how often something stands in a text: subclasses say where, and how often is asked."""

    unit: ClassVar[tuple[str, str]] = ("time", "times")
    """What is counted, one and several."""

    @abstractmethod
    def found(self, text: str) -> Sequence[Span]:
        """Where each of the counted things stands, in order."""

    @abstractmethod
    def bound(self) -> tuple[Relation, int]:
        """How many are asked for."""

    def units(self) -> tuple[str, str]:
        """`unit`, where it depends on a field."""
        return self.unit

    def of(self) -> tuple[str, ...]:
        """What is counted, so that two constraints on the same quantity can be told."""
        return (type(self).__name__,)

    def allowed(self) -> Range:
        """The counts that pass."""
        return between(*self.bound())

    def target(self) -> str:
        """`at least 3 words`."""
        relation, number = self.bound()
        return f"{'fewer than' if relation == 'less than' else relation} {number_of(number, self.units())}"

    def told(self) -> str:
        """The demand as a sentence."""
        return f"Use {self.target()}."

    def check(self, text: str) -> Finding:
        """Counts; what is one too many is the span."""
        found = self.found(text)
        wrong = off(len(found), self.allowed())
        if not wrong:
            return met(len(found), self.target())
        high = self.allowed()[1]
        span = found[max(high or 0, 0)] if wrong > 0 and found else None
        return unmet(len(found), self.target(), self.advice(len(found), wrong), abs(wrong), span)

    def advice(self, measured: int, wrong: int) -> str:
        """The count, what is asked, and how many to add or remove."""
        change = f"add {-wrong} more" if wrong < 0 else f"remove {wrong}"
        if wrong > measured:
            change = "nothing satisfies that"
        return f"The answer has {number_of(measured, self.units())} where the request asks for {self.target()}: {change}."
