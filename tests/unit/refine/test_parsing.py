"""Lists and verdicts out of whatever a model writes: read where they are plain, told where they are not, never an exception."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from refine_world import KIND, Scripted, constraint, request, run

from amends.constraints.checkers.cases import NoComma
from amends.refine.arms.decrim import DeCRIM
from amends.refine.critics.judge import Judge
from amends.refine.critics.mixed import Mixed
from amends.refine.critics.supervised import Supervised
from amends.refine.decomposers.asked import Asked
from amends.refine.decomposers.gold import Gold
from amends.refine.ledger import as_text, from_json, to_json
from amends.refine.parsing import read_items, read_verdict, read_verdicts

ITEMS = [{"text": "Use under 80 words.", "category": "length"}, {"text": "Keep it light."}]
TEXTS = ["Use under 80 words.", "Keep it light."]


def texts(raw: str) -> list[str] | None:
    items, _ = read_items(raw)
    return None if items is None else [item.text for item in items]


@pytest.mark.parametrize(
    "raw",
    [
        json.dumps(ITEMS),
        f"Sure! Here is the list:\n```json\n{json.dumps(ITEMS, indent=2)}\n```\nLet me know [if] you need more.",
        json.dumps({"constraints": ITEMS}),
        json.dumps({"result": {"constraints": ITEMS}}["result"]),
        json.dumps([{"Constraint": t, "id": 7} for t in TEXTS]),
        json.dumps(TEXTS),
        json.dumps([TEXTS]),
        json.dumps(ITEMS)[:-1] + ', {"text": "Do not men',
        json.dumps([*ITEMS, 3, None, {"task": "a letter"}]),
        "1. Use under 80 words.\n2) Keep it light.",
        "The constraints are:\n- Use under 80 words.\n* **Keep it light.**\n",
    ],
)
def test_a_list_is_read_however_it_is_wrapped(raw: str) -> None:
    assert texts(raw) == TEXTS


@pytest.mark.parametrize("raw", ["[]", "```json\n[]\n```", '{"constraints": []}', "There are no constraints.", "None."])
def test_no_constraints_is_an_answer(raw: str) -> None:
    assert read_items(raw)[0] == ()


@pytest.mark.parametrize("raw", ["", "I like trains.", "{", '{"a": 1}', "\x00\ud800", "[1, 2]"])
def test_what_is_no_list_is_none_with_a_note(raw: str) -> None:
    items, notes = read_items(raw)
    assert items is None and len(notes) == 1


def test_the_other_fields_of_an_item() -> None:
    items, _ = read_items('[{"text": "a", "hard": false, "kind": " Tone ", "depends_on": [1, "c2", null]}]')
    assert items is not None
    assert (items[0].hard, items[0].category, items[0].depends_on) == (False, "tone", ("1", "c2"))


def test_a_list_that_was_cut_off_says_so() -> None:
    assert "cut off" in read_items('["a", "b", "c')[1][0]


@pytest.mark.parametrize(
    ("raw", "passed"),
    [
        ("Yes.", True), ("No, because it has 213 words.", False), ("yes", True), ("**No**", False), ("NO!", False),
        ("“Yes”", True),
        ("The answer has 80 words.\nVerdict: yes", True), ("Reason: too long.\n\n**Verdict:** no", False),
        ("It does not meet it.\nFinal answer: No.", False), ("Too long.\nNo", False), ("Short enough.\nYes.", True),
        ('{"reason": "too long", "verdict": "no"}', False), ('```json\n{"satisfied": true}\n```', True),
        ('{"Verdict": "Not satisfied"}', False), ("Verdict: cannot tell", None), ("Cannot tell from the text.", None),
        ("No doubt about it.", None), ("Verdict: yes/no", None), ("", None), ("Perhaps.", None), ("Yes. But then:\nNo.", None),
        ('{"verdict": "maybe"}', None), ('{"verdict": null}', None), ("Verdict: yes\nOn reflection...\nVerdict: no", False),
        ("First I thought yes, then no, it is hard to say", None), ("Yes\nYes", True), ("✅ Verdict — yes", True),
    ],
)  # fmt: skip
def test_a_verdict_is_read_where_it_is_plain(raw: str, passed: bool | None) -> None:
    assert read_verdict(raw).passed is passed


def test_a_verdict_that_cannot_be_read_says_why() -> None:
    assert "both yes and no" in read_verdict("Yes. But then:\nNo.").note
    assert "nothing" in read_verdict(" \n").note
    assert "no verdict" in read_verdict("Perhaps.").note


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        ("It has 213 words.\nVerdict: no", "It has 213 words."), ("No, because it has 213 words.", "it has 213 words."),
        ('{"reason": "It has\\n213 words.", "verdict": "no"}', "It has 213 words."), ("Reason: It shouts.\nNo", "It shouts."),
    ],
)  # fmt: skip
def test_its_reason_is_one_line(raw: str, reason: str) -> None:
    assert read_verdict(raw).reason == reason


@pytest.mark.parametrize(
    "raw",
    [
        '[{"id": "c1", "reason": "ok", "verdict": "yes"}, {"id": "c2", "reason": "too long", "verdict": "no"}]',
        '{"verdicts": [{"id": "C1", "verdict": true}, {"constraint": "c2", "passed": false}]}',
        '{"c1": "yes", "c2": {"verdict": "no"}}',
        "c1: yes\nc2: no, too long",
        "- **c1**: Yes.\n- **c2**: No.",
        'Here: [{"id": "c1", "verdict": "yes"}, {"id": "c2", "verdict": "no"}, {"id": "c3", "ver',
    ],
)
def test_several_verdicts_by_id(raw: str) -> None:
    found = read_verdicts(raw, ["c1", "c2", "c3"])
    assert [found[key].passed for key in ("c1", "c2", "c3")] == [True, False, None]
    assert found["c3"].note


def test_two_verdicts_on_one_id_that_disagree_are_none() -> None:
    found = read_verdicts('[{"id": "c1", "verdict": "yes"}, {"id": "c1", "verdict": "no"}]', ["c1"])
    assert found["c1"].passed is None and "both" in found["c1"].note


def test_c1_is_not_c10() -> None:
    found = read_verdicts("c10: no\nc1: yes", ["c1", "c10"])
    assert (found["c1"].passed, found["c10"].passed) == (True, False)


# ---------------------------------------------------------------------- any text at all

PIECES = st.sampled_from(
    ['[', ']', '{', '}', '"text": "a"', '"verdict": "yes"', "```json\n", "Verdict: ", "yes", "no", "- a\n",
     ",", "\n", "null", "1e999", '"c1":', "\\u"]
)  # fmt: skip
TREES: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(alphabet="yes no1.\n", max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["text", "verdict", "constraints", "id", "c1"]), inner, max_size=3)
    ),
    max_leaves=8,
)
WORDS = st.binary(max_size=60).map(lambda raw: raw.decode("utf-16-le", "replace")) | st.binary(max_size=60).map(
    lambda raw: raw.decode("latin-1")
)
ANYTHING = WORDS | st.lists(PIECES, max_size=14).map("".join) | TREES.map(json.dumps)


@settings(max_examples=150)
@given(ANYTHING)
def test_no_text_raises(raw: str) -> None:
    items, notes = read_items(raw)
    assert (items is None) == (bool(notes) and items is None)
    assert all(item.text for item in items or ())
    assert read_verdict(raw).passed in (True, False, None)
    assert set(read_verdicts(raw, ["c1", "c2"])) == {"c1", "c2"}


@settings(max_examples=60)
@given(st.data())
def test_a_valid_list_that_is_cut_anywhere_gives_no_item_it_did_not_hold(data: st.DataObject) -> None:
    whole = json.dumps(ITEMS)
    found = texts(whole[: data.draw(st.integers(0, len(whole)))])
    assert found is None or found == TEXTS[: len(found)]


@settings(max_examples=40)
@given(st.text(alphabet="abc xyz.,:\n\"'*", max_size=40), st.booleans())
def test_a_labelled_last_line_decides(chatter: str, passed: bool) -> None:
    assert read_verdict(f"{chatter}\nVerdict: {'yes' if passed else 'no'}").passed is passed


@pytest.mark.parametrize(
    "raw", ["[" * 100_000, '{"a":' * 20_000, "[1" + "0" * 10_000 + "]", "- " * 50_000, "verdict:" * 10_000]
)
def test_runaway_texts_take_no_time(raw: str) -> None:
    read_items(raw), read_verdict(raw), read_verdicts(raw, ["c1"])


# ---------------------------------------------------------------------- the same through the whole loop

NASTY = (
    "\ud800 yes", "\udfff\ud800", "\x00\x00Verdict: yes\x00", "\u202eVerdict: yes\u202c", "Verdict:\u200f no", "[" * 5_000,
    "{" * 5_000 + "}" * 5_000, '{"a":' * 2_000 + "1" + "}" * 2_000, "yes " * 20_000, "x" * 60_000, "\ufeff[]", "\U000e0001",
    '[{"text": "\\ud800"}, {"text": "\\u0000 no commas"}]', '{"c1": "\\ud83d", "verdict": "\\ud800yes"}',
    '[{"id": "c1", "verdict": NaN}]', '{"verdict": 1e999}', "-\u2028- a\u2029", "\r\r\n\x0b\x0c",
    '["a", ["b", {"text": ["c"]}], {"text": {"text": "d"}}]', '{"constraints": {"constraints": {"constraints": "x"}}}',
)  # fmt: skip
"""What models (and attackers) write: halves of characters, zeros, marks that turn the writing around, brackets without end."""


COMMA = constraint("comma", NoComma())


def settled_for(reply: str) -> None:
    """Every kind of call answers `reply`: a decomposer's list, verdicts one by one and in a batch, and the answer itself."""
    for critic in (Judge(), Judge(batched=True), Judge(reason=False), Judge(votes=2), Supervised(), Mixed(spare=False)):
        for decomposer in (Asked(), Gold()):
            client = Scripted(respond=reply, decompose=reply, judge=reply, supervised=reply, rewrite=reply)
            given_ = request(KIND, COMMA) if isinstance(decomposer, Gold) else request(prompt="Describe tea. No commas.")
            refined = run(DeCRIM(decomposer=decomposer, critic=critic, rounds=1).answer(given_, client))
            for attempt in refined.attempts:
                assert all(v.passed in (True, False, None) for v in attempt.verdicts)
            assert from_json(json.loads(json.dumps(to_json(refined)))) == refined
            as_text(refined)


@pytest.mark.parametrize("reply", NASTY)
def test_whatever_a_model_writes_the_loop_ends_with_verdicts(reply: str) -> None:
    settled_for(reply)


@settings(max_examples=15, deadline=None)
@given(st.lists(st.sampled_from(NASTY[:5]) | PIECES | st.text(max_size=8), max_size=6).map("".join))
def test_whatever_is_drawn_the_loop_ends_with_verdicts(reply: str) -> None:
    settled_for(reply)
