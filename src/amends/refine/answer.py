"""An arm as a stage of a run: every request of a role is answered, several at once; what is finished is never asked again.

An arm is a spec with `answer(request, client) -> Refined`, which is all that it takes to be compared with others in a recipe.
Finished requests are appended to `answered.jsonl` one by one, so a killed run or a server that dies loses nothing: the next run
asks for the rest. Arms that draw answers draw others under each of the run's seeds; greedy ones are the same under all.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar, NamedTuple

from pydantic import SkipValidation

from amends.chat.client import Client, ClientError, Completion, Message, Params
from amends.chat.pool import Book, mapped
from amends.constraints.constraint import Request
from amends.core.errors import UserError
from amends.core.protocols import Context
from amends.core.rng import stream_seed
from amends.core.spec import Count, Natural, Part, spec
from amends.core.types import Role, Sample
from amends.data.bundle import Bundle
from amends.data.instructed import request_of
from amends.refine.calibration import Case
from amends.refine.ledger import to_json

ANSWERED = "answered.jsonl"


class Answered(NamedTuple):
    """What the stage hands back."""

    steps: int
    """Requests that were answered now, and not taken from an interrupted run."""
    stopped: str | None = None


@spec
class Answer:
    """Answers every request of some roles by one arm: a plain call, DeCRIM's loop, the best of several, ..."""

    starts: ClassVar[str] = "any"
    keeps_weights: ClassVar[bool] = True
    by: Annotated[Any, Part("arms"), SkipValidation]
    """How an answer comes about."""
    on: tuple[Role, ...] = ("test",)
    """The roles whose requests are answered."""
    at_once: Count = 16
    """Requests under way at a time; the client bounds its own calls besides."""
    matched: bool = False
    """Give each request as many calls as the stage in `from:` made for it, the critic's among them: for arms with `calls`."""
    calibrate: Natural = 0
    """Hold the critic first against the checkers on so many answers of the stage in `from:`: where it is no better than chance
    a warning says so, and it is not asked there if the arm has `switch_off`."""

    def __call__(self, subject: Any, data: Bundle, run: Context) -> Answered:
        """Leaves the records in the subject. Raises UserError where requests got no answer; the others are kept."""
        rows = data.together(self.on)
        client = Replication(subject.client, run.seed)
        requests = [request_of(row) for row in rows]
        by = self._calibrated(rows, subject.records, client, run) if self.calibrate else self.by
        arms = {request.id: self._arm(by, request, subject.records) for request in requests}

        async def answered(request: Request) -> dict[str, Any]:
            refined = await arms[request.id].answer(request, client)
            if refined.stopped == "client_error" or (refined.stopped == "budget" and not refined.text):
                raise ClientError("; ".join(refined.notes) or "no cause was given")
            return {**to_json(refined), "text": refined.text}

        with run.progress("answering", len(requests)) as bar:
            book = None if run.folder is None else Book(run.folder / ANSWERED, dict, dict)
            outcomes = asyncio.run(
                mapped(answered, requests, self.at_once, [r.id for r in requests], book, lambda *_: bar.advance())
            )
        lost = [(r.id, o.error) for r, o in zip(requests, outcomes, strict=True) if o.error is not None]
        new = sum(o.error is None and not o.resumed for o in outcomes)
        run.log(answered=new, lost=len(lost))
        if lost:
            raise UserError(
                f"{len(lost)} of {len(rows)} requests got no answer, such as {lost[0][0]}: {lost[0][1]}; the others are kept: "
                "run again to ask for the rest"
            )
        subject.records = {r.id: o.value for r, o in zip(requests, outcomes, strict=True) if o.value is not None}
        return Answered(new)

    def objective_on(self, data: Bundle) -> tuple[()]:
        """Raises UserError for a role that is missing, for rows that ask nothing, and for an arm that cannot be matched."""
        rows = data.together(self.on)
        if not rows:
            raise UserError("on: give at least one role with requests to answer")
        for row in rows:
            request_of(row)
        if self.matched and not hasattr(self.by, "calls"):
            raise UserError(f"matched: {type(self.by).__name__} takes no number of calls; best_of does")
        if self.calibrate and not (hasattr(self.by, "calibration") and hasattr(self.by.critic, "calibrate")):
            raise UserError(
                f"calibrate: {type(self.by).__name__} has no critic that can be calibrated; decrim with a judge has"
            )
        return ()

    def _calibrated(self, rows: Sequence[Sample], earlier: Mapping[str, Any], client: Client, run: Context) -> Any:
        """The arm with its critic's calibration; the same answers each time, spread over the rows."""
        known = [row for row in rows if row.id in earlier]
        if not known:
            raise UserError("calibrate: the stage in `from:` answered none of these requests: name one that did")
        chosen = known[:: max(1, len(known) // self.calibrate)][: self.calibrate]
        cases = [Case(request_of(row), str(earlier[row.id]["text"])) for row in chosen]
        found = asyncio.run(self.by.critic.calibrate(cases, client))
        for category, rates in found.by_category.items():
            if rates.warning:
                run.say(f"the critic on {category or 'all constraints'}: {rates.warning} ({rates.n} verdicts)")
        run.log(tpr=found.overall.tpr.value, tnr=found.overall.tnr.value, verdicts=found.overall.n)
        return replace(self.by, calibration=found)

    def _arm(self, by: Any, request: Request, earlier: Mapping[str, Any]) -> Any:
        if not self.matched:
            return by
        if request.id not in earlier:
            raise UserError(f"matched: the stage in `from:` did not answer {request.id}: name one that answers the same roles")
        return replace(by, calls=max(1, int(earlier[request.id]["usage"]["calls"])))


@dataclass(frozen=True)
class Replication:
    """A client whose drawn answers differ from seed to seed; greedy ones are the same, and a cache knows them."""

    client: Client
    seed: int

    @property
    def name(self) -> str:
        """The client's."""
        return self.client.name

    async def complete(self, messages: Sequence[Message], params: Params) -> Completion:
        """The client's answer, drawn from this seed's stream."""
        if params.temperature > 0:
            params = replace(params, seed=stream_seed(self.seed, "answers", params.seed) % 2**31)
        return await self.client.complete(messages, params)
