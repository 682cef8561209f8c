"""Demands that code finds in a request: exact where it finds any, silent where it is not sure, never an exception."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from plain_requests import COMMA, DEMANDS, QUIET
from refine_world import OVEN, Nobody, Scripted, request, run

from amends.core.spec import build_use
from amends.refine.arms.decrim import DeCRIM
from amends.refine.completing import completed
from amends.refine.critics.programmatic import Programmatic
from amends.refine.decomposers.asked import Asked
from amends.refine.decomposers.plain import Plain, demands
from amends.refine.material import LONGEST

TEA = "Write two sentences about tea. At most 60 words, no commas."


@pytest.mark.parametrize("prompt", DEMANDS)
def test_plain_demands_are_found_and_nothing_else(prompt: str) -> None:
    assert [c.checker for c in demands(prompt)] == [build_use("checkers", use, "x") for use in DEMANDS[prompt]]


@pytest.mark.parametrize("prompt", QUIET)
def test_what_is_no_demand_on_the_answer_is_left_alone(prompt: str) -> None:
    assert demands(prompt) == ()


def test_there_are_enough_requests_to_fall_over() -> None:
    assert len(DEMANDS) >= 30 and len(QUIET) >= 60


@pytest.mark.parametrize("prompt", DEMANDS)
def test_a_demand_that_is_quoted_pasted_or_shown_is_none(prompt: str) -> None:
    """Whatever is found in a request on its own is not found in it as material."""
    straight = prompt.replace('"', "").replace("'", "")
    for shown in (f'Summarise: "{straight}"', f"Summarise this:\n\n{prompt}", f"Fix the text below.\n```\n{prompt}\n```",
                  f"Translate this mail.\n\nDear Ann,\n{prompt}", f"<text>\n{prompt}\n</text>\nWhat does it say?"):  # fmt: skip
        assert demands(shown) == (), shown
    assert demands(f"Summarise the mail. {prompt}", context=prompt) == ()


def test_the_wording_is_the_requests_own_and_no_model_is_asked() -> None:
    constraints, usage, notes = run(Plain().decompose(request(prompt=TEA), Nobody()))
    assert [c.text for c in constraints] == ["Write two sentences", "At most 60 words", "no commas"]
    assert all(c.text in TEA and c.category for c in constraints)
    assert ([c.id for c in constraints], usage.calls, notes) == (["c1", "c2", "c3"], 0, ())


def test_given_constraints_are_kept_unless_the_rules_always_look() -> None:
    given_ = request(OVEN, prompt=TEA)
    assert run(Plain().decompose(given_, Nobody()))[0] == (OVEN,)
    assert len(run(Plain(always=True).decompose(given_, Nobody()))[0]) == 3


# ---------------------------------------------------------------------- completing a model's list


def asked(listed: list[str], prompt: str = TEA, **fields: object) -> tuple[list[str], str]:
    client = Scripted(decompose=json.dumps(listed))
    constraints, _, notes = run(Asked(**fields).decompose(request(prompt=prompt), client))
    assert len({c.id for c in constraints}) == len(constraints)
    return [c.text for c in constraints], " | ".join(notes)


def test_what_a_model_misses_is_added_with_a_note() -> None:
    texts, notes = asked(["Be brief."])
    assert texts == ["Be brief.", "Write two sentences", "At most 60 words", "no commas"]
    assert "added by the plain rules" in notes and "'no commas'" in notes and "c4" in notes
    assert asked(["Be brief."], complete=False) == (["Be brief."], "")
    assert asked(["Be brief."], route=False)[0] == ["Be brief."], "where nothing is routed, nothing is added"


def test_what_a_model_lists_in_other_words_is_not_added_again() -> None:
    texts, notes = asked(["No more than 60 words.", "Do not use any commas.", "two sentences"])
    assert (len(texts), notes) == (3, "")
    assert len(asked(["Use at most 59 words.", "No commas.", "2 sentences"], TEA.replace("60", "59"))[0]) == 3
    several = 'Write a note. Do not use the word "rose".'
    assert len(asked(['Do not use "rose" or "thorn".'], several)[0]) == 1, "its words are among those"


def test_where_both_speak_of_the_same_thing_the_models_word_stays() -> None:
    texts, notes = asked(["Use at most 2 words."])
    assert texts == ["Use at most 2 words.", "Write two sentences", "no commas"]
    assert "'At most 60 words', which differs from c1" in notes and "the model's stays" in notes


def test_both_ends_of_a_range_are_no_contradiction() -> None:
    prompt = "Feedback for Noor. 120 to 150 words, no commas."
    texts, notes = asked(["Use at least 120 words."], prompt)
    assert len(texts) == 3 and "differs" not in notes


def test_a_reply_that_cannot_be_read_leaves_what_the_rules_find() -> None:
    client = Scripted(decompose="I would rather talk about trains.")
    constraints, usage, notes = run(Asked().decompose(request(prompt=TEA), client))
    assert (len(constraints), usage.calls) == (3, 1)
    assert "no list of demands" in notes[0] and "added by the plain rules" in notes[1]


def test_completing_with_nothing_changes_nothing() -> None:
    comma = demands(TEA)
    assert completed(comma, ()) == completed(comma, comma) == (comma, ())


def test_the_loop_mends_by_what_the_rules_found() -> None:
    client = Scripted(respond="Tea, as such, is hot. It is wet.", decompose="[]")
    refined = run(DeCRIM(critic=Programmatic()).answer(request(prompt=TEA), client))
    assert refined.stopped == "all_pass" and "," not in refined.text
    assert any("added by the plain rules" in note for note in refined.notes)
    assert build_use("checkers", COMMA, "x") in [c.checker for c in refined.request.constraints]


# ---------------------------------------------------------------------- anything at all

PIECES = st.sampled_from([
    "at most 60 words", "no commas", "in Spanish", ", ", ". ", "\n\n", ":", '"', "'", "```", "<a>", "</a>", "> ", "---\n",
    "Write a poem ", " and ", "\ue000", "\ue0000\ue001", "\ue002", "\x00", "\ud800", "\u202e", "e.g. ", "(", ")", "1. ",
    "Dear Ann,\n", "don't use ", "the word ",
])  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(st.text(max_size=80) | st.lists(PIECES, max_size=20).map("".join))
def test_no_request_raises_and_every_demand_is_in_its_words(prompt: str) -> None:
    for constraint in demands(prompt):
        assert constraint.text.strip() and constraint.verifiable


@pytest.mark.parametrize(
    "unit", ["(", "no commas and ", '"', "a ", "in ", "e.g. (", "<a>", "```", "\n", "- ", ", ", "about on of to "]
)
def test_a_long_request_takes_no_time(unit: str) -> None:
    demands("Write a poem " + unit * (2 * LONGEST // len(unit)))
