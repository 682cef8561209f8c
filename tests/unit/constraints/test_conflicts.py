"""Conflicts: what is found, and that nothing is found where an answer can be."""

from __future__ import annotations

from typing import Any

import pytest

from amends.constraints.conflicts import notes
from amends.constraints.constraint import Constraint
from amends.constraints.looked import verdicts
from amends.constraints.sheet import from_plain


def of(*items: Any) -> tuple[Constraint, ...]:
    """Constraints c1, c2, ...: a mapping names a checker, a text is for a judge."""
    plain = [{"id": f"c{i + 1}", **({"text": x} if isinstance(x, str) else {"checker": x})} for i, x in enumerate(items)]
    return from_plain({"constraints": plain}).constraints


def words(number: int, relation: str) -> dict[str, Any]:
    """A limit on words."""
    return {"use": "number_words", "num_words": number, "relation": relation}


LOWER, UPPER, JSON = {"use": "english_lowercase"}, {"use": "english_capital"}, {"use": "json_format"}
PROMPT = {"use": "repeat_prompt", "prompt_to_repeat": "Write, please, of an oven."}


@pytest.mark.parametrize(
    ("items", "said"),
    [
        ((words(100, "at least"), words(100, "less than")), "at least 100 words and fewer than 100 words"),
        (
            ({"use": "number_bullet_lists", "num_bullets": 1}, {"use": "number_bullet_lists", "num_bullets": 3}),
            "exactly 3 bullet",
        ),
        (
            ({"use": "number_paragraphs", "num_paragraphs": 1}, {"use": "number_paragraphs", "num_paragraphs": 2}),
            "2 paragraphs",
        ),
        ((words(3, "at most"), {"use": "number_sentences", "num_sentences": 5, "relation": "at least"}), "no room"),
        (
            ({"use": "keyword_existence", "keywords": ["an oven"]}, {"use": "forbidden_words", "forbidden_words": ["Oven"]}),
            '"Oven"',
        ),
        ((PROMPT, {"use": "forbidden_words", "forbidden_words": ["oven"]}), "may not stand"),
        (
            (
                {"use": "mentions", "words": ["oven"]},
                {"use": "keyword_frequency", "keyword": "ov", "frequency": 1, "relation": "less than"},
            ),
            '"ov" may not stand',
        ),
        ((PROMPT, {"use": "no_comma"}), "has a comma"),
        ((LOWER, UPPER), "small letters only and capital letters only"),
        (
            (LOWER, {"use": "capital_word_frequency", "frequency": 2, "relation": "at least"}),
            "small letters only and at least 2",
        ),
        ((UPPER, {"use": "constrained_response"}), "My answer is yes."),
        ((LOWER, {"use": "multiple_sections", "section_splitter": "Day", "num_sections": 2}), '"Day"'),
        (({"use": "response_language", "language": "de"}, {"use": "response_language", "language": "fr"}), "German and French"),
        ((UPPER, {"use": "response_language", "language": "de"}), "English and German"),
        (({"use": "end_checker", "end_phrase": "Bye"}, {"use": "end_checker", "end_phrase": "Yours"}), "one end"),
        (({"use": "starts_with", "start": "Dear"}, PROMPT), "one beginning"),
        (({"use": "quotation"}, PROMPT), "quotation mark at the very beginning"),
        (({"use": "end_checker", "end_phrase": "Bye"}, {"use": "quotation"}), "hardly go together: the closing"),
        (({"use": "two_responses"}, {"use": "number_paragraphs", "num_paragraphs": 4}), "nothing between"),
        ((JSON, {"use": "no_comma"}), "hardly go together: JSON with more"),
        ((JSON, PROMPT), "does not begin with a sentence"),
        ((JSON, {"use": "end_checker", "end_phrase": "Bye"}), "ends with a bracket"),
        ((JSON, {"use": "number_bullet_lists", "num_bullets": 2}), "bullet"),
        ((JSON, {"use": "quotation"}), "one quoted text"),
        (
            ({"use": "number_bullet_lists", "num_bullets": 1}, "Use at least three bullet points."),
            "'at least three bullet points'",
        ),
        (("Use exactly two sentences.", "Write more than 3 sentences."), "'more than 3 sentences'"),
    ],
)
def test_a_conflict_is_one_sentence_with_both_ids_in_either_order(items: tuple[Any, Any], said: str) -> None:
    for constraints in (of(*items), of(*items)[::-1]):
        (note,) = notes(constraints)
        assert said in note or said.partition(" and ")[2] in note
        assert "c1" in note and "c2" in note and note.endswith(".")
    assert not any(notes(of(item)) for item in items)


@pytest.mark.parametrize(
    ("items", "answer"),
    [
        ((words(2, "at least"), words(5, "at most")), "one two three"),
        (
            ({"use": "keyword_existence", "keywords": ["rocket"]}, {"use": "forbidden_words", "forbidden_words": ["rock"]}),
            "Rocket.",
        ),
        ((LOWER, {"use": "keyword_existence", "keywords": ["NASA"]}), "the people at nasa have seen it with their own eyes."),
        (
            (LOWER, {"use": "postscript", "marker": "P.S."}),
            "this is a letter to the landlord.\n\np.s. thank you very much for it.",
        ),
        (({"use": "end_checker", "end_phrase": "the end"}, {"use": "end_checker", "end_phrase": "end"}), "This is the end"),
        (({"use": "starts_with", "start": "Dear"}, {"use": "starts_with", "start": "Dear all"}), "Dear all"),
        (({"use": "starts_with", "start": '"Dear'}, {"use": "quotation"}), '"Dear all"'),
        (({"use": "no_comma"}, {"use": "quotation"}), '"a"'),
    ],
)
def test_nothing_is_said_of_constraints_that_an_answer_meets(items: tuple[Any, ...], answer: str) -> None:
    assert all(v.passed for v in verdicts(of(*items), answer))
    assert notes(of(*items)) == ()


def test_the_prompts_own_words_are_compared_with_the_checkers() -> None:
    one = of({"use": "number_bullet_lists", "num_bullets": 1})
    prompt = "Write a riddle with exactly one bullet point. Include a few bullet points."
    assert notes(one, prompt) == ("c1 and the prompt cannot both hold: exactly 1 bullet point and 'a few bullet points'.",)
    assert notes(one, "Use exactly one bullet point, of 20 words.") == ()
    many = of({"use": "number_sentences", "num_sentences": 9, "relation": "at least"})
    assert notes(many, "Each line has exactly one sentence.") == ()  # of a line, not of the answer


def test_vague_words_are_named_for_judged_constraints_alone() -> None:
    (note,) = notes(of("Give a few short reasons.", words(3, "at least")))
    assert note == 'c1 says "a few", "short", which judges read differently: say how many or by what sign.'
    assert notes(of("Give three reasons with a source each.")) == ()
