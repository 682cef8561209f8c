"""Code where code decides, and another critic for the rest: the exact verdicts first, since they cost nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import SkipValidation

from amends.chat.client import Client, Usage
from amends.constraints.constraint import Constraint, Request, Verdict
from amends.core.spec import Part, spec
from amends.refine.calibration import Calibration, Case
from amends.refine.critics.judge import Judge
from amends.refine.critics.programmatic import checked
from amends.refine.scoring import SKIPPED, aligned


@spec
class Mixed:
    """Checkers decide what they can, another critic the rest; that one is spared where a hard check fails already."""

    other: Annotated[Any, Part("critics"), SkipValidation] = Judge()
    """Who judges what no code decides."""
    spare: bool = True
    """Whether the other critic is not asked about an answer that is going to be rewritten anyway, because a hard check fails;
    the loop has the best version judged in full when it ends."""

    async def verdicts(
        self, request: Request, text: str, constraints: Sequence[Constraint], client: Client
    ) -> tuple[tuple[Verdict, ...], Usage]:
        """The checkers' verdicts, then the other critic's on what is left."""
        exact = {c.id: v for c, v in zip(constraints, checked(text, constraints), strict=True) if c.verifiable}
        rest = [c for c in constraints if not c.verifiable]
        if self.spare and any(c.hard and c.verifiable and exact[c.id].passed is False for c in constraints):
            return aligned([*exact.values(), *(Verdict(c.id, None, "judge", SKIPPED) for c in rest)], constraints), Usage()
        judged, usage = await self.other.verdicts(request, text, rest, client) if rest else ((), Usage())
        return aligned([*exact.values(), *judged], constraints), usage

    async def calibrate(self, cases: Sequence[Case], client: Client) -> Calibration:
        """The other critic's; what code decides needs none."""
        return await self.other.calibrate(cases, client)
