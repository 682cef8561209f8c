"""The arms: how many calls each makes, what it returns, and that each can be named in a recipe."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from refine_world import KIND, OVEN, SHORT, Nobody, Scripted, request, run

from amends.chat.client import Usage
from amends.core import catalog
from amends.core.errors import UserError
from amends.core.spec import build_use
from amends.refine.answering import Arm
from amends.refine.arms.best_of import BestOf
from amends.refine.arms.blind_rewrite import BlindRewrite
from amends.refine.arms.decrim import DeCRIM
from amends.refine.arms.self_refine import SelfRefine
from amends.refine.arms.single import Single
from amends.refine.arms.suffix import Suffix
from amends.refine.critics.judge import Judge
from amends.refine.critics.programmatic import Programmatic
from amends.refine.decomposers.asked import Asked
from amends.refine.parts import Refined

LONG = "one two three four five six seven eight"
NAMES = {"single", "suffix", "best_of", "blind_rewrite", "self_refine", "decrim"}


def answered(arm: Any, client: Any, *constraints: Any) -> Refined:
    done = run(arm.answer(request(*constraints), client))
    assert done.usage.calls == len(client.asked)
    assert sum((a.usage.calls for a in done.attempts), 0) <= done.usage.calls
    return done


def test_one_call_for_a_plain_answer_and_for_one_with_a_suffix() -> None:
    client = Scripted(respond=LONG)
    done = answered(Single(), client, SHORT)
    assert (done.text, done.stopped, done.attempts[0].verdicts, done.usage.calls) == (LONG, "max_rounds", (), 1)
    run(Suffix(sentence="Obey.").answer(request(SHORT), client))
    assert [prompt for _, prompt, _ in client.asked] == ["How is bread baked?", "How is bread baked?\n\nObey."]


def test_best_of_draws_n_and_the_critic_chooses() -> None:
    client = Scripted(respond=[LONG, f"{LONG} x", "Bake it", f"{LONG} y"])
    done = answered(BestOf(n=4), client, SHORT, OVEN)
    assert (done.best, done.text, done.stopped, len(done.attempts)) == (2, "Bake it", "max_rounds", 4)
    assert [p.temperature for _, _, p in client.asked] == [0.0, 0.8, 0.8, 0.8]
    assert len({p.seed for _, _, p in client.asked}) == 4


def test_best_of_ends_at_an_answer_that_meets_everything_unless_told_not_to() -> None:
    assert answered(BestOf(n=4), Scripted(respond=[LONG, "bake it"]), SHORT).usage.calls == 2
    assert answered(BestOf(n=4, stop_early=False), Scripted(respond=[LONG, "bake it"]), SHORT).usage.calls == 4


def test_best_of_never_draws_more_than_it_is_allowed() -> None:
    """Two constraints judged by one call each cost three calls an answer."""
    no = "Bad.\nVerdict: no"
    for calls, made in ((7, 6), (9, 9), (2, 3), (1, 3)):  # at least one answer, whatever it costs
        client = Scripted(respond=LONG, judge=no)
        assert answered(BestOf(critic=Judge(), calls=calls), client, KIND, OVEN).usage.calls == made
    assert answered(BestOf(calls={"r1": 5}), Scripted(respond=LONG), SHORT).usage.calls == 5


def test_a_request_without_a_number_of_calls_is_the_users_mistake() -> None:
    with pytest.raises(UserError, match=r"calls\.r1: no number of calls"):
        answered(BestOf(calls={"r2": 5}), Scripted(respond=LONG), SHORT)


def test_a_blind_rewrite_is_told_nothing() -> None:
    client = Scripted(respond=LONG, blind=["better", "best"])
    done = answered(BlindRewrite(rounds=2), client, SHORT)
    assert (done.text, done.best, done.usage.calls) == ("best", 2, 3)
    assert [(a.how, a.parent) for a in done.attempts] == [("response", None), ("refinement", 0), ("refinement", 1)]
    assert all(SHORT.text not in prompt for _, prompt, _ in client.asked)
    assert answered(BlindRewrite(calls=4), Scripted(respond=LONG, blind="x"), SHORT).usage.calls == 4
    assert answered(BlindRewrite(calls=1), Scripted(respond=LONG), SHORT).usage.calls == 1


def test_self_refine_costs_two_calls_a_round_and_ends_when_it_is_content() -> None:
    client = Scripted(respond=LONG, feedback=["Shorter.", "NOTHING TO IMPROVE."], by_feedback="bake it")
    done = answered(SelfRefine(rounds=5), client, SHORT)
    assert (done.text, done.stopped, done.usage.calls) == ("bake it", "all_pass", 4)
    assert "Shorter." in client.asked[2][1]
    on_and_on = Scripted(respond=LONG, feedback="Shorter.", by_feedback="bake it")
    assert answered(SelfRefine(rounds=2), on_and_on, SHORT).usage.calls == 5
    for calls, made in ((1, 1), (2, 1), (3, 3), (6, 5)):
        assert (
            answered(SelfRefine(calls=calls), Scripted(respond=LONG, feedback="x", by_feedback="y"), SHORT).usage.calls == made
        )


def test_decrim_with_everything_asked_costs_what_the_formula_says() -> None:
    """1 answer + 1 decomposition + J_0 + rounds x (1 + J), J = 2 judged constraints."""
    client = Scripted(
        respond=LONG, decompose='["Be kind.", "Be bold."]', judge="Bad.\nVerdict: no",
        rewrite=lambda prompt: f"{LONG} {client.count('rewrite')}",
    )  # fmt: skip
    done = answered(DeCRIM(decomposer=Asked(), critic=Judge(), rounds=3, patience=None), client)
    assert (done.stopped, done.usage.calls) == ("max_rounds", 1 + 1 + 2 + 3 * (1 + 2))
    assert [c.text for c in done.request.constraints] == ["Be kind.", "Be bold."]
    assert done.usage.calls == sum((a.usage for a in done.attempts), Usage()).calls + 1


ARMS: list[Any] = [Single(), Suffix(), BestOf(), BlindRewrite(rounds=2), SelfRefine(), DeCRIM(critic=Programmatic())]


@pytest.mark.parametrize("arm", ARMS, ids=lambda arm: type(arm).__name__)
@pytest.mark.parametrize("at", [1, 2, 3])
def test_no_arm_raises_when_its_model_dies(arm: Any, at: int) -> None:
    client = Scripted(respond=[LONG, f"{LONG} x"], blind="x", feedback="x", by_feedback="y", rewrite=["a b c d e f g", "z"])
    client.dies_at = at
    done = run(arm.answer(request(SHORT), client))
    assert isinstance(arm, Arm)
    assert done.attempts and (at > 1 or done.text == "")
    assert done.stopped == "client_error" or len(client.asked) < at


@pytest.mark.parametrize("arm", ARMS, ids=lambda arm: type(arm).__name__)
def test_requests_may_be_answered_at_once(arm: Any) -> None:
    async def all_of() -> list[Refined]:
        client = Scripted(respond="bake it", blind="bake it", feedback="NOTHING TO IMPROVE")
        return await asyncio.gather(*(arm.answer(request(SHORT), client) for _ in range(3)))

    assert [done.text for done in run(all_of())] == ["bake it"] * 3


def test_a_recipe_names_arms_and_their_parts() -> None:
    kind = next(kind for kind, places in catalog.PLACES.items() if "refine/arms/*.py" in places)
    assert {entry.name for entry in catalog.list_kind(kind)} >= NAMES
    assert {"programmatic", "judge", "supervised", "mixed", "noised"} == {e.name for e in catalog.list_kind("critics")}
    assert {"gold", "asked", "plain"} == {e.name for e in catalog.list_kind("decomposers")}
    arm = build_use(kind, {"use": "decrim", "critic": {"use": "programmatic"}, "rounds": 3, "params": {"max_tokens": 64}}, "s")
    assert (type(arm.critic), arm.rounds, arm.params.max_tokens) == (Programmatic, 3, 64)
    with pytest.raises(UserError, match=r"s\.rounds"):
        build_use(kind, {"use": "decrim", "rounds": -1}, "s")
    with pytest.raises(UserError, match=r"s\.critic\.use: no critic is called 'programatic' \(did you mean 'programmatic'\?\)"):
        build_use(kind, {"use": "decrim", "critic": "programatic"}, "s")


def test_a_best_of_nothing_is_an_empty_answer() -> None:
    done = run(BestOf(decomposer=Asked(client=Scripted(decompose=OSError("down")))).answer(request(), Nobody()))
    assert (done.text, done.stopped) == ("", "client_error")


@pytest.mark.parametrize(
    ("arm", "replies"),
    [
        (BlindRewrite(), {"blind": "Return the whole improved answer and nothing else."}),
        (
            SelfRefine(rounds=1),
            {"feedback": "x", "by_feedback": "Rewrite the answer by this feedback. Return the whole answer."},
        ),
    ],
    ids=["blind", "self-refine"],
)
def test_an_order_handed_back_leaves_the_answer_before_it(arm: Any, replies: dict[str, str]) -> None:
    assert answered(arm, Scripted(respond=LONG, **replies), SHORT).text == LONG
