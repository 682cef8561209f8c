"""`amends refine` without a sheet: rules read what a model misses, and calls of a critic that fails are booked."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from bench_world import Amends
from chat_server import Handler, chat, server

from amends.chat.client import Client, Usage
from amends.chat.clients.openai_api import OpenAIAPI
from amends.constraints.constraint import Constraint, Request
from amends.constraints.sheet import load
from amends.refine.arms.best_of import BestOf
from amends.refine.arms.decrim import DeCRIM
from amends.refine.critics.judge import Judge
from amends.refine.critics.mixed import Mixed
from amends.refine.decomposers.gold import Gold
from amends.refine.ledger import as_text

pytestmark = pytest.mark.enable_socket

TEA = "Write two sentences about tea. At most 60 words, no commas."


def asked_for(handler: Handler) -> str:
    """The messages of the request that a handler answers."""
    return "\n".join(m["content"] for m in handler.state.seen[-1]["messages"])


def finds_nothing(handler: Handler, number: int) -> bool:
    """A model too small to list constraints, which answers with commas."""
    listing = "List the constraints" in asked_for(handler)
    handler.answer(200, chat("[]" if listing else "Tea, as such, is hot. It is wet."))
    return True


def test_what_the_model_does_not_list_is_read_by_rules_and_kept_as_a_sheet(amends: Amends, tmp_path: Path) -> None:
    sheet, answer = tmp_path / "tea.yaml", tmp_path / "answer.txt"
    with server(finds_nothing) as s:
        code, said, err = amends("refine", TEA, "--model", s.base_url, "--save-sheet", sheet)
        assert code == 0 and said.strip() == "Tea as such is hot. It is wet."
        assert "added by the plain rules" in " ".join(err.split()) and "3 of 3 constraints met" in err
        assert len(s.seen) == 2, "an answer, a list, and a repair for nothing"
    assert [c.text for c in load(sheet).constraints] == ["Write two sentences", "At most 60 words", "no commas"]
    answer.write_text(said)
    assert amends("refine", "--check", "--sheet", sheet, "--answer", answer)[0] == 0


def test_rules_alone_ask_no_model_for_constraints(amends: Amends) -> None:
    with server(finds_nothing) as s:
        code, said, err = amends("refine", TEA, "--model", s.base_url, "--decomposer", "plain")
        assert code == 0 and "," not in said and "3 of 3 constraints met" in err
        assert len(s.seen) == 1


@pytest.mark.parametrize("decomposer", ["self", "plain"])
def test_an_empty_sheet_is_not_written_and_the_remedy_is_said(amends: Amends, tmp_path: Path, decomposer: str) -> None:
    sheet = tmp_path / "sky.yaml"
    with server(finds_nothing) as s:
        code, said, err = amends(
            "refine", "Why is the sky blue?", "--model", s.base_url, "--save-sheet", sheet, "--decomposer", decomposer
        )
    told = " ".join(err.split())
    assert code == 1 and said.strip() and not sheet.exists(), "the answer is there, the file that was asked for is not"
    assert (
        "no constraint was found: write it yourself" in told and "use: number_words" in told and "docs/constraints.md" in told
    )


def test_the_sheet_of_the_remedy_can_be_read(tmp_path: Path) -> None:
    from amends.cli.refine import BY_HAND

    path = tmp_path / "hand.yaml"
    path.write_text(BY_HAND.split("`")[1])
    assert load(path).constraints[0].checker.num_words == 60


# ---------------------------------------------------------------------- a critic that fails halfway

KIND, BRIEF = (Constraint(id=i, text=t, depends_on=()) for i, t in (("c1", "Be kind."), ("c2", "Be brief.")))
REQUEST = Request("r", "How is bread baked?", (KIND, BRIEF))


class Halfway:
    """A critic that asks twice and then fails, in its own words."""

    async def verdicts(self, request: Request, text: str, constraints: object, client: Client) -> object:
        await Judge().verdicts(request, text, [KIND, BRIEF], client)
        raise ValueError("the second half of this critic is not written")


def answering(handler: Handler, number: int) -> bool:
    """Answers, and judges twice: from then on there is nobody."""
    judging = "You check answers" in asked_for(handler)
    if judging and sum("You check answers" in str(body) for body in handler.state.seen) > 2:
        handler.answer(400, {"error": {"message": "no more"}})
    else:
        handler.answer(200, chat("Verdict: yes" if judging else "In an oven."))
    return True


@pytest.mark.parametrize("critic", [Halfway(), Judge(votes=2), Mixed(other=Judge(votes=2))])
@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize("arm", [DeCRIM, BestOf])
def test_what_a_failing_critic_asked_before_is_in_the_books(critic: object, own: bool, arm: type) -> None:
    with server(answering) as s:
        client = OpenAIAPI(base_url=s.base_url, model="small", retries=0)
        if own and isinstance(critic, Judge):
            critic = Judge(client=OpenAIAPI(base_url=s.base_url, model="small", retries=0), votes=2)
        made = arm(decomposer=Gold(), critic=critic)
        refined = asyncio.run(made.answer(REQUEST, client))
        answered = min(len(s.seen), 3)
    assert refined.stopped == "critic_error" and refined.text == "In an oven."
    assert refined.usage.calls == answered == 3, refined.usage
    assert (refined.usage.prompt_tokens, refined.usage.new_tokens) == (21, 9)
    assert refined.attempts[0].usage.calls == 3 and "In all: 3 calls, 21 tokens read, 9 written" in as_text(refined)


def test_one_answer_is_not_booked_twice() -> None:
    from amends.chat.client import Message, Params
    from amends.refine.asking import ask_all, metered

    async def both() -> Usage:
        with server() as s:
            client = OpenAIAPI(base_url=s.base_url, model="small")
            with metered(client) as meter:
                await ask_all(meter, [[Message("user", "a")], [Message("user", "b")]], Params())
                await meter.complete([Message("user", "c")], Params())
                await ask_all(client, [[Message("user", "d")]], Params())
            await ask_all(client, [[Message("user", "e")]], Params())
            return meter.usage

    assert asyncio.run(both()).calls == 4


NASTY = "\ud800 half, a \x00 zero and \u202e turned \x1b[31m round"
"""As JSON brings it: half a character, a zero byte, a mark that turns the writing around, and a terminal's colour."""


def test_halves_of_characters_are_no_traceback(amends: Amends, tmp_path: Path) -> None:
    def nasty(handler: Handler, number: int) -> bool:
        listing = "List the constraints" in asked_for(handler)
        handler.answer(200, chat('["Keep \\ud800 it light.", "No \\u0000 rush."]' if listing else NASTY))
        return True

    out, sheet = tmp_path / "out.json", tmp_path / "sheet.yaml"
    with server(nasty) as s:
        code, said, err = amends("refine", TEA, "--model", s.base_url, "--rounds", 1, "--out", out, "--save-sheet", sheet)
    assert code == 0 and "half" in said and "Traceback" not in err
    assert out.is_file() and len(load(sheet).constraints) >= 3
