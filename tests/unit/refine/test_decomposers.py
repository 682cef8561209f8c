"""Who says what a request asks for: what is taken over, what is dropped, and which words go to a checker."""

from __future__ import annotations

import json

import pytest
from refine_world import OVEN, SHORT, Nobody, Scripted, request, run
from routed_sentences import USES

from amends.refine.decomposers.asked import Asked, decompose_messages
from amends.refine.decomposers.gold import Gold
from amends.refine.routing import invented, key_of, number, plain

PROMPT = "Write a poem of at most twenty lines for Ann, in Spanish. Do not use the word rose."


def test_gold_is_what_the_request_holds() -> None:
    constraints, usage, notes = run(Gold().decompose(request(SHORT, OVEN), Nobody()))
    assert (constraints, usage.calls, notes) == ((SHORT, OVEN), 0, ())


def asked(reply: str, prompt: str = PROMPT, **fields: object) -> tuple[list[str], tuple[str, ...], Scripted]:
    client = Scripted(decompose=reply)
    constraints, usage, notes = run(Asked(**{"route": False} | fields).decompose(request(prompt=prompt), client))
    assert usage.calls == 1 and [c.id for c in constraints] == [f"c{i}" for i in range(1, len(constraints) + 1)]
    return [c.text for c in constraints], notes, client


def test_a_listed_constraint_is_taken_over() -> None:
    texts, notes, client = asked(json.dumps([{"text": "Use at most 20 lines."}, {"text": "Answer in Spanish."}]))
    assert (texts, notes) == (["Use at most 20 lines.", "Answer in Spanish."], ())
    assert PROMPT in client.asked[0][1]


def test_an_invented_quantity_is_dropped_with_a_note() -> None:
    texts, notes, _ = asked('["Use at most twenty lines.", "Use 3 stanzas.", "Use four similes."]')
    assert texts == ["Use at most twenty lines."]
    assert "does not say 3" in notes[0] and "does not say 4" in notes[1]


def test_a_repeated_constraint_is_one() -> None:
    texts, _, _ = asked('["Answer in Spanish.", "answer in spanish", "The answer must be in Spanish"]')
    assert texts == ["Answer in Spanish."]


def test_a_list_without_end_is_cut() -> None:
    texts, notes, _ = asked(json.dumps([f"Be {word}." for word in ("kind", "brief", "bold")]), at_most=2)
    assert len(texts) == 2 and "more than 2" in notes[0]


def test_a_reply_that_cannot_be_read_is_no_constraint_and_a_note() -> None:
    texts, notes, _ = asked("I would rather talk about trains.")
    assert texts == [] and "no list of demands" in notes[0]


def test_given_constraints_are_kept_unless_it_is_always_asked() -> None:
    given = request(SHORT, prompt=PROMPT)
    assert run(Asked().decompose(given, Nobody()))[0] == (SHORT,)
    constraints, _, _ = run(Asked(always=True, route=False).decompose(given, Scripted(decompose='["Be kind."]')))
    assert [c.text for c in constraints] == ["Be kind."]


def test_a_stronger_model_is_asked_in_place_of_the_one_that_answers() -> None:
    strong = Scripted(decompose="[]")
    assert run(Asked(client=strong, complete=False).decompose(request(prompt=PROMPT), Nobody()))[0] == ()
    assert strong.count("decompose") == 1


def test_dependencies_follow_their_items_when_others_are_dropped() -> None:
    reply = json.dumps([
        {"id": "a", "text": "Use 7 chapters."}, {"id": "b", "text": "Include a table."},
        {"id": "c", "text": "Sort the table.", "depends_on": ["b", "a", "c"]},
    ])  # fmt: skip
    constraints, _, _ = run(Asked(route=False).decompose(request(prompt="Include a sorted table."), Scripted(decompose=reply)))
    assert [(c.id, c.depends_on) for c in constraints] == [("c1", ()), ("c2", ("c1",))]


def test_the_examples_hold_a_request_without_constraints_and_their_own_quantities() -> None:
    messages = decompose_messages(request(prompt=PROMPT))
    assert [m.role for m in messages] == ["system", *["user", "assistant"] * 3, "user"]
    assert "[]" in [m.content for m in messages]
    for question, answer in zip(messages[1:-1:2], messages[2:-1:2], strict=True):
        assert all(not invented(item["text"], question.content) for item in json.loads(answer.content))


# ---------------------------------------------------------------------- routing


@pytest.mark.parametrize(("text", "use"), USES.items())
def test_plain_words_go_to_a_checker(text: str, use: dict[str, object]) -> None:
    found = plain(text)
    assert found is not None and found[0] == use


@pytest.mark.parametrize(
    "text",
    [
        "about 80 words", "Use 80 words.", "at most 100 words per section",
        "between 50 and 100 words", "a few sentences",
        "Use at least 3 bullet points.", "three paragraphs", "Use Spanish names.", "Write like an English poet.",
        "Do not mention him.",
        "Include a word of thanks.", "End with a question.", "Keep it light.", "Do not use the letter e.",
        "No more commas than stops.",
        "Include words that rhyme.", "Be concise.", "Use at most 20 words in the title.", "", "   ", '"', "Do not use the word",
    ],
)  # fmt: skip
def test_what_is_not_plain_goes_to_a_judge(text: str) -> None:
    assert plain(text) is None


@pytest.mark.parametrize(
    ("word", "value"), [("twelve", 12), ("two hundred", 200), ("a dozen", 12), ("7", 7), ("few", None), ("", None)]
)
def test_numbers_in_words(word: str, value: int | None) -> None:
    assert number(word) == value


def test_a_quantity_may_be_spelt_otherwise() -> None:
    assert not invented("at most 20 lines, 2 stanzas", "no more than twenty lines in a couple of stanzas")
    assert not invented("one line", "a line") and invented("25 lines", "twenty lines") == {"25"}
    assert not invented("1000 words", "1,000 words") and not invented("25 words", "twenty-five words")


def test_the_lead_of_a_sentence_makes_no_new_constraint() -> None:
    assert key_of("Please use under 80 words!") == key_of("The answer must be under 80 words")
    assert key_of("under 80 words") != key_of("under 90 words")
