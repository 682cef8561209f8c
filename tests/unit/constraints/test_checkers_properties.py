"""What holds of every checker on any text whatever."""

from __future__ import annotations

import json
from typing import Any

import pytest
from checker_uses import USES
from constraint_answers import PROSE
from hypothesis import given
from hypothesis import strategies as st

from amends.constraints.looked import look, passes, variants
from amends.core.spec import build_use

BITS = [
    *PROSE, "a", "A", "I", " ", "\n", "\n\n", "*", "***", "******", "- ", "* ", "[", "]", "<<", ">>", '"', "“", "'", ",", ".",
    "P.S.", "ps: ", "Section 1", "{", "}", "```", "```json\n", "1", "İ", "ß", "ǅ", "\u2028", "\x1c", "\r", "A b.", "no",
    "the END", "my answer is yes", "---", "• ", "# a", "你好",
]  # fmt: skip
TEXTS = st.one_of(st.text(max_size=60), st.lists(st.sampled_from(BITS), max_size=9).map("".join))


@pytest.mark.parametrize("use", USES, ids=lambda use: use["use"])
@given(text=TEXTS)
def test_on_any_text_a_finding_is_whole_the_same_again_and_inside_the_text(use: dict[str, Any], text: str) -> None:
    checker = build_use("checkers", use, "c")
    finding = checker.check(text)
    assert finding.passed is (finding.distance == 0)
    assert finding.distance >= 0
    assert bool(finding.feedback) is not finding.passed
    assert json.loads(json.dumps(finding.measured)) == finding.measured
    if finding.span is not None:
        assert not finding.passed
        assert 0 <= finding.span[0] <= finding.span[1] <= len(text)
    checker.check(text[::-1])
    assert checker.check(text) == finding
    assert checker.told() == build_use("checkers", use, "c").told()
    assert checker.told().endswith((".", '"'))


REPAIRABLE = [use for use in USES if hasattr(build_use("checkers", use, "c"), "repair")]


def test_what_can_be_repaired_is_known() -> None:
    assert {use["use"] for use in REPAIRABLE} == {
        "number_paragraphs", "postscript", "number_bullet_lists", "constrained_response", "json_format", "title",
        "two_responses", "repeat_prompt", "starts_with", "end_checker", "quotation", "english_capital", "english_lowercase",
        "no_comma",
    }  # fmt: skip


@pytest.mark.parametrize("use", REPAIRABLE, ids=lambda use: use["use"])
@given(text=TEXTS)
def test_a_repaired_text_passes_and_one_that_passes_is_left_alone(use: dict[str, Any], text: str) -> None:
    checker = build_use("checkers", use, "c")
    repaired = checker.repair(text)
    if not text.strip():
        assert repaired is None
    elif checker.check(text).passed:
        assert repaired == text
    if repaired is not None:
        assert checker.check(repaired).passed
        assert checker.repair(repaired) == repaired


@given(text=TEXTS)
def test_loose_is_never_stricter_than_strict_and_an_empty_answer_meets_nothing(text: str) -> None:
    for use in ({"use": "no_comma"}, {"use": "quotation"}, {"use": "number_words", "num_words": 3, "relation": "less than"}):
        checker = build_use("checkers", use, "c")
        strict, loose = passes(checker, text)
        assert loose or not strict
        if not text.strip():
            assert (strict, loose) == (False, False)
            assert look(checker, text).feedback == "The answer is empty: write one."
    assert len(variants(text)) <= 8
    assert all(variant.strip() for variant in variants(text))
