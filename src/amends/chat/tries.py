"""One call, tried until there is an answer: the retries and the waits between them under one deadline, for every back end."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from itertools import count
from time import monotonic
from typing import TypeVar

from amends.chat import openai_wire as wire
from amends.chat.client import ClientError

T = TypeVar("T")


@dataclass(frozen=True)
class Fault:
    """Why a try failed, and whether another one may do better."""

    cause: str
    may_pass: bool
    status: int | None = None
    headers: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def too_slow(cls, timeout: float) -> Fault:
        """No whole answer within the seconds that a try may take."""
        return cls(f"no whole answer within {timeout:g} s", True, 504)


@dataclass(frozen=True)
class Limits:
    """More tries after the first, and the seconds that one try and the whole call may take."""

    retries: int
    timeout: float
    deadline: float


async def tried(
    once: Callable[[], Awaitable[T]],
    fault_of: Callable[[Exception], Fault],
    limits: Limits,
    who: str,
    without_secrets: Callable[[str], str],
) -> T:
    """Tries until there is an answer, the retries are used up, or the next one would come after the deadline.

    Args:
        once: one try.
        fault_of: what an exception of a try says; it raises again what is a defect or a user's mistake.
        limits: how often, and how long.
        who: what the error begins with, such as address and model.
        without_secrets: takes keys out of a text: a server may repeat what it was sent.
    """
    ends = monotonic() + limits.deadline
    for attempt in count(1):
        try:
            async with asyncio.timeout(max(0.0, min(limits.timeout, ends - monotonic()))):
                return await once()
        except Exception as error:  # each library below has its own; what is none of theirs is raised again
            fault = fault_of(error)
        wait = wire.wait_before(attempt, fault.headers)
        if not fault.may_pass or attempt > limits.retries or monotonic() + wait >= ends:
            cause = without_secrets(fault.cause)
            again = f"; tried {attempt} times" if attempt > 1 else ""
            late = f"; it asks to be left alone for {wait:.0f} s" if monotonic() + wait >= ends else ""
            raise ClientError(f"{who}: {cause}{again}{late if fault.may_pass else ''}", fault.status)
        await asyncio.sleep(wait)
    raise AssertionError("the loop above ends by itself")
