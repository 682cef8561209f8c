"""A critic that was trained: a model that answers a fixed frame with yes or no (DeCRIM's weak critic, arXiv 2410.06458).

The frame is `refine/frame.py: critic_prompt`, which the exported training rows use too, so that a model is asked what it
learned. Its labels are exact where checkers made them; the paper's own labels, sizes and schedule are not known to this
project. Report the rates on the violated class (`calibrate`), held out by request, and not its accuracy: most constraints
are met.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, ClassVar

from pydantic import SkipValidation

from amends.chat.client import Client, Completion, Message, Usage
from amends.constraints.constraint import Constraint, Request, Verdict
from amends.core.spec import Count, Fraction, Part, spec
from amends.refine.asking import ask_all, drawn
from amends.refine.calibration import Calibration, Case, calibrated
from amends.refine.critics.judge import LIKELIEST, counted, yes_probability
from amends.refine.frame import critic_prompt
from amends.refine.parsing import Said, read_verdict


@spec
class Supervised:
    """A model that was fine-tuned to answer a fixed frame with yes or no judges each constraint by one call."""

    is_a_model: ClassVar[bool] = True
    """It decides constraints that code could decide as well, and so may be wrong about them."""
    client: Annotated[Any, Part("clients"), SkipValidation] = None
    """The fine-tuned model; None takes the one that answers."""
    threshold: Fraction = 0.5
    """Probability of yes from which a constraint counts as met, where the back end gives probabilities."""
    max_tokens: Count = 4
    """The longest verdict, in tokens."""

    async def verdicts(
        self, request: Request, text: str, constraints: Sequence[Constraint], client: Client
    ) -> tuple[tuple[Verdict, ...], Usage]:
        """One call a constraint, all at once."""
        prompts = [[Message("user", critic_prompt(request, c, text))] for c in constraints]
        params = drawn(max_tokens=self.max_tokens, top_logprobs=LIKELIEST)
        done = await ask_all(self.client or client, prompts, params) if prompts else []
        verdicts = tuple(self._verdict(c, d) for c, d in zip(constraints, done, strict=True))
        return verdicts, sum((d.usage for d in done if isinstance(d, Completion)), Usage())

    async def calibrate(self, cases: Sequence[Case], client: Client) -> Calibration:
        """This critic against the checkers, on the constraints that have one."""
        return await calibrated(self, cases, client)

    def _verdict(self, constraint: Constraint, done: Completion | str) -> Verdict:
        if isinstance(done, str):
            return Verdict(constraint.id, None, "supervised", f"the critic could not be asked: {done}")
        score = yes_probability(done.logprobs)
        said = read_verdict(done.text) if score is None else Said(score >= self.threshold)
        return counted(constraint, [(said, score)], "supervised")
