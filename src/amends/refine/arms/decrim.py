"""DeCRIM as one arm (arXiv 2410.06458); the loop itself is `refine/loop.py`."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import SkipValidation

from amends.chat.client import Client, Params
from amends.constraints.constraint import Request
from amends.core.spec import Count, Natural, NonNegative, Part, Positive, spec
from amends.refine.asking import drawn
from amends.refine.critics.mixed import Mixed
from amends.refine.decomposers.asked import Asked
from amends.refine.loop import run_loop
from amends.refine.parts import Refined


@spec
class DeCRIM:
    """Decompose, critique each constraint, refine what is violated; the best version counts, and why it ended is said."""

    decomposer: Annotated[Any, Part("decomposers"), SkipValidation] = Asked()
    """Who says which constraints a request holds."""
    critic: Annotated[Any, Part("critics"), SkipValidation] = Mixed()
    """Who says whether each holds."""
    rounds: Natural = 10
    """Rewrites by the model at most; repairs by code are not counted."""
    repair: bool = True
    """Whether code mends what it can safely mend before the model is asked."""
    keep_best: bool = True
    """Whether the best version is returned; off, the last one, as an ablation."""
    from_best: bool = True
    """Whether the best version is rewritten; off, the newest, even where it broke more than it mended."""
    patience: Count | None = 3
    """Rounds in a row without a better version after which it ends; None for never."""
    retry_temperature: NonNegative = 0.7
    """Least temperature of a rewrite whose forerunner from the same version did not help: greedy decoding would repeat it."""
    guard_first: bool = False
    """Whether a version that the guard warns of counts less than any it does not, whatever its constraints."""
    switch_off: bool = True
    """Whether a critic that its calibration shows to be no better than chance is not asked."""
    calibration: Annotated[Any, SkipValidation] = None
    """What the critic's `calibrate` returned; None where it was not calibrated."""
    max_calls: Count | None = None
    """Calls of any model, looked at before each step; a step under way is finished."""
    max_tokens: Count | None = None
    """Tokens read and written, looked at likewise."""
    max_seconds: Positive | None = None
    """Seconds that models took, looked at likewise."""
    params: Params = drawn()
    """How answers and rewrites are drawn."""
    structured: bool = False
    """Whether a server is made to write a JSON object where the request's whole answer is to be JSON."""

    async def answer(self, request: Request, client: Client) -> Refined:
        """The loop on one request."""
        return await run_loop(request, client, self)
