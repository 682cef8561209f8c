"""Verdicts by code alone: exact where a constraint has a checker, and "cannot tell" for every other one."""

from __future__ import annotations

from collections.abc import Sequence

from amends.chat.client import Client, Usage
from amends.constraints.constraint import Constraint, Request, Verdict
from amends.constraints.looked import look
from amends.core.spec import spec
from amends.refine.calibration import Calibration, Case, calibrated


@spec
class Programmatic:
    """Checkers decide what they can, at no cost; every other constraint is "cannot tell"."""

    async def verdicts(
        self, request: Request, text: str, constraints: Sequence[Constraint], client: Client
    ) -> tuple[tuple[Verdict, ...], Usage]:
        """What the checkers find; the client is not asked."""
        return checked(text, constraints), Usage()

    async def calibrate(self, cases: Sequence[Case], client: Client) -> Calibration:
        """Perfect by construction: the checkers against themselves."""
        return await calibrated(self, cases, client, hide=False)


def checked(text: str, constraints: Sequence[Constraint]) -> tuple[Verdict, ...]:
    """The checkers' verdicts, in the order of the constraints; an empty answer meets none."""
    return tuple(
        Verdict.of(c, look(c.checker, text)) if c.verifiable else Verdict(c.id, None, "checker", "no code decides it")
        for c in constraints
    )
