"""One answer to the request with a sentence behind it that asks to follow every constraint: the cheapest remedy there is."""

from __future__ import annotations

from amends.chat.client import Client, Message, Params
from amends.constraints.constraint import Request
from amends.core.spec import spec
from amends.refine.answering import Written
from amends.refine.asking import drawn
from amends.refine.parts import Refined


@spec
class Suffix:
    """One answer, with the order to follow every constraint behind the request."""

    sentence: str = "Before you answer, make sure that the answer follows every constraint of this request."
    """What is put behind the request."""
    params: Params = drawn()
    """How it is drawn."""

    async def answer(self, request: Request, client: Client) -> Refined:
        """The answer."""
        written = Written(request, client)
        messages = [Message("user", f"{request.prompt}\n\n{self.sentence}")]
        asked = await written.ask(messages, self.params, "writing the answer")
        if asked.failed is None:
            written.add(asked.text, asked.usage, "response")
        return written.result(asked.failed or "max_rounds")
