"""Self-Refine (arXiv 2303.17651): the same model gives free feedback on its whole answer, then rewrites it by that feedback.

No constraint is named and nothing is gated by one; it ends when the feedback says that there is nothing left to improve.
The prompts are this project's own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from amends.chat.client import Client, Message, Params
from amends.constraints.constraint import Request
from amends.core.spec import Count, spec
from amends.refine.answering import Written
from amends.refine.asking import Asked, calls_for, drawn, respond
from amends.refine.frame import data_note, fenced
from amends.refine.parts import Attempt, Refined
from amends.refine.rewrite import answer_in

ENOUGH = "NOTHING TO IMPROVE"


@spec
class SelfRefine:
    """The model criticises its own answer as a whole and rewrites it by that; the last version counts."""

    rounds: Count = 3
    """Feedback and rewrite, at most so often: two calls each."""
    calls: Count | Mapping[str, int] | None = None
    """Calls that a request may cost, in place of `rounds`: one number, or one for each request's id, to match another arm."""
    feedback_tokens: Count = 300
    """The longest feedback, in tokens."""
    params: Params = drawn()
    """How answers are drawn."""

    async def answer(self, request: Request, client: Client) -> Refined:
        """The last rewrite."""
        written = Written(request, client)
        allowed = calls_for(self.calls, request)
        asked = await written.ask(respond(request), self.params, "writing the answer")
        if asked.failed:
            return written.result(asked.failed)
        last = written.add(asked.text, asked.usage, "response")
        for k in range(1, 1 + (self.rounds if allowed is None else (allowed - 1) // 2)):
            advice, rewrite = await self._round(written, last, k)
            if rewrite is None:
                return written.result(advice.failed or "all_pass")
            if rewrite.failed:
                return written.result(rewrite.failed)
            sent = by_feedback_messages(request, last.text, advice.text)
            text = answer_in(rewrite.text, sent, last.text, request, advice.text) or last.text
            last = written.add(text, advice.usage + rewrite.usage, "refinement", last.k)
        return written.result("max_rounds")

    async def _round(self, written: Written, last: Attempt, k: int) -> tuple[Asked, Asked | None]:
        """Feedback, and the rewrite unless the feedback fails or has nothing to say."""
        request = written.request
        params = replace(self.params, seed=self.params.seed + k)
        short = replace(params, max_tokens=self.feedback_tokens)
        advice = await written.ask(feedback_messages(request, last.text), short, f"looking at version {last.k}")
        if advice.failed or ENOUGH.lower() in advice.text.lower():
            written.notes += [] if advice.failed else [f"the model found nothing to improve in version {last.k}"]
            return advice, None
        messages = by_feedback_messages(request, last.text, advice.text)
        return advice, await written.ask(messages, params, f"rewriting version {last.k}")


def feedback_messages(request: Request, text: str) -> list[Message]:
    """The order to find faults."""
    return [
        Message("user", f"Request:\n{fenced(request.prompt)}\n\n{data_note(text)}\n\nAnswer:\n{fenced(text)}\n\nSay what "
                f"should be better about this answer, in a few concrete points. If it is as good as it can be, reply {ENOUGH}.")
    ]  # fmt: skip


def by_feedback_messages(request: Request, text: str, advice: str) -> list[Message]:
    """The order to rewrite by the feedback."""
    return [
        Message("user", f"Request:\n{fenced(request.prompt)}\n\n{data_note(text)}\n\nCurrent answer:\n{fenced(text)}\n\n"
                f"Feedback:\n{fenced(advice)}\n\nRewrite the answer by this feedback. "
                "Return the whole answer and nothing else.")
    ]  # fmt: skip
