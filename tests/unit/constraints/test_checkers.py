"""Every checker against values worked out by hand, IFEval's traps among them, and every repair that is offered or refused."""

from __future__ import annotations

from typing import Any

import pytest

from amends.constraints.checkers import cases, ends, lengths, marks, shapes, words
from amends.constraints.constraint import Checker
from amends.core import catalog
from amends.core.errors import UserError
from amends.core.spec import build_use

HAND: list[tuple[dict[str, Any], str, Any, float]] = [
    # keywords are found inside longer words, whatever the case
    ({"use": "keyword_existence", "keywords": ["rock", "Salt"]}, "A ROCKET with salt", ["rock", "Salt"], 0),
    ({"use": "keyword_existence", "keywords": ["rock", "salt", "pan"]}, "A rocket", ["rock"], 2),
    ({"use": "keyword_frequency", "keyword": "rock", "frequency": 3, "relation": "at least"}, "rock rocket", 2, 1),
    ({"use": "keyword_frequency", "keyword": "rock", "frequency": 3, "relation": "less than"}, "rock Rock rocket rock", 4, 2),
    # forbidden words are not
    ({"use": "forbidden_words", "forbidden_words": ["rock"]}, "rocket", [], 0),
    ({"use": "forbidden_words", "forbidden_words": ["rock", "C++"]}, "Rock, C++ and rock", ["rock", "C++"], 3),
    ({"use": "letter_frequency", "letter": "#", "frequency": 4, "relation": "at least"}, "#a #b #c", 3, 1),
    ({"use": "letter_frequency", "letter": "O", "frequency": 2, "relation": "less than"}, "oO", 2, 1),
    ({"use": "mentions", "words": ["oven", "salt"]}, "ovens and salt", ["salt"], 1),
    ({"use": "mentions", "words": ["oven", "salt"], "how": "any"}, "ovens and salt", ["salt"], 0),
    ({"use": "mentions", "words": ["oven", "salt"], "how": "any"}, "pans", [], 1),
    # a list without full stops is one sentence; an abbreviation ends none
    ({"use": "number_sentences", "num_sentences": 3, "relation": "at least"}, "* a\n* b\n* c", 1, 2),
    ({"use": "number_sentences", "num_sentences": 2, "relation": "exactly"}, "Dr. Lee came. He sat.", 2, 0),
    # an apostrophe cuts a word
    ({"use": "number_words", "num_words": 3, "relation": "at most"}, "I don't know", 4, 1),
    ({"use": "number_words", "num_words": 0, "relation": "less than"}, "", 0, 1),
    ({"use": "number_characters", "num_characters": 4, "relation": "at most"}, " a b c\n", 5, 1),
    ({"use": "number_lines", "num_lines": 2, "relation": "exactly"}, "a\n\n  \nb", 2, 0),
    # six asterisks are two dividers with nothing between; a divider may stand at the ends
    ({"use": "number_paragraphs", "num_paragraphs": 2}, "***\na\n***\nb\n***", 2, 0),
    ({"use": "number_paragraphs", "num_paragraphs": 2}, "a\n******\nb", 2, 1),
    ({"use": "number_paragraphs", "num_paragraphs": 3}, "a ***b***", 2, 1),
    ({"use": "number_paragraphs", "num_paragraphs": 0}, "", 0, 0),
    # punctuation is cut off a first word, and a blank piece counts for the place but not for the number
    (
        {"use": "nth_paragraph_first_word", "num_paragraphs": 2, "nth_paragraph": 2, "first_word": "Weekend"},
        "One.\n\n'weekend, he said", {"paragraphs": 2, "first_word": "weekend"}, 0,
    ),
    (
        {"use": "nth_paragraph_first_word", "num_paragraphs": 2, "nth_paragraph": 2, "first_word": "weekend"},
        "One.\n\n\n\nweekend", {"paragraphs": 2, "first_word": ""}, 1,
    ),
    (
        {"use": "nth_paragraph_first_word", "num_paragraphs": 1, "nth_paragraph": 1, "first_word": "it's"},
        "It's fine", {"paragraphs": 1, "first_word": "it"}, 0,
    ),
    # a link is a placeholder
    ({"use": "number_placeholders", "num_placeholders": 2}, "[a](http://b) [c]", 2, 0),
    ({"use": "number_placeholders", "num_placeholders": 2}, "[a\n] [] [[b]", 2, 0),
    ({"use": "postscript", "marker": "P.S."}, "Bye. p. s. So long", True, 0),
    ({"use": "postscript", "marker": "P.P.S"}, "P.S. So long", False, 1),
    ({"use": "postscript", "marker": "P.S."}, "PS: So long", False, 1),
    # a rule is a bullet, bold text is none, and a lone star takes the line below with it
    ({"use": "number_bullet_lists", "num_bullets": 3}, "* a\n- b\n---\n**c**", 3, 0),
    ({"use": "number_bullet_lists", "num_bullets": 1}, "*\n* a", 1, 0),
    ({"use": "number_bullet_lists", "num_bullets": 3}, "* a", 1, 2),
    # sentences may stand in others
    ({"use": "constrained_response"}, "Well. My answer is no. Really.", "My answer is no.", 0),
    ({"use": "constrained_response"}, "my answer is no.", None, 1),
    # stray asterisks pair up
    ({"use": "number_highlighted_sections", "num_highlights": 3}, "*a* **b** 2 * 3 * 4", 3, 0),
    ({"use": "number_highlighted_sections", "num_highlights": 1}, "*a\nb* ** **", 0, 1),
    ({"use": "multiple_sections", "section_splitter": "Section", "num_sections": 2}, "Section 1\nSection II\nsection 3", 1, 1),
    # a bare number is JSON
    ({"use": "json_format"}, "```json\n12\n```", True, 0),
    ({"use": "json_format"}, '{"a": 1', False, 1),
    ({"use": "title"}, "<< >> <<a>>", "<< >> <<a>>", 0),
    ({"use": "title"}, "<<>>> <<a\nb>>", None, 1),
    ({"use": "two_responses"}, "a\n******\nb\n******", 2, 0),
    ({"use": "two_responses"}, "a\n******\na", 2, 1),
    ({"use": "two_responses"}, "a******b******c******d", 4, 2),
    ({"use": "repeat_prompt", "prompt_to_repeat": "Say it."}, " SAY IT. Fine.", 7, 0),
    ({"use": "repeat_prompt", "prompt_to_repeat": "Say it."}, "Say so.", 4, 3),
    ({"use": "starts_with", "start": "Dear"}, "dear all", 4, 0),
    ({"use": "end_checker", "end_phrase": "The end."}, 'It was. THE END."', "THE END.", 0),
    ({"use": "end_checker", "end_phrase": "end"}, "The end.", "nd.", 1),
    # straight marks only
    ({"use": "quotation"}, "“a”", ["“", "”"], 2),
    ({"use": "quotation"}, '"', ['"', '"'], 1),
    # "I", acronyms and both halves of a contraction are words in capitals
    ({"use": "capital_word_frequency", "frequency": 5, "relation": "exactly"}, "I DON'T like NASA or A-B", 5, 0),
    ({"use": "english_capital"}, "THE DOG RUNS OVER the HILLS", {"wrong_case": 3, "language": None}, 3),
    ({"use": "english_lowercase"}, "1", {"wrong_case": 0, "language": None}, 1),
    ({"use": "english_lowercase"}, "the dog runs over the hills in the evening", {"wrong_case": 0, "language": "en"}, 0),
    # full-width commas pass
    ({"use": "no_comma"}, "你好，a", 0, 0),
    ({"use": "no_comma"}, "a, b, c", 2, 2),
    ({"use": "response_language", "language": "de"}, "Das ist ein einfacher deutscher Satz.", "de", 0),
    ({"use": "response_language", "language": "de"}, "This is a plain English sentence.", "en", 1),
    ({"use": "response_language", "language": "zh"}, "这是一个很简单的中文句子，足够长了。", "zh-cn", 0),
    ({"use": "response_language", "language": "de"}, "12 !", "unknown", 0),
    ({"use": "matches", "pattern": r"^\d{2}:\d{2}$"}, "At\n12:30\nsharp", "12:30", 0),
    ({"use": "matches", "pattern": r"\d+", "where": "whole"}, " 12 a", None, 1),
]  # fmt: skip


@pytest.mark.parametrize(("use", "text", "measured", "distance"), HAND)
def test_measured_and_distance_are_those_worked_out_by_hand(use: Any, text: str, measured: Any, distance: float) -> None:
    finding = build_use("checkers", use, "c").check(text)
    assert (finding.measured, finding.distance, finding.passed) == (measured, distance, distance == 0)
    assert bool(finding.feedback) is not finding.passed


def test_every_checker_of_the_catalog_has_values_worked_out_by_hand() -> None:
    names = {entry.name for entry in catalog.list_kind("checkers")}
    assert {use["use"] for use, *_ in HAND} == names - {"ifbench"}
    assert len(names) == 25 + 5 + 1
    assert all(isinstance(build_use("checkers", use, "c"), Checker) for use, *_ in HAND)


def test_feedback_names_what_was_measured_and_what_to_change() -> None:
    words_ = lengths.NumberWords(num_words=150, relation="less than")
    finding = words_.check("word " * 213)
    assert finding.feedback == "The answer has 213 words where the request asks for fewer than 150 words: remove 64."
    assert finding.target == "fewer than 150 words"
    assert finding.span == (745, 749)  # the 150th word: 149 words of 5 characters before it
    assert words_.told() == "Use fewer than 150 words."
    few = marks.NumberBulletLists(num_bullets=3).check("* a\nb")
    assert few.feedback == "The answer has 1 bullet point where the request asks for exactly 3 bullet points: add 2 more."
    assert few.span is None
    never = lengths.NumberWords(num_words=0, relation="less than").check("a")
    assert never.feedback.endswith("nothing satisfies that.")
    assert "column 2" in shapes.JsonFormat().check("{a}").feedback
    assert '"NASA"' in words.Mentions(words=("NASA",)).check("nasal").feedback


def test_spans_are_the_first_stretch_that_offends() -> None:
    text = "One, rock and Rock."
    assert cases.NoComma().check(text).span == (3, 4)
    assert words.ForbiddenWords(forbidden_words=("rock",)).check(text).span == (5, 9)
    assert cases.EnglishLowercase().check(text).span == (0, 1)
    assert shapes.JsonFormat().check("  {a}").span == (3, 4)
    assert ends.StartsWith(start="One.").check(text).span == (3, 4)
    assert ends.EndChecker(end_phrase="Bye").check(text).span == (16, 19)


REPAIRS: list[tuple[dict[str, Any], str, str | None]] = [
    ({"use": "no_comma"}, "Yes, it is 1,000,5 a,b", "Yes it is 10005 a b"),
    ({"use": "english_capital"}, "The weather is nice and we go there.", "THE WEATHER IS NICE AND WE GO THERE."),
    ({"use": "english_capital"}, "The dog runs over the hills.", None),  # reads as German in capitals
    ({"use": "english_lowercase"}, "Das ist ein deutscher Satz.", None),  # small letters do not make it English
    ({"use": "quotation"}, "Hello.", '"Hello."'),
    ({"use": "quotation"}, "“Hello.”", '"Hello."'),
    ({"use": "quotation"}, '"Hello.', '"Hello."'),
    ({"use": "end_checker", "end_phrase": "The end"}, "It was. The end!", "It was. The end"),
    ({"use": "end_checker", "end_phrase": "Bye"}, '"It was."', '"It was.\n\nBye"'),
    ({"use": "end_checker", "end_phrase": "Bye"}, "", None),
    ({"use": "repeat_prompt", "prompt_to_repeat": "Say it now."}, "> **Say  it\nnow.**\n\nIt.", "Say it now.\n\nIt."),
    ({"use": "repeat_prompt", "prompt_to_repeat": "Say it now."}, "It.", "Say it now.\n\nIt."),
    ({"use": "starts_with", "start": "Dear all,"}, "we met.", "Dear all, we met."),
    ({"use": "title"}, "# My day\n\nIt was fine.", "<<My day>>\n\nIt was fine."),
    ({"use": "title"}, "My day\n\nIt was fine.", "<<My day>>\n\nIt was fine."),
    ({"use": "title"}, "It was fine.\n\nReally.", None),  # a sentence is no title
    ({"use": "postscript", "marker": "P.S."}, "Bye.\n\nPS: Love", "Bye.\n\nP.S. Love"),
    ({"use": "postscript", "marker": "P.S."}, "Bye.", None),  # somebody has to write one
    ({"use": "number_bullet_lists", "num_bullets": 2}, "A:\n• a\n• b\n---", "A:\n* a\n* b\n"),
    ({"use": "number_bullet_lists", "num_bullets": 2}, "A:\n* a", None),
    ({"use": "number_paragraphs", "num_paragraphs": 2}, "a\n\nb", "a\n\n***\n\nb"),
    ({"use": "number_paragraphs", "num_paragraphs": 2}, "a\n\nb\n\nc", None),
    ({"use": "json_format"}, 'Sure:\n```json\n{"a": 1}\n```\nBye', '{"a": 1}'),
    ({"use": "json_format"}, 'Sure: {"a": 1}.', '{"a": 1}'),
    ({"use": "json_format"}, "Sure.", None),
    ({"use": "constrained_response"}, "Maybe!", "My answer is maybe."),
    ({"use": "constrained_response"}, "So my answer is YES", "So My answer is yes."),
    ({"use": "constrained_response"}, "my answer is yes, my answer is no", None),
    ({"use": "two_responses"}, "a\n\n* * *\n\nb", "a\n\n******\n\nb"),
    ({"use": "two_responses"}, "a\n******\nb\n******\nc", "a\n\n******\n\nb"),
    ({"use": "two_responses"}, "a\n\nb", None),
]


@pytest.mark.parametrize(("use", "text", "repaired"), REPAIRS)
def test_repairs_change_as_little_as_they_can_or_nothing(use: Any, text: str, repaired: str | None) -> None:
    checker = build_use("checkers", use, "c")
    assert checker.repair(text) == repaired
    if repaired is not None:
        assert checker.check(repaired).passed
        assert checker.repair(repaired) == repaired


@pytest.mark.parametrize(
    ("use", "message"),
    [
        ({"use": "number_wrods"}, r"c\.use: no checker is called 'number_wrods' \(did you mean 'number_words'\?\)"),
        ({"use": "number_words", "num_words": 3, "relation": "about"}, r"c\.relation: .*'at least'"),
        ({"use": "number_words", "num_words": -1, "relation": "at least"}, r"c\.num_words: .*greater than or equal to 0"),
        ({"use": "keyword_existence", "keywords": []}, r"c\.keywords: "),
        ({"use": "keyword_existence", "keywords": [" "]}, r"c\.keywords\.0: "),
        ({"use": "letter_frequency", "letter": "ab", "frequency": 1, "relation": "at least"}, r"c\.letter: "),
        ({"use": "response_language", "language": "dee"}, r"c\.language: .*no language .*did you mean 'de'"),
        ({"use": "matches", "pattern": "("}, r"c\.pattern: .*is no regular expression"),
    ],
)  # fmt: skip
def test_what_cannot_be_asked_for_is_refused(use: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        build_use("checkers", use, "c")


def test_a_pattern_that_backtracks_for_ever_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shapes, "PATIENCE", 0.05)
    finding = shapes.Matches(pattern=r"^(a|a|aa)*$").check("a" * 60 + "!")
    assert not finding.passed
    assert "takes too long" in finding.feedback


@pytest.mark.parametrize(
    "text", ["[" * 50_000, "<<" * 20_000, "\n" * 50_000, "*\n" * 20_000, "- " * 20_000, "[[" * 9_000 + "{"]
)
def test_long_texts_of_one_sign_take_no_time_in_the_square_of_their_length(text: str) -> None:
    """Published patterns read to the end of the text from every line or bracket; here this test would not end with them."""
    for use, *_ in HAND:
        if use["use"] not in ("number_sentences", "capital_word_frequency"):
            build_use("checkers", use, "c").check(text)
