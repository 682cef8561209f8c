"""The budget around a client: what calls may cost, however many come at once."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from chat_world import Echo, ask, say
from hypothesis import given
from hypothesis import strategies as st

from amends.chat.budget import Budget, most_tokens
from amends.chat.cached import Cached
from amends.chat.client import BudgetSpent, ClientError, Completion, Message, Params, Usage


@given(st.integers(0, 12), st.integers(1, 9), st.integers(0, 4))
def test_calls_are_never_more_than_allowed_however_many_come_at_once(allowed: int, wanted: int, turns: int) -> None:
    echo = Echo(turns=turns)

    async def go() -> list[Any]:
        budget = Budget(echo, calls=allowed)
        return await asyncio.gather(*(budget.complete(say("a"), Params()) for _ in range(wanted)), return_exceptions=True)

    made = asyncio.run(go())
    assert len(echo.asked) == min(allowed, wanted)
    assert sum(isinstance(m, BudgetSpent) for m in made) == max(0, wanted - allowed)


@given(st.integers(0, 1200), st.lists(st.tuples(st.integers(1, 60), st.integers(0, 9)), min_size=1, max_size=8))
def test_tokens_are_never_more_than_allowed(allowed: int, calls: list[tuple[int, int]]) -> None:
    """Whatever each answer costs, up to the limits that it was asked with."""

    class Costly:
        name = "costly"
        spent = 0

        async def complete(self, messages: Sequence[Message], params: Params) -> Completion:
            new, turns = params.max_tokens, params.seed
            for _ in range(turns):
                await asyncio.sleep(0)
            prompt = most_tokens(messages, params) - params.max_tokens
            Costly.spent += prompt + new
            return Completion("x", Usage(1, prompt, new))

    Costly.spent = 0
    budget = Budget(Costly(), tokens=allowed)

    async def go() -> list[Any]:
        each = (budget.complete(say("a"), Params(max_tokens=m, seed=t)) for m, t in calls)
        return await asyncio.gather(*each, return_exceptions=True)

    made = asyncio.run(go())
    assert Costly.spent <= allowed and budget.spent.prompt_tokens + budget.spent.new_tokens == Costly.spent
    assert all(isinstance(m, (Completion, BudgetSpent)) for m in made)
    assert budget._aside == Usage()


def test_what_was_set_aside_and_not_used_is_given_back() -> None:
    """Calls may cost 100 at most and cost 7: one after another all four fit into 120, and at once they wait for it."""
    params = {"max_tokens": 27}
    assert most_tokens(say("a"), Params(**params)) == 100
    for at_once in (True, False):
        budget = Budget(Echo(), tokens=121)
        made = ask(budget, *"abcd", **params) if at_once else [m for t in "abcd" for m in ask(budget, t, **params)]
        assert len(made) == 4 and budget.spent.prompt_tokens + budget.spent.new_tokens == 28
    with pytest.raises(BudgetSpent, match=r"the 99 tokens that were allowed .* 0 calls and 0 tokens were spent"):
        ask(Budget(Echo(), tokens=99), "a", **params)


def test_a_server_that_tells_no_usage_is_charged_the_most() -> None:
    budget = Budget(Echo(cost=Usage(1)), tokens=250)
    ask(budget, "a", max_tokens=27)
    assert budget.spent.prompt_tokens + budget.spent.new_tokens == 100


def test_seconds_end_a_call_that_is_under_way_and_forbid_the_next() -> None:
    echo = Echo(hangs=True)
    budget = Budget(echo, seconds=0.3)
    for _ in range(2):
        with pytest.raises(BudgetSpent, match="the 0.3 seconds"):
            ask(budget, "a")
    assert echo.asked == ["a"]


def test_failed_and_cancelled_calls_are_calls() -> None:
    budget = Budget(Echo(fails_on="a"), calls=2)
    with pytest.raises(ClientError):
        ask(budget, "a")
    assert budget.spent == Usage(1)

    async def cancelled() -> None:
        await asyncio.wait_for(Budget(Echo(hangs=True), calls=2).complete(say("a"), Params()), 0.01)

    with pytest.raises(TimeoutError):  # the caller's own, not the budget's
        asyncio.run(cancelled())


def test_cached_answers_cost_nothing(tmp_path: Path) -> None:
    """Inside the cache a budget is asked for nothing that is kept; outside it has to allow a call before it knows."""
    inside = Cached(Budget(Echo(), calls=1), tmp_path / "c")
    assert len([ask(inside, "a") for _ in range(5)]) == 5
    with pytest.raises(BudgetSpent):
        ask(inside, "b")
    outside = Budget(Cached(Echo(), tmp_path / "c"), calls=1)
    assert len(ask(outside, *"aaaaa")) == 5 and outside.spent == Usage()
