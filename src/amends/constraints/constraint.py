"""One demand on an answer, and what somebody found when it was looked at.

Two names for two accuracies are in use for the same things, and clash: DeCRIM's "instruction-level" is IFEval's
"prompt-level", and DeCRIM's "constraint-level" is IFEval's "instruction-level". Here a *request* is what a person asks, it
holds *constraints*, and the accuracies are `all_pass` (share of requests with every constraint met) and `constraint_rate`
(share of constraints met).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, NamedTuple, Protocol, runtime_checkable

from pydantic import SkipValidation

from amends.core.spec import Part, Positive, spec

Span = tuple[int, int]
"""First character and the one behind the last, in the answer as it stands."""


@dataclass(frozen=True, slots=True)
class Finding:
    """What a checker measured in one text."""

    passed: bool
    measured: Any
    """What was counted or found: a number, words, the detected language; plain JSON."""
    target: str
    """What is asked, readable: `at least 3`, `fewer than 150`, `the word "oven"`."""
    distance: float
    """How far off, in the checker's own unit (words, occurrences); 0 where it passed."""
    feedback: str
    """One sentence for the writer of the next version; with the measured value; empty where it passed."""
    span: Span | None = None
    """The first stretch of text that offends, where there is one."""


@runtime_checkable
class Checker(Protocol):
    """Decides one verifiable demand by code. A frozen spec: its fields are the demand's numbers and words.

    It may have `repair(text) -> str | None` besides: the text with the smallest safe edit after which it passes, or None
    where none is safe (nothing that a person would have to rewrite).
    """

    def check(self, text: str) -> Finding:
        """Looks at an answer of any length, the empty one included; the same text always gives the same finding."""
        ...

    def told(self) -> str:
        """The demand as a sentence to a writer, `Use at least 3 bullet points.`"""
        ...


@spec
class Constraint:
    """One atomic demand of a request."""

    id: str
    """Unique in its request: `c1`."""
    text: str
    """The demand in words, as near to the request's own as can be."""
    checker: Annotated[Any, Part("checkers"), SkipValidation] = None
    """What decides it by code; a judge does where there is none."""
    category: str = ""
    """What kind of demand it is (length, format, style, ...), for tables of judges by kind."""
    hard: bool = True
    """Whether an answer without it is unacceptable; a soft one counts by its weight."""
    weight: Positive = 1.0
    """What a soft one counts."""
    depends_on: tuple[str, ...] = ()
    """Ids of constraints without which this one cannot be met; one of them violated, this one counts as violated."""

    @property
    def verifiable(self) -> bool:
        """Whether code decides it."""
        return self.checker is not None


Source = Literal["checker", "judge", "supervised", "gold", "injected"]
"""Who said it; `injected` is a noised oracle of an experiment."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a critic says about one constraint of one answer. `passed` is None for "cannot tell", which is not a violation."""

    constraint: str
    """The constraint's id."""
    passed: bool | None
    source: Source
    reason: str = ""
    """Why, in one sentence; the checker's feedback or the judge's."""
    score: float | None = None
    """Confidence that it holds, in 0..1, where the critic has one."""
    measured: Any = None
    target: str = ""
    distance: float = 0.0
    span: Span | None = None

    @staticmethod
    def of(constraint: Constraint, finding: Finding) -> Verdict:
        """A checker's finding as a verdict."""
        return Verdict(
            constraint.id, finding.passed, "checker", finding.feedback, float(finding.passed), finding.measured,
            finding.target, finding.distance, finding.span,
        )  # fmt: skip


class Tally(NamedTuple):
    """The verdicts of one answer, counted."""

    met: int
    of: int
    unknown: int

    @property
    def all_pass(self) -> bool:
        """Whether no constraint is violated and none is unknown."""
        return self.met == self.of


@dataclass(frozen=True, slots=True)
class Request:
    """What a person asks, with its constraints where they are known."""

    id: str
    prompt: str
    constraints: tuple[Constraint, ...] = field(default=())
    task: str = ""
    context: str = ""
