"""The ledger a person reads, its JSON there and back, and what is exported for training."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from refine_world import KIND, LOWER, OVEN, SHORT, AtMost, Has, Lower, Scripted, request, run

from amends.chat.client import Usage
from amends.constraints.constraint import Verdict
from amends.constraints.looked import EMPTY
from amends.core import catalog
from amends.core.errors import UserError
from amends.refine.critics.mixed import Mixed
from amends.refine.critics.programmatic import Programmatic
from amends.refine.decomposers.gold import Gold
from amends.refine.export import critic_rows, dominates, preference_pairs, write_rows
from amends.refine.frame import critic_prompt
from amends.refine.ledger import WHY, as_text, from_json, to_json
from amends.refine.loop import refine
from amends.refine.parts import Attempt, Refined

LONG = "one two three four five six seven eight"
WORLD = {"AtMost": AtMost, "Lower": Lower, "Has": Has}


@pytest.fixture(autouse=True)
def _catalogued(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The small world's checkers, as if they were installed."""
    entries = [catalog.Entry("checkers", n.lower(), n, "refine_world", lambda c=c: c) for n, c in WORLD.items()]
    monkeypatch.setitem(catalog._added, "checkers", entries)
    yield


def mended() -> Refined:
    client = Scripted(respond=LONG, rewrite=["in the oven", f"{LONG} OVEN"], judge="It is curt.\nVerdict: no")
    asked = request(SHORT, replace(OVEN, hard=False), KIND)
    return run(refine(asked, client, decomposer=Gold(), critic=Mixed(), rounds=2))


def test_the_ledger_says_what_was_asked_found_changed_and_why_it_ended() -> None:
    text = as_text(mended())
    first, second, third = text.split("Version ")[1:4]
    assert "first answer; 1 call" in first and "8 -> at most 6 words" in first and "cannot tell" in first
    assert second.startswith("1 (best): rewritten from 0, 100% of its words changed; 2 calls")
    assert "met, mended" in second and "It is curt." in second and "(soft)" in second
    assert "violated, broken" in third
    assert "Ended because the rounds are used up. Version 1 is returned: 2 of 3 constraints met." in text
    assert "In all: 4 calls" in text


def test_a_narrow_screen_loses_nothing() -> None:
    narrow = as_text(mended(), width=60)
    assert max(map(len, narrow.splitlines())) <= 60
    assert all(word in narrow for word in ("violated", "mended", "judge", "checker"))


def test_markup_in_an_answer_is_text() -> None:
    refined = Refined(request(prompt="[bold]x[/nope]"), 0, (Attempt(0, "[/x]", warnings=("[red]",)),), "max_rounds", Usage())
    assert "[bold]x[/nope]" in as_text(refined) and "[red]" in as_text(refined)


@pytest.mark.parametrize("why", WHY)
def test_every_reason_to_stop_has_words(why: str) -> None:
    assert WHY[why] in as_text(replace(mended(), stopped=why)).replace("\n", " ")


def test_json_there_and_back_is_the_same_thing() -> None:
    refined = mended()
    again = from_json(json.loads(json.dumps(to_json(refined))))
    assert again == refined and as_text(again) == as_text(refined)
    assert to_json(refined)["request"]["constraints"][0]["checker"] == {"use": "atmost", "n": 6}


def test_a_span_survives() -> None:
    client = Scripted(respond="bake IT", rewrite="x")
    refined = run(refine(request(LOWER), client, decomposer=Gold(), critic=Programmatic(), repair=False, rounds=0))
    assert refined.attempts[0].verdicts[0].span == (5, 6)
    assert from_json(json.loads(json.dumps(to_json(refined)))) == refined


@pytest.mark.parametrize("tree", [{}, [], {"version": 1}, {"version": 99}, {"version": 1, "request": {"id": "x"}}])
def test_something_else_is_the_users_mistake(tree: object) -> None:
    with pytest.raises(UserError, match=r"^line 3: not a refined answer"):
        from_json(tree, "line 3")  # type: ignore[arg-type]


def test_a_checker_that_is_not_installed_is_named() -> None:
    tree = to_json(mended())
    tree["request"]["constraints"][0]["checker"]["use"] = "atmast"
    with pytest.raises(
        UserError, match=r"trace\.short\.checker\.use: no checker is called 'atmast' \(did you mean 'atmost'\?\)"
    ):
        from_json(tree)


# ---------------------------------------------------------------------- exports


def attempt(text: str, *passed: bool | None, warnings: tuple[str, ...] = ()) -> Attempt:
    return Attempt(0, text, tuple(Verdict(f"c{i}", p, "checker") for i, p in enumerate(passed)), warnings=warnings)


def test_one_version_dominates_where_it_only_gains_and_all_is_known() -> None:
    assert dominates(attempt("a", True, True), attempt("b", True, False))
    assert not dominates(attempt("a", True, False), attempt("b", False, True))
    assert not dominates(attempt("a", True, True), attempt("b", True, True))
    assert not dominates(attempt("a", True, True), attempt("b", True, None))
    assert dominates(attempt("a", True, None), attempt("b", False, None))
    assert not dominates(attempt("a", True), attempt("b", False, False))
    assert not dominates(attempt("a", True, warnings=("0.2 times as long",)), attempt("b", False))
    assert dominates(attempt("a", True, warnings=("0.2 times as long",)), attempt("b", False, warnings=("0.3 times as long",)))


def test_pairs_and_rows_of_a_run(tmp_path: Path) -> None:
    client = Scripted(respond=LONG, rewrite=["bread in the oven is baked", LONG])
    refined = run(refine(request(SHORT, OVEN, KIND), client, decomposer=Gold(), critic=Programmatic(), rounds=2))
    pairs = preference_pairs(refined)
    assert [(p["chosen"], p["rejected"], p["gained"]) for p in pairs] == [
        ("bread in the oven is baked", LONG, ["oven", "short"])
    ]  # fmt: skip
    rows = critic_rows(refined)
    assert [(r["constraint"], r["label"]) for r in rows] == [("short", "no"), ("oven", "no"), ("short", "yes"), ("oven", "yes")]
    assert rows[0]["prompt"] == critic_prompt(refined.request, SHORT, LONG)
    assert {r["source"] for r in rows} == {"checker"}
    assert write_rows(rows, tmp_path / "rows.jsonl") == 4
    assert [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text("utf-8").splitlines()] == rows


def test_a_judges_verdicts_are_exported_only_when_asked_for() -> None:
    refined = mended()
    assert "kind" not in {r["constraint"] for r in critic_rows(refined)}
    assert "kind" in {r["constraint"] for r in critic_rows(refined, ("judge",))}


def test_what_follows_from_another_verdict_is_no_row() -> None:
    asked = request(SHORT, replace(LOWER, depends_on=("short",)))
    refined = run(refine(asked, Scripted(respond=LONG), decomposer=Gold(), critic=Programmatic(), rounds=0))
    assert [r["constraint"] for r in critic_rows(refined)] == ["short"]


def test_a_verdict_that_was_not_measured_is_shown_by_its_reason() -> None:
    """`3 -> at least 2` beside "violated" would be read as a defect where the cause is another constraint or an empty text."""
    asked = request(replace(SHORT, depends_on=("c2",)), replace(LOWER, id="c2"))
    rested = Verdict("c1", False, "checker", "rests on c2, which is violated", 0.0, 3, "at most 6 words")
    empty = Verdict("c2", False, "checker", EMPTY, 0.0, 0, "small letters", 1.0)
    refined = Refined(
        asked, 0, (Attempt(0, "", (replace(rested, constraint=asked.constraints[0].id), empty)),), "budget", Usage()
    )
    text = as_text(refined, width=160)
    assert "rests on c2, which is violated" in text and EMPTY in text
    assert "3 -> at most" not in text and "0 -> small" not in text


def test_what_the_cache_answered_is_counted_beside_the_cost() -> None:
    refined = mended()
    assert "4 calls, " in as_text(refined)
    assert "4 calls (1 from the cache), " in as_text(replace(refined, usage=replace(refined.usage, cached=1)))
    assert "4 calls (from the cache), " in as_text(replace(refined, usage=replace(refined.usage, cached=4)))
