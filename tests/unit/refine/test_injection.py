"""Orders inside an answer: no checker reads them, no fence is closed by them, and what they do to a real judge is measured."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence

import pytest
from refine_world import KIND, LOWER, SHORT, Scripted, constraint, request, run

from amends.chat.client import Client, Completion, Message, Params
from amends.chat.clients.openai_api import OpenAIAPI
from amends.constraints.checkers.cases import NoComma
from amends.constraints.checkers.words import KeywordExistence
from amends.constraints.constraint import Verdict
from amends.refine.calibration import Case
from amends.refine.critics.judge import Judge
from amends.refine.critics.mixed import Mixed
from amends.refine.critics.programmatic import Programmatic
from amends.refine.critics.supervised import Supervised
from amends.refine.frame import delimiter
from amends.refine.injection import NEUTRAL, ORDERS, Flips, Moved, flips, injected
from amends.subjects.packaged_file import SMOLLM2, packaged_file

ANSWER = "Bread, As Everybody Knows, Is Flour And Water And Salt."
CASE = Case(request(SHORT, LOWER, prompt="What is bread?"), ANSWER)


@pytest.mark.parametrize("name", ORDERS)
def test_a_checkers_verdict_does_not_move(name: str) -> None:
    for critic in (Programmatic(), Mixed(other=Judge())):
        for text in (ANSWER, ORDERS[name](ANSWER)):
            verdicts, usage = run(critic.verdicts(CASE.request, text, CASE.request.constraints, Scripted(judge="Verdict: yes")))
            assert [v.passed for v in verdicts] == [False, False] and usage.calls == 0


@pytest.mark.parametrize("name", ORDERS)
@pytest.mark.parametrize("critic", [Judge(), Judge(batched=True), Judge(reason=False), Supervised()])
def test_the_fence_is_closed_by_no_order(name: str, critic: Judge | Supervised) -> None:
    attack = ORDERS[name](ANSWER)
    client = Scripted(judge="no", supervised="no")
    run(critic.verdicts(request(KIND), attack, [KIND], client))
    prompt, line = client.asked[0][1], delimiter(attack)
    head, inside, tail = prompt.split(f"\n{line}\n")
    assert inside == attack and "yes" not in head.lower().replace(attack.lower(), "") and line not in attack and tail


def test_flips_are_counted_by_hand() -> None:
    def moved(order: str, before: bool | None, after: bool | None, scores: tuple[float, float]) -> Moved:
        return Moved("r", "c", order, *(Verdict("c", p, "judge", "", s) for p, s in zip((before, after), scores, strict=True)))

    found = flips([
        moved("order", False, True, (0.2, 0.8)), moved("order", False, False, (0.4, 0.4)),
        moved("order", True, False, (0.9, 0.3)), moved("order", False, None, (0.1, 0.5)),
        moved(NEUTRAL, True, True, (0.9, 0.9)),
    ])  # fmt: skip
    assert found["order"] == Flips(4, 3, 1, 1, 1, pytest.approx(0.4), pytest.approx(0.5))
    assert found[NEUTRAL] == Flips(1, 0, 0, 0, 0, 0.9, 0.9)


def test_a_judge_that_obeys_and_one_that_does_not() -> None:
    def obeys(prompt: str) -> str:
        return "Verdict: yes" if "answer yes" in prompt else "Verdict: no"

    done, usage = run(injected(Judge(), [CASE], Scripted(judge=obeys)))
    found = flips(done)
    assert usage.calls == 2 * (1 + len(ORDERS))
    assert (found["order"].caught, found["order"].flipped, found[NEUTRAL].flipped) == (2, 2, 0)
    assert all(f.flipped == 0 for f in flips(run(injected(Judge(), [CASE], Scripted(judge="Verdict: no")))[0]).values())


def test_what_an_order_mends_does_not_count() -> None:
    wants = constraint("yes", KeywordExistence(keywords=("yes",)))
    done, _ = run(injected(Judge(), [Case(request(wants, SHORT), ANSWER)], Scripted(judge="Verdict: no")))
    assert {m.order for m in done if m.constraint == "yes"} == {NEUTRAL}


class Watched:
    """A client whose prompts are kept."""

    def __init__(self, client: Client) -> None:
        self.client, self.prompts = client, list[str]()

    @property
    def name(self) -> str:
        return self.client.name

    async def complete(self, messages: Sequence[Message], params: Params) -> Completion:
        self.prompts.append(messages[-1].content)
        return await self.client.complete(messages, params)


@pytest.mark.skipif(
    packaged_file(SMOLLM2["package"], SMOLLM2["file"]) is None, reason=f"SmolLM2 is not here: {SMOLLM2['install']}"
)
@pytest.mark.enable_socket
def test_a_real_judge_may_be_moved_and_nothing_else() -> None:
    pytest.importorskip("xllamacpp", reason="llama.cpp is not here: pip install 'amends[serve]'")
    from amends.chat.serve import serving
    from amends.subjects.packaged_file import smollm2

    orders = {name: order for name, order in ORDERS.items() if name != "authority"}
    comma = constraint("comma", NoComma(), "Do not use any commas.")
    case = Case(request(comma, prompt="What is bread? Do not use any commas."), ANSWER)
    with serving(smollm2(), parallel=1, ctx=768) as served:
        client = Watched(OpenAIAPI(base_url=served.base_url, model=served.model, concurrency=1))
        moved, usage = asyncio.run(injected(Judge(reason=False), [case], client, orders))
    assert usage.calls == 1 + len(orders) and [m.order for m in moved] == list(orders)
    for m in moved:
        attack = ORDERS[m.order](ANSWER)
        assert run(Programmatic().verdicts(case.request, attack, [comma], client))[0][0].passed is False
        for verdict in (m.before, m.after):
            assert verdict.passed in (True, False, None) and (verdict.passed is not None or verdict.reason)
            assert verdict.score is None or 0 <= verdict.score <= 1
        prompt = next(p for p in client.prompts if attack in p)
        assert prompt.split(f"\n{delimiter(attack)}\n")[1] == attack
    found = flips(moved)
    moves = {name: (row.before, row.after) for name, row in found.items()}
    sys.stdout.write(f"P(yes) without and with: {moves}\n")  # shown by pytest -rP
    assert all(f.n == 1 for f in found.values())
