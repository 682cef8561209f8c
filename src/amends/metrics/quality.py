"""Whether a complying answer is still a good one: a judge compares it with the reference arm's answer to the same request.

Constraints alone reward short and empty text, so a judge is asked which of two answers does more for the task, form left aside.
Models favour a place, so each pair is shown in both orders (as in MT-Bench, arXiv 2306.05685): an answer is preferred only
where both orders say so, anything else is a tie. The share of pairs on which the orders agree says how much of the judgement is
about the answers: a judge that looks at the place alone agrees with itself on none, one that tosses a coin on half of them.
Equal texts are ties and are not asked about.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from functools import cached_property
from typing import Annotated, Any, ClassVar, Literal, NamedTuple

import numpy as np
from pydantic import SkipValidation

from amends.constraints.constraint import Request
from amends.core import fingerprint
from amends.core.errors import UserError
from amends.core.paired import mcnemar
from amends.core.rng import stream_seed
from amends.core.spec import Count, Part, spec
from amends.core.types import Better, Measurement, Role
from amends.data.instructed import request_of
from amends.metrics.compliance import records, requests_of
from amends.metrics.evaluation import Evaluation
from amends.metrics.judging import ITSELF, asked, judge_of, judges_itself, print_of
from amends.metrics.stats import interval, share_measurement

NO_BETTER = "a coin would contradict itself no more often: this judge is not to be believed"


class Compared(NamedTuple):
    """One request's two answers, shown in both orders; None where an order could not be read."""

    own_first: bool | None
    """Whether the arm's answer is preferred where it stands first."""
    own_second: bool | None
    """Whether it is preferred where it stands second."""

    @property
    def read(self) -> bool:
        """Whether both orders could be read."""
        return self.own_first is not None and self.own_second is not None

    @property
    def score(self) -> float:
        """1 where both orders prefer the arm's answer, -1 where both prefer the other, else 0."""
        return 0.0 if not self.read or self.own_first is not self.own_second else 1.0 if self.own_first else -1.0


@spec
class Quality:
    """How much more often a judge prefers the arm's answer to the reference arm's than the other way round."""

    version: ClassVar[int] = 1
    needs_reference: ClassVar[bool] = True
    role: Role = "test"
    """Whose answers are compared."""
    judge: Annotated[Any, Part("critics"), SkipValidation] = None
    """Who compares, such as `{use: judge, client: ...}`. Without one, the model that answers, asked for one letter."""
    what: Literal["preferred", "consistent"] = "preferred"
    """Wins less losses, as a share of requests; or the share of pairs on which the two orders agree."""
    limit: Count | None = None
    """At most so many requests, the same for every arm, drawn from a stream of their own; None takes all."""

    @property
    def name(self) -> str:
        """`quality.test`, or `quality.test.consistent`."""
        return f"quality.{self.role}{'.consistent' if self.what == 'consistent' else ''}"

    @property
    def better(self) -> Better:
        """More is better."""
        return "higher"

    def roles(self) -> frozenset[Role]:
        """The one role."""
        return frozenset({self.role})

    def measure(self, evaluation: Evaluation, against: Evaluation | None = None) -> Measurement:
        """Win rate less loss rate in -1..1, ties counting 0, with a bootstrap over requests; or the orders' agreement."""
        if against is None:
            raise UserError(f"{self.name}: compares with another stage: name it as the recipe's `against`")
        judge = judge_of(self.judge)
        if not hasattr(judge, "prefers"):
            raise UserError(f"{self.name}: judge: {type(judge).__name__} cannot compare two answers: take `use: judge`")
        rows = self._rows(evaluation)
        found = self._compared(evaluation, against, judge, rows)
        return self._consistent(found, judge) if self.what == "consistent" else self._preferred(found, judge, rows)

    @cached_property
    def _memo(self) -> dict[str, Any]:
        return {}

    def _rows(self, evaluation: Evaluation) -> dict[str, Request]:
        """The requests that are compared, whatever the order of the data's rows."""
        requests = {s.id: request_of(s) for s in requests_of(evaluation, self.role)}
        ids = sorted(requests)
        stream = np.random.default_rng(stream_seed(evaluation.seed, "quality", self.role))
        return {ids[i]: requests[ids[i]] for i in sorted(stream.permutation(len(ids))[: self.limit])}

    def _compared(
        self, evaluation: Evaluation, against: Evaluation, judge: Any, rows: Mapping[str, Request]
    ) -> dict[str, Compared]:  # fmt: skip
        """The requests whose two answers differ, with what the judge says of them."""
        own, other = (records(e, self.role) for e in (evaluation, against))
        pairs = {row: (str(own[row]["text"]), str(other[row]["text"])) for row in rows}
        pairs = {row: pair for row, pair in pairs.items() if pair[0] != pair[1]}
        mark = print_of(judge)
        key = f"quality/{self.role}/{fingerprint.of(mark, pairs)}"

        def ask() -> dict[str, list[bool | None]]:
            work, places = {}, {}
            for row, (mine, theirs) in pairs.items():
                for first, second in ((mine, theirs), (theirs, mine)):
                    place = fingerprint.of(mark, rows[row].prompt, first, second)
                    work[place] = _question(judge, rows[row], first, second)
                    places.setdefault(row, []).append(place)
            said = asked(evaluation, judge, work, "comparing", "compared.jsonl", self._memo)
            return {row: [said[place] for place in both] for row, both in places.items()}

        said = evaluation.once(key, ask)
        return {row: Compared(first, None if second is None else not second) for row, (first, second) in said.items()}

    def _preferred(self, found: Mapping[str, Compared], judge: Any, rows: Mapping[str, Request]) -> Measurement:
        scores = {row: found[row].score if row in found else 0.0 for row in rows}
        values = np.array(list(scores.values()))
        low, high = interval([values], np.mean, paired=False)
        won, lost = int((values > 0).sum()), int((values < 0).sum())
        note = f"{won} won, {lost} lost, {len(values) - won - lost} ties, {len(rows) - len(found)} of them equal texts; " \
               f"p = {mcnemar(won, lost):.2g}; {_about(found, judge)}"  # fmt: skip
        return Measurement(
            self.name, float(values.mean()), low, high, len(values), self.better, self.version, note=note, scores=scores
        )

    def _consistent(self, found: Mapping[str, Compared], judge: Any) -> Measurement:
        scores = {row: float(c.own_first is c.own_second) for row, c in found.items() if c.read}
        note = _about(found, judge)
        if not scores:
            return Measurement(self.name, np.nan, np.nan, np.nan, 0, self.better, self.version, note=note)
        return share_measurement(self.name, scores, self.better, version=self.version, note=note)


def _question(judge: Any, request: Request, first: str, second: str) -> Callable[[Any], Awaitable[Any]]:
    async def ask(client: Any) -> bool | None:
        return (await judge.prefers(request, first, second, client))[0]

    return ask


def _about(found: Mapping[str, Compared], judge: Any) -> str:
    """How often the two orders contradict one another, which is what the place of an answer does and not its content."""
    read = [c for c in found.values() if c.read]
    against = sum(c.own_first is not c.own_second for c in read)
    said = f"the two orders contradict one another on {against} of {len(read)} pairs" if read else "no pair was judged"
    more = [NO_BETTER] if 2 * against >= len(read) > 0 else []
    more += [f"{len(found) - len(read)} pairs could not be read"] if len(read) < len(found) else []
    return "; ".join([said, *more, *([ITSELF] if judges_itself(judge) else [])])
