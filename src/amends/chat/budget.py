"""What may be spent: calls, tokens, seconds. A call that could go beyond it is not made.

What an answer costs is known afterwards, so a call first sets aside the most it can cost: `max_tokens` new tokens, and as
many for the prompt as it has bytes of UTF-8, and some for the chat template (a token is at least a byte). What was not used
is given back. A call for which nothing is left waits as long as others that are under way may give back enough. Around a
cache, a budget that is used up refuses kept answers too, since it cannot know that they are; inside it does not.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from time import monotonic

from amends.chat.client import BudgetSpent, Client, Completion, Message, Params, Usage

TEMPLATE_TOKENS, TURN_TOKENS = 64, 8
"""What a chat template may add to a prompt, once and for each message."""


def most_tokens(messages: Sequence[Message], params: Params) -> int:
    """No call of these messages costs more tokens, prompt and answer, where tokens are pieces of bytes."""
    prompt = sum(len(m.content.encode("utf-8", "surrogatepass")) + TURN_TOKENS for m in messages)
    return prompt + TEMPLATE_TOKENS + params.max_tokens


class Budget:
    """A client that is asked only as long as there is something left; None is no limit.

    Args:
        inner: whom to ask.
        calls: answers, at most; one from a cache inside costs none, a failed one costs one.
        tokens: of prompts and answers together, at most, where the server keeps to `max_tokens`.
        seconds: from the first call on; a call that is under way when they end is broken off.
    """

    def __init__(
        self, inner: Client, calls: int | None = None, tokens: int | None = None, seconds: float | None = None
    ) -> None:  # fmt: skip
        self.inner = inner
        self.calls, self.tokens, self.seconds = calls, tokens, seconds
        self.spent = Usage()
        """What was spent so far."""
        self._aside = Usage()
        self._began: float | None = None
        self._gates: list[asyncio.Future[None]] = []

    @property
    def name(self) -> str:
        """The inner client's."""
        return self.inner.name

    async def complete(self, messages: Sequence[Message], params: Params) -> Completion:
        """The inner client's answer; raises BudgetSpent before a call that is not allowed."""
        self._began = monotonic() if self._began is None else self._began
        aside = Usage(1, most_tokens(messages, params) - params.max_tokens, params.max_tokens)
        clock = asyncio.timeout(self._left())
        try:
            async with clock:
                while not self._allowed(aside):
                    gate = asyncio.get_running_loop().create_future()
                    self._gates.append(gate)
                    await gate
                self._aside += aside
                cost = Usage(1)  # of a call that fails
                try:
                    made = await self.inner.complete(messages, params)
                    told = made.usage.prompt_tokens or made.usage.new_tokens
                    cost = (
                        Usage()
                        if made.cached
                        else made.usage
                        if told
                        else Usage(made.usage.calls, aside.prompt_tokens, aside.new_tokens)
                    )
                finally:
                    self._settle(aside, cost)
        except TimeoutError:
            if not clock.expired():
                raise
            raise BudgetSpent(f"the {self.seconds:g} seconds that were allowed are over") from None
        return made

    def _left(self) -> float | None:
        if self.seconds is None or self._began is None:
            return None
        left = self._began + self.seconds - monotonic()
        if left <= 0:
            raise BudgetSpent(f"the {self.seconds:g} seconds that were allowed are over")
        return left

    def _allowed(self, more: Usage) -> bool:
        """Whether a call fits now. Raises BudgetSpent where it would not fit even if all that is under way cost nothing."""
        over = self._over(self.spent + more)
        if over:
            spent = f"{self.spent.calls} calls and {_tokens(self.spent)} tokens were spent"
            raise BudgetSpent(f"not enough is left of the {over} that were allowed for another call; {spent}")
        return not self._over(self.spent + self._aside + more)

    def _over(self, used: Usage) -> str:
        if self.calls is not None and used.calls > self.calls:
            return f"{self.calls} calls"
        return f"{self.tokens} tokens" if self.tokens is not None and _tokens(used) > self.tokens else ""

    def _settle(self, aside: Usage, cost: Usage) -> None:
        self._aside = Usage(
            self._aside.calls - aside.calls, self._aside.prompt_tokens - aside.prompt_tokens,
            self._aside.new_tokens - aside.new_tokens,
        )  # fmt: skip
        self.spent += cost
        gates, self._gates = self._gates, []
        for gate in gates:
            if not gate.done():
                gate.set_result(None)


def _tokens(usage: Usage) -> int:
    return usage.prompt_tokens + usage.new_tokens
