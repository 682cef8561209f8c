"""One plain answer: what every other arm is compared with."""

from __future__ import annotations

from amends.chat.client import Client, Params
from amends.constraints.constraint import Request
from amends.core.spec import spec
from amends.refine.answering import Written
from amends.refine.asking import drawn, respond
from amends.refine.parts import Refined
from amends.refine.structured import with_schema


@spec
class Single:
    """One plain answer by one call."""

    params: Params = drawn()
    """How it is drawn."""
    structured: bool = False
    """Whether a server is made to write a JSON object where the request's whole answer is to be JSON."""

    async def answer(self, request: Request, client: Client) -> Refined:
        """The answer."""
        written = Written(request, client)
        params = with_schema(self.params, request, self.structured)
        asked = await written.ask(respond(request), params, "writing the answer")
        if asked.failed is None:
            written.add(asked.text, asked.usage, "response")
        return written.result(asked.failed or "max_rounds")
