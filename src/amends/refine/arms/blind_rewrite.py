"""A rewrite without any feedback: what a second look is worth by itself, apart from what a critic says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from amends.chat.client import Client, Message, Params
from amends.constraints.constraint import Request
from amends.core.spec import Count, spec
from amends.refine.answering import Written
from amends.refine.asking import calls_for, drawn, respond
from amends.refine.frame import data_note, fenced
from amends.refine.parts import Refined
from amends.refine.rewrite import answer_in


@spec
class BlindRewrite:
    """The answer is rewritten with the order to improve it, and no word on what is wrong; the last version counts."""

    rounds: Count = 1
    """Rewrites."""
    calls: Count | Mapping[str, int] | None = None
    """Calls that a request may cost, in place of `rounds`: one number, or one for each request's id, to match another arm."""
    params: Params = drawn()
    """How answers are drawn."""

    async def answer(self, request: Request, client: Client) -> Refined:
        """The last rewrite."""
        written = Written(request, client)
        allowed = calls_for(self.calls, request)
        asked = await written.ask(respond(request), self.params, "writing the answer")
        for k in range(1, 1 + (self.rounds if allowed is None else allowed - 1)):
            if asked.failed:
                break
            parent = written.add(asked.text, asked.usage, "refinement" if k > 1 else "response", k - 2 if k > 1 else None)
            params = replace(self.params, seed=self.params.seed + k)
            sent = blind_messages(request, parent.text)
            asked = await written.ask(sent, params, f"rewriting version {parent.k}")
            asked = replace(asked, text=answer_in(asked.text, sent, parent.text, request) or parent.text)
        if asked.failed is None:
            last = len(written.attempts)
            written.add(asked.text, asked.usage, "refinement" if last else "response", last - 1 if last else None)
        return written.result(asked.failed or "max_rounds")


def blind_messages(request: Request, text: str) -> list[Message]:
    """The order to improve."""
    return [
        Message("user", f"Improve an answer to the request below.\n\nRequest:\n{fenced(request.prompt)}\n\n"
                f"{data_note(text)}\n\nCurrent answer:\n{fenced(text)}\n\nReturn the whole improved answer and nothing else.")
    ]  # fmt: skip
