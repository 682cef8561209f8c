"""A chat model as critic: one binary question a constraint, or one call for all; a short reason first and the verdict last.

Separate calls are the more accurate way, one batched call the cheaper one. The answer stands in a fence it cannot close
(`refine/frame.py`). Asked without reasons, the probabilities of yes and no as the first word decide where the back end has
them; asked several times, the share of votes is the confidence. What cannot be read is "cannot tell": no violation, reported.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar

from pydantic import SkipValidation

from amends.chat.client import Client, Completion, Message, Params, Usage
from amends.constraints.constraint import Constraint, Request, Source, Verdict
from amends.core.spec import Count, NonNegative, Part, spec
from amends.refine.asking import ask_all, drawn
from amends.refine.calibration import Calibration, Case, calibrated
from amends.refine.frame import data_note, fenced
from amends.refine.parsing import Said, read_verdict, read_verdicts
from amends.refine.preferring import preference_prompt, read_preference

LIKELIEST = 10
"""Words whose probabilities are asked for, among them the spellings of yes and no."""


@spec
class Judge:
    """A chat model is asked whether each constraint is met: the responder itself, or another model."""

    is_a_model: ClassVar[bool] = True
    """It decides constraints that code could decide as well, and so may be wrong about them."""
    client: Annotated[Any, Part("clients"), SkipValidation] = None
    """The model that judges; None takes the one that answers (a self-critic)."""
    batched: bool = False
    """One call for all constraints of an answer, in place of one call each: cheaper, less accurate."""
    reason: bool = True
    """Whether a reason is asked for, before the verdict; without one, the first word's probabilities give the confidence."""
    votes: Count = 1
    """How often each question is asked; the majority counts, a draw is "cannot tell"."""
    vote_temperature: NonNegative = 0.7
    """Temperature of the second and later votes; the first is drawn at 0."""
    max_tokens: Count = 160
    """The longest verdict, in tokens; a batched one has this for each constraint."""
    seed: int = 0
    """Seed of the first vote; later ones count on from it."""

    async def verdicts(
        self, request: Request, text: str, constraints: Sequence[Constraint], client: Client
    ) -> tuple[tuple[Verdict, ...], Usage]:
        """One verdict each, by as many calls as there are constraints times votes, or votes alone when batched."""
        if not constraints:
            return (), Usage()
        asked, usage = self.client or client, Usage()
        ballots: list[list[tuple[Said, float | None]]] = [[] for _ in constraints]
        prompts = self._prompts(request, text, constraints)
        for vote in range(self.votes):
            for at, done in enumerate(await ask_all(asked, prompts, self._params(vote, len(constraints)))):
                usage = usage + done.usage if isinstance(done, Completion) else usage
                for i, ballot in self._read(done, at, constraints):
                    ballots[i].append(ballot)
        return tuple(counted(c, b, "judge") for c, b in zip(constraints, ballots, strict=True)), usage

    async def calibrate(self, cases: Sequence[Case], client: Client) -> Calibration:
        """This judge against the checkers, on the constraints that have one; the judge does not see what they find."""
        return await calibrated(self, cases, client)

    async def prefers(self, request: Request, first: str, second: str, client: Client) -> tuple[bool | None, Usage]:
        """Whether the first of two answers does more for the task, whatever their form; None where that cannot be read.

        One call, without votes. Raises what the client raises: a call that failed is no answer.
        """
        longest, likeliest = (self.max_tokens, 0) if self.reason else (4, LIKELIEST)
        params = drawn(max_tokens=longest, seed=self.seed, top_logprobs=likeliest)
        done = await (self.client or client).complete(preference_prompt(request, first, second, self.reason), params)
        return read_preference(done.text, done.logprobs), done.usage

    def _params(self, vote: int, many: int) -> Params:
        longest = self.max_tokens * (many if self.batched else 1) if self.reason or self.batched else 4
        temperature = self.vote_temperature if vote else 0.0
        likeliest = 0 if self.reason or self.batched else LIKELIEST
        return drawn(max_tokens=longest, temperature=temperature, seed=self.seed + vote, top_logprobs=likeliest)

    def _prompts(self, request: Request, text: str, constraints: Sequence[Constraint]) -> list[list[Message]]:
        if self.batched:
            return [batch_prompt(request, text, constraints, self.reason)]
        return [single_prompt(request, text, c, self.reason) for c in constraints]

    def _read(
        self, done: Completion | str, at: int, constraints: Sequence[Constraint]
    ) -> list[tuple[int, tuple[Said, float | None]]]:
        """(which constraint, what was said of it and how surely) of one call."""
        where = range(len(constraints)) if self.batched else [at]
        if isinstance(done, str):
            return [(i, (Said(None, "", f"the judge could not be asked: {done}"), None)) for i in where]
        if not self.batched:
            score = None if self.reason else yes_probability(done.logprobs)
            return [(at, (read_verdict(done.text) if score is None else Said(score >= 0.5), score))]
        said = read_verdicts(done.text, [c.id for c in constraints])
        return [(i, (said[constraints[i].id], None)) for i in where]


def single_prompt(request: Request, text: str, constraint: Constraint, reason: bool) -> list[Message]:
    """One question on one constraint."""
    how = (
        "Think of what the constraint asks for and what the answer does: one short sentence of reason. Then, on a line of its "
        "own, write `Verdict: yes` when the answer satisfies it, `Verdict: no` when it does not, or `Verdict: cannot tell`."
        if reason else "Reply with one word: yes when the answer satisfies it, no when it does not."
    )  # fmt: skip
    return _frame(request, text, f"Does the answer satisfy this one constraint, whatever else is right or wrong with it?\n"
                  f"Constraint: {constraint.text}\n\n{how}")  # fmt: skip


def batch_prompt(request: Request, text: str, constraints: Sequence[Constraint], reason: bool) -> list[Message]:
    """One question on all constraints, answered by a JSON list."""
    listed = "\n".join(f"{c.id}: {c.text}" for c in constraints)
    shape = '{"id": "...", "reason": "one short sentence", "verdict": "yes"}' if reason else '{"id": "...", "verdict": "yes"}'
    return _frame(request, text, f"For each constraint by itself: does the answer satisfy it?\n{listed}\n\nReply with a JSON "
                  f"list that has one object for each id, such as {shape}; a verdict is yes, no or cannot tell.")  # fmt: skip


def _frame(request: Request, text: str, question: str) -> list[Message]:
    return [
        Message("system", "You check answers against constraints, strictly and without regard to their other merits."),
        Message("user", f"Request:\n{fenced(request.prompt)}\n\n{data_note(text)}\n\nAnswer:\n{fenced(text)}\n\n{question}"),
    ]


def counted(constraint: Constraint, ballots: Sequence[tuple[Said, float | None]], source: Source) -> Verdict:
    """The majority of the votes that could be read; the confidence of the one vote, or the share of votes for yes."""
    read = [said.passed for said, _ in ballots if said.passed is not None]
    if not read or 2 * sum(read) == len(read):
        draw = "its votes are equally many for yes and for no" if read else "; ".join(s.note for s, _ in ballots if s.note)
        return Verdict(constraint.id, None, source, draw or next((s.reason for s, _ in ballots if s.reason), "cannot tell"))
    passed = 2 * sum(read) > len(read)
    scores = [score for _, score in ballots if score is not None]
    share = sum(scores) / len(scores) if scores else sum(read) / len(read) if len(ballots) > 1 else None
    reason = next((s.reason for s, _ in ballots if s.passed is passed and s.reason), "")
    return Verdict(constraint.id, passed, source, reason, share)


def yes_probability(logprobs: Mapping[str, float] | None) -> float | None:
    """P(yes) / (P(yes) + P(no)) of the first word, over its spellings; None where neither is among the likeliest.

    >>> round(yes_probability({"Yes": -0.1, " no": -2.4}), 3)
    0.909
    """
    mass = {"yes": 0.0, "no": 0.0}
    for word, value in (logprobs or {}).items():
        plain = word.strip(" \n\t*_`\"'▁Ġ.,:").lower()
        if plain in mass and math.isfinite(value):
            mass[plain] += math.exp(value)
    total = mass["yes"] + mass["no"]
    return mass["yes"] / total if total > 0 else None
