"""What the loop is made of: who decomposes, who criticises, and what a run of the loop leaves behind."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol, runtime_checkable

from amends.chat.client import Client, Usage
from amends.constraints.constraint import Constraint, Request, Verdict

StopReason = Literal["all_pass", "max_rounds", "no_change", "cycle", "budget", "no_progress", "critic_error", "client_error"]


@dataclass(frozen=True, slots=True)
class Attempt:
    """One version of an answer."""

    k: int
    """0 is the first answer."""
    text: str
    verdicts: tuple[Verdict, ...] = ()
    usage: Usage = field(default_factory=Usage)
    """What writing and criticising it cost."""
    parent: int | None = None
    """The version that it was made from."""
    how: Literal["response", "refinement", "repair", "sample"] = "response"
    warnings: tuple[str, ...] = ()
    """What the guard says: much shorter, repetitive, an apology, no longer about the task."""


@dataclass(frozen=True, slots=True)
class Refined:
    """What the loop leaves for one request: never an exception, never the last attempt where an earlier one is better."""

    request: Request
    """With the constraints that were used, decomposed where none were given."""
    best: int
    """Index into `attempts`."""
    attempts: tuple[Attempt, ...]
    stopped: StopReason
    usage: Usage
    """All calls, decomposition included."""
    notes: tuple[str, ...] = ()
    """What a person should know: conflicts between constraints, verdicts that could not be read, the cause of an early end."""

    @property
    def text(self) -> str:
        """The best answer."""
        return self.attempts[self.best].text


@runtime_checkable
class Decomposer(Protocol):
    """Says which constraints a request holds."""

    async def decompose(self, request: Request, client: Client) -> tuple[tuple[Constraint, ...], Usage, tuple[str, ...]]:
        """Constraints, what that cost, and notes about output that could not be read. Never raises on what a model writes."""
        ...


@runtime_checkable
class Critic(Protocol):
    """Judges an answer against constraints."""

    async def verdicts(
        self, request: Request, text: str, constraints: Sequence[Constraint], client: Client
    ) -> tuple[tuple[Verdict, ...], Usage]:
        """One verdict for each constraint, in their order; "cannot tell" where it cannot. Never raises on a model's text."""
        ...
