"""Best of N: several answers to the same question, the best chosen by a critic, at the cost of a loop if wanted.

The first is drawn as every arm's first answer is, the others at a temperature. With the checkers as critic it is the oracle
that refining has to beat at equal calls; with the loop's own critic it shows what the rewriting adds to the choosing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Any

from pydantic import SkipValidation

from amends.chat.client import BudgetSpent, Client, Params
from amends.constraints.constraint import Request
from amends.core.errors import UserError
from amends.core.spec import Count, NonNegative, Part, spec
from amends.refine.answering import Written
from amends.refine.asking import calls_for, cause, drawn, metered, respond
from amends.refine.critics.programmatic import Programmatic
from amends.refine.decomposers.gold import Gold
from amends.refine.guard import guard
from amends.refine.parts import Refined, StopReason
from amends.refine.scoring import aligned, score, settled, tally


@spec
class BestOf:
    """Several answers to the plain request, of which a critic chooses the best."""

    n: Count = 4
    """Answers."""
    calls: Count | Mapping[str, int] | None = None
    """Calls that a request may cost, the critic's included, in place of `n`: one number, or one for each request's
    id, to match another arm."""
    decomposer: Annotated[Any, Part("decomposers"), SkipValidation] = Gold()
    """Who says which constraints the critic is to look at."""
    critic: Annotated[Any, Part("critics"), SkipValidation] = Programmatic()
    """Who chooses: the checkers as an oracle, or the critic of the loop it is compared with."""
    temperature: NonNegative = 0.8
    """Of the second and later answers."""
    stop_early: bool = True
    """Whether an answer that meets every constraint ends the drawing."""
    params: Params = drawn()
    """How the first is drawn."""

    async def answer(self, request: Request, client: Client) -> Refined:
        """The chosen answer; every one of them is among the attempts."""
        written = Written(request, client)
        stopped: StopReason | None = await self._decompose(written)
        allowed = calls_for(self.calls, request)
        while stopped is None:
            k, before = len(written.attempts), written.usage.calls
            temperature = self.temperature if k else self.params.temperature
            params = replace(self.params, temperature=temperature, seed=self.params.seed + k)
            asked = await written.ask(respond(request), params, f"drawing answer {k}")
            stopped = asked.failed
            if stopped is None:
                written.add(asked.text, asked.usage, "sample" if k else "response")
                stopped = await self._judge(written)
            if stopped is None and not self._room(written, allowed, written.usage.calls - before):
                stopped = "max_rounds"
        return written.result(stopped, self._best(written))

    def _room(self, written: Written, allowed: int | None, last_cost: int) -> bool:
        """Whether another answer fits: as costly as the last one, and at least a call."""
        drawn = len(written.attempts)
        if allowed is None:
            return drawn < self.n
        return max(written.usage.calls, drawn) + max(last_cost, 1) <= allowed

    async def _decompose(self, written: Written) -> StopReason | None:
        with metered(written.client) as meter:
            try:
                constraints, usage, notes = await self.decomposer.decompose(written.request, meter)
            except UserError:
                raise
            except Exception as error:
                written.usage = written.usage + meter.usage
                written.notes.append(f"the request could not be decomposed: {cause(error)}")
                return "budget" if isinstance(error, BudgetSpent) else "client_error"
        written.request, written.usage = replace(written.request, constraints=constraints), written.usage + usage
        written.notes += notes
        return None

    async def _judge(self, written: Written) -> StopReason | None:
        last, constraints = written.attempts[-1], written.request.constraints
        with metered(written.client) as meter:
            try:
                said, usage = await self.critic.verdicts(written.request, last.text, constraints, meter)
            except UserError:
                raise
            except Exception as error:  # what it asked before it failed was paid for
                written.usage = written.usage + meter.usage
                written.attempts[-1] = replace(last, usage=last.usage + meter.usage)
                written.notes.append(f"answer {last.k} could not be criticised: {cause(error)}")
                return "budget" if isinstance(error, BudgetSpent) else "critic_error"
        verdicts = settled(aligned(said, constraints), constraints)
        written.usage = written.usage + usage
        written.attempts[-1] = replace(last, verdicts=verdicts, usage=last.usage + usage)
        return "all_pass" if self.stop_early and verdicts and tally(verdicts).all_pass else None

    def _best(self, written: Written) -> int:
        by_id = {c.id: c for c in written.request.constraints}
        attempts = written.attempts
        scores = [score(a, by_id, a.text, guard(a.text, attempts[0].text, written.request).quality) for a in attempts]
        return max(range(len(scores)), key=scores.__getitem__, default=0)
