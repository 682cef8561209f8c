"""An oracle that errs at a known rate: how good has a critic to be before the loop helps?

The checkers' verdicts are flipped with given rates. Each flip is drawn from a stream of its own, named by request,
constraint and text, and the same draw is compared with every rate: a critic of higher rates errs on a subset of what one of
lower rates errs on, so that a curve over rates moves by the rate alone. Asked twice about the same text it says the same.
Repairs by code would leak the truth into such an experiment: switch them off (`repair: false`).
"""

from __future__ import annotations

from collections.abc import Sequence

from amends.chat.client import Client, Usage
from amends.constraints.constraint import Constraint, Request, Verdict
from amends.core.rng import stream_seed
from amends.core.spec import Fraction, spec
from amends.refine.calibration import Calibration, Case, calibrated
from amends.refine.critics.programmatic import checked


@spec
class Noised:
    """The checkers' verdicts, flipped at given rates: the curve of what refining gains against its critic's quality."""

    tpr: Fraction = 1.0
    """Share of the violated constraints that it calls violated."""
    tnr: Fraction = 1.0
    """Share of the met constraints that it calls met."""
    seed: int = 0
    """Of the flips."""

    async def verdicts(
        self, request: Request, text: str, constraints: Sequence[Constraint], client: Client
    ) -> tuple[tuple[Verdict, ...], Usage]:
        """The checkers' verdicts, some of them turned; a wrongly raised violation has the demand itself as its reason."""
        exact = checked(text, constraints)
        return tuple(self._noised(request, text, c, v) for c, v in zip(constraints, exact, strict=True)), Usage()

    async def calibrate(self, cases: Sequence[Case], client: Client) -> Calibration:
        """The rates as they came out."""
        return await calibrated(self, cases, client, hide=False)

    def _noised(self, request: Request, text: str, constraint: Constraint, exact: Verdict) -> Verdict:
        if exact.passed is None:
            return exact
        draw = stream_seed(self.seed, "noised", request.id, constraint.id, text) / 2**63
        if draw < (self.tnr if exact.passed else self.tpr):
            return Verdict(
                exact.constraint, exact.passed, "injected", exact.reason, None, exact.measured, exact.target, exact.distance,
                exact.span,
            )  # fmt: skip
        reason = f"not as asked: {constraint.checker.told()}" if exact.passed else ""
        return Verdict(exact.constraint, not exact.passed, "injected", reason)
