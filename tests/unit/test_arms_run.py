"""Arms as stages of a run: records, what they cost, what survives a dying server, what is measured and what the page says."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from bench_world import Amends
from chat_server import Handler, Server, chat, server
from scipy import stats

from amends.chat import openai_wire as wire
from amends.chat.client import Completion, Message, Params, Usage
from amends.constraints.checkers.cases import NoComma
from amends.constraints.checkers.words import KeywordExistence
from amends.constraints.constraint import Constraint, Verdict
from amends.core.errors import UserError
from amends.core.paired import mcnemar
from amends.core.types import Sample
from amends.data.bundle import Bundle
from amends.metrics.all_pass import AllPass
from amends.metrics.answer_length import AnswerLength, Degenerate
from amends.metrics.compliance import met
from amends.metrics.constraint_rate import ConstraintRate
from amends.metrics.critic_rates import CriticRates
from amends.metrics.evaluation import Evaluation
from amends.metrics.gain import Gain
from amends.metrics.spent import Spent, SpentPerGain
from amends.refine.answer import Replication
from amends.refine.parts import Attempt, Refined
from amends.refine.saved import to_json
from amends.report.load import load
from amends.report.refined import refining
from amends.report.table import Table
from amends.runs.record import read_json
from amends.subjects.responder import Responder

pytestmark = pytest.mark.enable_socket

NO_COMMA = {"id": "c1", "text": "No commas.", "checker": {"use": "no_comma"}}
OVEN = {
    "id": "c2",
    "text": "Mention the oven.",
    "checker": {"use": "keyword_existence", "keywords": ["oven"]},
    "depends_on": ["c1"],
}


# ---------------------------------------------------------------------- measurements by hand


def row(name: str, *constraints: dict[str, Any]) -> Sample:
    return Sample(name, {"prompt": f"Ask {name}.", "constraints": list(constraints)})


DATA = Bundle({"test": (row("a", NO_COMMA), row("b", NO_COMMA, OVEN), row("c", NO_COMMA))})


def evaluation(texts: dict[str, str], calls: int = 1, verdicts: dict[str, bool] | None = None) -> Evaluation:
    subject = Responder(None)
    for sample in DATA["test"]:
        said = tuple(Verdict(c, p, "judge") for c, p in (verdicts or {}).items() if sample.id != "c")
        attempts = (Attempt(0, "one two", said), Attempt(1, texts[sample.id], warnings=("short",) if sample.id == "c" else ()))
        from amends.data.instructed import request_of

        refined = Refined(request_of(sample), 1, attempts, "max_rounds", Usage(calls, 10, 5 * calls))
        subject.records[sample.id] = {**to_json(refined), "text": refined.text}
    return Evaluation(subject, DATA)


GOOD = {"a": "fine", "b": "the oven", "c": "no, it is not"}
POOR = {"a": "well, fine", "b": "the stove", "c": "no, it is not"}


def test_shares_of_requests_and_of_constraints() -> None:
    good, poor = evaluation(GOOD), evaluation(POOR)
    assert AllPass().measure(good).scores == {"a": 1.0, "b": 1.0, "c": 0.0}
    rate = ConstraintRate().measure(good)
    assert (rate.value, rate.n) == (pytest.approx(3 / 4), 4) and rate.low <= rate.value <= rate.high
    assert ConstraintRate(mean="macro").measure(good).value == pytest.approx(2 / 3)
    assert ConstraintRate().measure(poor).value == pytest.approx(1 / 4)
    gain = Gain().measure(good, poor)
    assert gain.value == pytest.approx(2 / 3) and gain.note == "2 gained, 0 lost, McNemar p = 0.5"
    assert Gain().measure(good, good).value == 0


def test_loose_forgives_markup_and_strict_does_not() -> None:
    starred = evaluation({**GOOD, "a": "Sure, here it is:\nfine"})
    assert AllPass().measure(starred).scores["a"] == 0.0
    assert AllPass(how="loose").measure(starred).scores["a"] == 1.0


def test_what_rests_on_a_violated_constraint_is_violated() -> None:
    first = Constraint(id="c1", text="", checker=NoComma())
    then = Constraint(id="c2", text="", checker=KeywordExistence(keywords=["oven"]), depends_on=("c1",))
    last = Constraint(id="c3", text="", checker=KeywordExistence(keywords=["oven"]), depends_on=("c2",))
    assert met((last, then, first), "an oven, hot", "strict") == {"c1": False, "c2": False, "c3": False}
    assert met((last, then, first), "an oven", "strict") == {"c1": True, "c2": True, "c3": True}


def test_costs_lengths_and_warnings() -> None:
    dear, cheap = evaluation(GOOD, calls=4), evaluation(POOR)
    assert Spent().measure(dear).value == 4 and Spent(what="new_tokens").measure(dear).value == 20
    per = SpentPerGain().measure(dear, cheap)
    assert per.value == pytest.approx((12 - 3) / 2) and math.isnan(SpentPerGain().measure(cheap, dear).value)
    assert math.isnan(SpentPerGain().measure(dear, dear).value)
    assert AnswerLength().measure(dear).scores == {"a": 1.0, "b": 2.0, "c": 4.0}
    assert AnswerLength(what="ratio").measure(dear).scores == {"a": 0.5, "b": 1.0, "c": 2.0}
    assert Degenerate().measure(dear).scores == {"a": 0.0, "b": 0.0, "c": 1.0}


def test_a_critic_is_measured_on_every_version_that_it_judged_and_on_no_other() -> None:
    judged = evaluation(GOOD, verdicts={"c1": False, "c2": False})  # of "one two": c1 is met, c2 is not
    assert CriticRates(what="tpr").measure(judged).value == 1.0
    assert CriticRates(what="tnr").measure(judged).value == 0.0
    both = CriticRates().measure(judged)
    assert both.value == 0.5 and both.n == 3
    none = CriticRates().measure(evaluation(GOOD))
    assert math.isnan(none.value) and none.note


def test_mcnemar_is_a_fair_coin_on_the_requests_that_differ() -> None:
    assert mcnemar(5, 0) == pytest.approx(2 / 32) and mcnemar(3, 3) == 1.0
    assert mcnemar(8, 1) == pytest.approx(2 * (1 + 9) / 2**9)
    for won, lost in ((0, 0), (1, 0), (7, 7), (12, 3), (3, 12), (400, 380)):
        assert mcnemar(won, lost) == pytest.approx(stats.binomtest(won, max(won + lost, 0)).pvalue if won + lost else 1.0)


def test_rows_that_nobody_answered_and_rows_without_checkers_are_said() -> None:
    with pytest.raises(UserError, match="no stage answered it"):
        AllPass().measure(Evaluation(Responder(None), DATA))
    bare = Bundle({"test": (Sample("a", {"prompt": "Hi", "constraints": [{"id": "c1", "text": "Be kind."}]}),)})
    subject = Responder(None)
    subject.records["a"] = {"text": "hi"}
    with pytest.raises(UserError, match="no row has a constraint that code can check"):
        AllPass().measure(Evaluation(subject, bare))


def test_records_come_back_as_they_were_saved(tmp_path: Path) -> None:
    subject = evaluation(GOOD).subject
    subject.save(tmp_path)
    other = Responder(None)
    other.restore(tmp_path)
    assert json.dumps(other.records) == json.dumps(subject.records) and other.fingerprint() == subject.fingerprint()
    (tmp_path / "records.jsonl").write_text('{"id": "a", "te')
    with pytest.raises(UserError, match="cannot be read"):
        other.restore(tmp_path)


# ---------------------------------------------------------------------- whole runs against a real server


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "FIRST_WAIT", 0.005)


def mending(handler: Handler, number: int) -> bool:
    """A model that uses commas at first, and leaves them out when it is told to; hot answers have none either."""
    body = handler.state.seen[number - 1]
    told = "comma" in body["messages"][-1]["content"] and len(body["messages"][-1]["content"]) > 60
    text = "an oven without" if told or (body.get("temperature") and body["seed"] % 2) else "well, an oven"
    handler.answer(200, chat(text))
    return True


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    rows = [{"id": f"r{i}", "request": f"Tell me of oven number {i}.", "constraints": [NO_COMMA, OVEN]} for i in range(6)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    (tmp_path / "arms.yaml").write_text(
        """
data: {use: real_requests, file: ROWS}
subject: {use: chat_model, client: {use: openai_api, base_url: URL, model: small, label: small, retries: 0, concurrency: 1}}
stages:
  single: {use: answer, by: single, at_once: 1}
  decrim:
    use: answer
    at_once: 1
    by: {use: decrim, decomposer: gold, critic: programmatic, repair: false, rounds: 2}
  best-of: {use: answer, at_once: 1, from: decrim, matched: true, by: {use: best_of}}
  noised:
    use: answer
    at_once: 1
    by: {use: decrim, decomposer: gold, critic: {use: noised, tpr: 1, tnr: 1}, repair: false, rounds: 2}
against: single
reading: {show: [test]}
measure: [{use: all_pass}, {use: gain}, {use: spent}, {use: critic_rates}]
headline: [all_pass.test, calls.test]
expect: [{that: decrim.all_pass.test, at_least: 1.0}]
""".replace("ROWS", str(tmp_path / "rows.jsonl"))
    )
    return tmp_path / "arms.yaml"


def values(folder: Path, name: str) -> dict[str, float]:
    rows = read_json(folder / "results.json")["measurements"]
    return {m["subject"]: m["value"] for m in rows if m["name"] == name}


def started(recipe: Path, s: Server, *more: str) -> tuple[object, ...]:
    cache = recipe.with_name("answers.sqlite")
    return ("run", recipe, "--set", f"subject.client.base_url={s.base_url}", "--set", f"subject.cache={cache}", *more)


def test_a_run_compares_arms_at_equal_calls_and_a_second_one_asks_nothing(amends: Amends, recipe: Path) -> None:
    first, again = recipe.with_name("first"), recipe.with_name("again")
    with server(mending) as s:
        code, _, err = amends(*started(recipe, s, "--out", str(first)))
        assert code == 0, err
        asked = len(s.seen)
        assert values(first, "all_pass.test") == {
            "single": 0.0,
            "decrim": 1.0,
            "best-of": pytest.approx(0.5, abs=0.5),
            "noised": 1.0,
        }
        calls = values(first, "calls.test")
        assert calls["single"] == 1 and calls["decrim"] == 2 and calls["best-of"] <= 2
        assert values(first, "critic_balanced.test")["noised"] == 1.0
        assert amends(*started(recipe, s, "--out", str(again)))[0] == 0
        assert len(s.seen) == asked
    assert values(again, "calls.test") == calls  # what it would cost without a cache
    run = load(first)
    said = refining(run, Table(run))
    assert said is not None and said.pairs[0].arm == "decrim" and said.pairs[0].equal
    assert "decrim is better than single at its own cost: +100.0 points" in said.pairs[1].sentence
    assert (said.pairs[1].won, said.pairs[1].lost) == (6, 0)
    assert dict(said.ends)["decrim"] == (("all pass", 6),)
    assert {s.name: s.method for s in run.stages}["best-of"] == "BestOf with Programmatic, as many calls as decrim"
    page = (first / "report.html").read_text()
    assert "Arm against arm" in page and "unlearning report" not in page


def test_a_server_that_dies_loses_nothing_and_the_rest_is_asked_later(amends: Amends, recipe: Path) -> None:
    out = recipe.with_name("out")

    def dying(handler: Handler, number: int) -> bool:
        if number > 3:
            handler.answer(500, {"error": {"message": "gone"}})
            return True
        return mending(handler, number)

    with server(dying) as s:
        code, _, err = amends(*started(recipe, s, "--out", str(out)))
        assert code == 2 and "3 of 6 requests got no answer" in err and "run again" in err
    kept = (out / "stages" / "01-single" / "answered.jsonl").read_text().splitlines()
    assert len(kept) == 3
    with (out / "stages" / "01-single" / "answered.jsonl").open("a") as file:
        file.write('{"key": "r5", "val')  # killed in the middle of a line
    with server(mending) as s:
        assert amends(*started(recipe, s, "--out", str(out)))[0] == 0
        first_stage = [b for b in s.seen if len(b["messages"][-1]["content"]) < 60 and not b.get("temperature")]
        assert len(first_stage) == 3
    assert len((out / "stages" / "01-single" / "answered.jsonl").read_text().splitlines()) == 6
    assert values(out, "all_pass.test")["decrim"] == 1.0


@pytest.mark.parametrize(("right", "ends"), [(True, "all pass"), (False, "critic error")])
def test_a_critic_is_calibrated_first_and_one_that_guesses_is_not_asked(
    amends: Amends, recipe: Path, right: bool, ends: str
) -> None:
    def judging(handler: Handler, number: int) -> bool:
        said = handler.state.seen[number - 1]["messages"][-1]["content"]
        if "Does the answer satisfy" not in said:
            return mending(handler, number)
        broken = "well, an oven" in said and "No commas" in said
        handler.answer(200, chat("no" if broken == right else "yes"))
        return True

    out = recipe.with_name("out")
    judge = "{use: decrim, decomposer: gold, repair: false, rounds: 2, critic: {use: judge, reason: false}}"
    noised = f"stages.noised={{use: answer, from: single, calibrate: 4, by: {judge}}}"
    with server(judging) as s:
        code, _, err = amends(*started(recipe, s, "--set", noised, "--set", "data.without=[mentions]", "--out", str(out)))
    assert code == 0, err
    said = (out / "log.txt").read_text()
    assert ("the critic on all constraints" in said) is not right
    run = load(out)
    found = refining(run, Table(run))
    assert found is not None and dict(found.ends)["noised"] == ((ends, 6),)


def test_drawn_answers_differ_from_seed_to_seed_and_greedy_ones_do_not() -> None:
    asked: list[Params] = []

    class Noting:
        name = "noting"

        async def complete(self, messages: Sequence[Message], params: Params) -> Completion:
            asked.append(params)
            return Completion("")

    for seed in (0, 1, 1):
        for temperature in (0.0, 0.8):
            asyncio.run(Replication(Noting(), seed).complete([], Params(temperature=temperature, seed=3)))
    greedy, drawn = asked[::2], asked[1::2]
    assert {p.seed for p in greedy} == {3}
    assert drawn[0].seed != drawn[1].seed == drawn[2].seed


def test_bad_arms_are_said_before_anything_is_asked(amends: Amends, recipe: Path) -> None:
    with server(mending) as s:
        for change, said in (
            ("stages.best-of.by.use=single", "matched: Single takes no number of calls"),
            ("stages.single.calibrate=3", "calibrate: Single has no critic that can be calibrated"),
            ("stages.single.on=[nobody]", "data has no role 'nobody'"),
            ("stages.single.by=singel", "no arm is called 'singel'"),
            ("stages.decrim.by.critic=nobody", "no critic is called 'nobody'"),
        ):
            code, _, err = amends(*started(recipe, s, "--set", change, "--out", str(recipe.with_name("bad"))))
            assert code == 2 and said in err, err
        assert s.seen == []


# ---------------------------------------------------------------------- commands


@pytest.fixture
def sheet(tmp_path: Path) -> Path:
    path = tmp_path / "sheet.yaml"
    path.write_text(
        "prompt: Tell me of the oven.\nconstraints:\n- {id: c1, text: No commas., use: no_comma}\n"
        "- {id: c2, text: Be kind., hard: false}\n"
    )
    return path


def test_refine_mends_an_answer_and_keeps_the_ledger(amends: Amends, sheet: Path) -> None:
    out = sheet.with_name("out.json")
    with server(mending) as s:
        code, said, err = amends(
            "refine", "--sheet", sheet, "--model", s.base_url, "--critic", "programmatic", "--no-repair", "--out", out,
            "--save-sheet", sheet.with_name("again.yaml"),
        )  # fmt: skip
    assert code == 0 and said == "an oven without\n"
    assert "Version 1 (best)" in err and "no constraint is violated" in err
    kept = json.loads(out.read_text())
    assert [a["text"] for a in kept["attempts"]] == ["well, an oven", "an oven without"]
    assert sheet.with_name("again.yaml").read_text().count("- id:") == 2


def test_check_looks_by_code_alone_and_its_exit_code_says_what_it_found(amends: Amends, sheet: Path) -> None:
    answer = sheet.with_name("answer.txt")
    answer.write_text("Sure, gladly:\nan oven")
    code, said, _ = amends("refine", "--check", "--sheet", sheet, "--answer", answer)
    assert code == 1 and "violated" in said and "not checked" in said
    assert amends("refine", "--check", "--loose", "--sheet", sheet, "--answer", answer)[0] == 0
    for words, said in (
        (("refine", "--check", "--sheet", sheet), "give --sheet and --answer"),
        (("refine",), "nothing is asked"),
        (("refine", "--check", "--sheet", sheet.with_name("none.yaml"), "--answer", answer), "cannot be read"),
        (("refine", "--check", "--sheet", sheet, "--answer", sheet.with_name("none.txt")), "cannot be read"),
    ):
        code, _, err = amends(*words)
        assert code == 2 and said in err


def test_a_server_that_is_not_there_is_told_with_the_remedy(amends: Amends, sheet: Path) -> None:
    with server(mending) as s:
        address = s.base_url
    code, said, err = amends("refine", "--sheet", sheet, "--model", address, "--name", "small")
    assert code == 2 and said.strip() == "" and "is a server running there?" in err


@pytest.fixture
def ran(amends: Amends, recipe: Path) -> Iterator[Path]:
    out = recipe.with_name("out")
    with server(mending) as s:
        assert amends(*started(recipe, s, "--out", str(out)))[0] == 0
    yield out


def test_traces_become_pairs_and_a_critics_rows(amends: Amends, ran: Path) -> None:
    pairs, rows = ran / "pairs.jsonl", ran / "rows.jsonl"
    code, said, _ = amends("export", ran, "--pairs", pairs, "--critic", rows, "--stages", "decrim")
    assert code == 0 and "6 pairs" in said
    first = json.loads(pairs.read_text().splitlines()[0])
    assert first["chosen"] == "an oven without" and first["rejected"] == "well, an oven"
    labels = [json.loads(line)["label"] for line in rows.read_text().splitlines()]
    assert set(labels) == {"yes", "no"}
    from amends.data.critic_rows import CriticRows

    data = CriticRows(file=str(rows), test=0.34).load(0)
    asked = {role: {s.data["request"] for s in found} for role, found in data.roles.items()}
    assert asked["train"] and asked["test"] and not asked["train"] & asked["test"]
    for words, said in (
        (("export", ran), "say what to write"),
        (("export", ran, "--pairs", pairs, "--stages", "nobody"), "no stage of this run is called so"),
        (("export", ran.parent, "--pairs", pairs), "holds no stages"),
    ):
        code, _, err = amends(*words)
        assert code == 2 and said in err
