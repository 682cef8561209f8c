"""IFBench's types through the package if-verifiable: all that need no data, without a trace left behind."""

from __future__ import annotations

import random
import sys
from typing import Any

import pytest

from amends.constraints.checkers.ifbench import IFBench
from amends.constraints.ifbench import NEEDS_DATA, registry
from amends.core.errors import UserError
from amends.core.spec import build_use

pytest.importorskip("nltk")
pytestmark = pytest.mark.skipif(not __import__("importlib.util").util.find_spec("if_verifiable"), reason="no if-verifiable")

VALUES: dict[str, Any] = {
    "min_words": 2, "max_words": 5, "N": 2, "percentage": 10, "small_n": 2, "reference_text": "a b c d",
    "options": "yes/no/maybe", "word": "a", "sep": "...", "keyword1": "a", "keyword2": "b", "keyword3": "c", "keyword4": "d",
    "keyword5": "e", "keyword": "a",
    "n": 1, "m": 1, "prompt_to_repeat": "say hello to the world now", "n_start": 1, "n_end": 2,
}  # fmt: skip


def kwargs_of(kind: str) -> dict[str, Any]:
    """Some keywords for a type."""
    return {key: VALUES[key] for key in registry("ifbench")[kind](kind).get_instruction_args_keys()}


def test_all_types_but_two_run_without_data_on_any_text() -> None:
    kinds = [kind for kind in registry("ifbench") if kind not in NEEDS_DATA]
    assert (len(registry("ifbench")), len(kinds)) == (58, 56)
    state = random.getstate()
    for kind in kinds:
        checker = IFBench(type=kind, kwargs=kwargs_of(kind))
        for text in ("", "a", "Hello world. Is it so? Yes!\n\nAnd now.", '"A" and (b [c {d}])\n* e\n  - f'):
            finding = checker.check(text)
            assert finding == checker.check(text)
            assert finding.passed is (finding.distance == 0)
            assert finding.passed or finding.feedback
        assert checker.told()
    assert random.getstate() == state  # nothing was drawn


def test_loading_leaves_nothing_behind() -> None:
    import nltk

    registry.cache_clear()
    before = {name: module for name, module in sys.modules.items() if name.startswith(("nltk", "if_verifiable", "datasets"))}
    registry("ifbench")
    after = {name: module for name, module in sys.modules.items() if name.startswith(("nltk", "if_verifiable", "datasets"))}
    assert after == before
    assert sys.modules["nltk"] is nltk
    assert nltk.download.__module__.startswith("nltk")


@pytest.mark.parametrize(
    ("kind", "kwargs", "text", "passed"),
    [
        ("count:word_count_range", {"min_words": 2, "max_words": 3}, "one two three", True),
        ("count:word_count_range", {"min_words": 2, "max_words": 3}, "one", False),
        ("ratio:sentence_type", {}, "It is. It was. Is it?", True),
        ("ratio:sentence_type", {}, "It is. Is it?", False),
        ("words:palindrome", {}, "level civic radar madam kayak refer rotor stats tenet solos", True),
        ("format:options", {"options": "yes/no"}, "Yes.", True),
        ("format:no_whitespace", {}, "a b", False),
    ],
)
def test_verdicts_worked_out_by_hand(kind: str, kwargs: dict[str, Any], text: str, passed: bool) -> None:
    checker = build_use("checkers", {"use": "ifbench", "type": kind, "kwargs": {**kwargs, "letter": None}}, "c")
    assert checker.check(text).passed is passed


@pytest.mark.parametrize(
    ("kind", "kwargs", "message"),
    [
        ("count:numbrs", {}, r"has no type 'count:numbrs' \(did you mean 'count:numbers'\?\)"),
        ("count:numbers", {}, r"count:numbers needs N, and none is drawn"),
        ("count:numbers", {"N": -1}, r"kwargs\.N: published code draws at random in place of -1"),
        ("repeat:repeat_span", {"prompt_to_repeat": "a b c", "n_start": 0, "n_end": 2}, r"kwargs\.n_start: .* in place of 0"),
        ("count:numbers", {"N": 1, "M": 2}, r"kwargs\.M: count:numbers has no such keyword"),
    ],
)
def test_what_published_code_would_draw_at_random_is_refused(kind: str, kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        build_use("checkers", {"use": "ifbench", "type": kind, "kwargs": kwargs}, "c")


@pytest.mark.parametrize("kind", NEEDS_DATA)
def test_types_that_need_nltks_data_say_which(kind: str) -> None:
    import nltk

    place, name = NEEDS_DATA[kind]
    try:
        nltk.data.find(place)
    except LookupError:
        with pytest.raises(UserError, match=f"needs NLTK's data {name}, which are not here: python -m nltk.downloader {name}"):
            build_use("checkers", {"use": "ifbench", "type": kind, "kwargs": kwargs_of(kind)}, "c")
