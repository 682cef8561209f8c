"""Judged constraints and usefulness in a whole run, and what the page says of arms, seeds and the judge."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from bench_world import Amends
from chat_server import Handler, chat, server

from amends.core.paired import mcnemar
from amends.report.load import RunData, load
from amends.report.refined import _ends, _pair, refining
from amends.report.table import Table
from amends.runs.recipe import resolve
from amends.runs.record import read_json

pytestmark = pytest.mark.enable_socket

CONSTRAINTS = [
    {"id": "c1", "text": "No commas.", "checker": {"use": "no_comma"}},
    {"id": "c2", "text": "Be kind."},
]


def model_and_judge(handler: Handler, number: int) -> bool:
    """Uses commas for odd ovens until it is told not to; as a judge it sees them, and prefers answers that are kind."""
    body = handler.state.seen[number - 1]
    said = body["messages"][-1]["content"]
    if "Does the answer satisfy" in said:
        answer = said.split("Answer:\n")[1]
        kind, comma = "dear" in answer, "well, " in answer
        word = "yes" if ("<b>" not in answer and not comma if "No commas" in said else kind) else "no"
    elif "Which of the two" in said:
        word = "B" if "dear" in said.split("Answer B:")[1].split("Which of")[0] else "A"
    elif "Broken constraints" in said or body.get("temperature"):
        word = "dear me an oven"
    else:
        word = "well, <b>an oven" if "1" in said or "3" in said else "a dear oven"
    handler.answer(200, chat(word))
    return True


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    rows = [{"id": f"r{i}", "request": f"Tell me of oven number {i}.", "constraints": CONSTRAINTS} for i in range(4)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    (tmp_path / "arms.yaml").write_text(
        """
data: {use: real_requests, file: ROWS}
subject: {use: chat_model, client: {use: openai_api, base_url: URL, model: small, label: small, retries: 0}}
stages:
  single: {use: answer, by: single}
  decrim: {use: answer, by: {use: decrim, decomposer: gold, critic: programmatic, repair: false, rounds: 2}}
against: single
reading: {show: [test]}
measure:
  - {use: all_pass}
  - {use: judged}
  - {use: judged, what: requests}
  - {use: judge_rates, what: tpr}
  - {use: judge_rates, what: tnr}
  - {use: quality}
  - {use: quality, what: consistent}
headline: [all_pass.test, judged.test, quality.test]
expect: [{that: decrim.judged.test, at_least: 0.9}]
""".replace("ROWS", str(tmp_path / "rows.jsonl"))
    )
    return tmp_path / "arms.yaml"


def values(folder: Path, name: str) -> dict[str, float]:
    rows = read_json(folder / "results.json")["measurements"]
    return {m["subject"]: m["value"] for m in rows if m["name"] == name}


def test_a_run_judges_what_no_code_decides_and_a_second_look_asks_nothing(amends: Amends, recipe: Path) -> None:
    out = recipe.with_name("out")
    with server(model_and_judge) as s:
        words = ("run", recipe, "--set", f"subject.client.base_url={s.base_url}", "--out", out)
        code, _, err = amends(*words)
        assert code == 0, err
        asked = len(s.seen)
        kinds = [b["messages"][-1]["content"] for b in s.seen]
        # single: 4 answers, 2 constraints each; decrim: 4 first answers, 2 rewrites, whose 2 answers alone are new to the judge
        assert sum("Does the answer satisfy" in k for k in kinds) == 8 + 4
        assert sum("Which of the two" in k for k in kinds) == 2 * 2  # equal answers are ties
        assert amends(*words)[0] == 0 and len(s.seen) == asked
        (out / "results.json").unlink()
        code, _, err = amends(*words, "--set", "headline=[judged.test]", "--set", "measure.0=")  # all is read again, from books
        assert code == 0, err
        assert len(s.seen) == asked
    assert values(out, "judged.test") == {"single": 0.5, "decrim": 1.0}
    assert values(out, "judged.test.requests") == {"single": 0.5, "decrim": 1.0}
    assert values(out, "quality.test") == {"single": 0.0, "decrim": 0.5}
    assert values(out, "quality.test.consistent")["decrim"] == 1.0


def test_the_page_says_how_far_the_judge_can_be_believed(amends: Amends, recipe: Path) -> None:
    out = recipe.with_name("out")
    with server(model_and_judge) as s:
        assert amends("run", recipe, "--set", f"subject.client.base_url={s.base_url}", "--out", out)[0] == 0
    run = load(out)
    said = refining(run, Table(run))
    assert said is not None
    assert said.judge.startswith(
        "Where code decides, the judge calls 100\xa0% of the violated constraints violated and 100\xa0% of"
    )
    page = (out / "report.html").read_text()
    assert said.judge in page and "and a judge where no checker can" in page
    assert "well, <b>an oven" not in page and "well, &lt;b&gt;an oven" in page
    rates = {"judge_tpr.test": 0.25, "judge_tnr.test": 0.5}
    guessed = [{**m, "value": rates.get(m["name"], m["value"])} for m in run.measurements]
    coin = replace(run, measurements=tuple(guessed))
    told = refining(coin, Table(coin))
    assert told is not None and "no better than a coin on each of 2 arms: do not believe" in told.judge
    silent = [{**m, "value": math.nan if m["name"] in rates and m["subject"] == "decrim" else m["value"]} for m in guessed]
    one = replace(run, measurements=tuple(silent))
    alone = refining(one, Table(one))
    assert alone is not None and "no better than a coin: do not believe" in alone.judge


def test_a_judge_that_dies_while_arms_are_compared_loses_nothing(amends: Amends, recipe: Path) -> None:
    out = recipe.with_name("out")

    def dying(handler: Handler, number: int) -> bool:
        asked = [b for b in handler.state.seen[:number] if "Which of the two" in b["messages"][-1]["content"]]
        if "Which of the two" in handler.state.seen[number - 1]["messages"][-1]["content"] and len(asked) > 1:
            handler.answer(500, {"error": {"message": "gone"}})
            return True
        return model_and_judge(handler, number)

    with server(dying) as s:
        words = ("run", recipe, "--set", f"subject.client.base_url={s.base_url}", "--set", "subject.client.concurrency=1")
        code, _, err = amends(*words, "--out", out)
        assert code == 2 and "comparing: 3 of 4 questions got no answer" in err and "run again" in err
        s.script, before = model_and_judge, len(s.seen)
        assert amends(*words, "--out", out)[0] == 0
        assert len(s.seen) - before == 3
    assert values(out, "quality.test")["decrim"] == 0.5


def test_one_judge_serves_all_measurements_of_the_recipe() -> None:
    client = "{use: openai_api, base_url: 'http://127.0.0.1:1/v1', model: strong}"
    for profile, sets in (("real", [f"measure.9.judge.client={client}"]), ("paper", [])):
        asking = [m for m in resolve("decrim-ifeval", profile, sets).recipe.measure if hasattr(m, "judge")]
        assert len(asking) >= 6 and all(m.judge.client is not None for m in asking)
        assert len({str(m.judge) for m in asking}) == 1


# ---------------------------------------------------------------------- arm against arm


def scores(**by_seed: str) -> dict[tuple[int, str], float]:
    """`s0="110"`: under seed 0 the first two of three requests were won."""
    return {(int(s[1:]), f"r{i}"): float(c) for s, won in by_seed.items() for i, c in enumerate(won)}


def test_seeds_of_a_request_are_averaged_and_count_once() -> None:
    own = scores(s0="11100", s1="11000", s2="11010")
    other = scores(s0="00010", s1="01010", s2="00000")
    # gaps by request over the seeds: 1,1,1 | 1,0,1 | 1,0,0 | -1,-1,1 | 0,0,0
    pair = _pair({"own": own, "other": other}, "own", "other", True)
    assert pair is not None and (pair.won, pair.lost) == (3, 1)
    assert pair.value == pytest.approx((1 + 2 / 3 + 1 / 3 - 1 / 3 + 0) / 5)
    assert pair.p == mcnemar(3, 1) and "exact p = 0.62" in pair.sentence
    cancelled = _pair({"own": scores(s0="10", s1="01"), "other": scores(s0="01", s1="10")}, "own", "other", False)
    assert cancelled is not None and (cancelled.won, cancelled.lost, cancelled.p) == (0, 0, 1.0)


def test_more_equal_seeds_make_a_difference_no_surer() -> None:
    won, lost = "11111000", "00000001"
    one = _pair({"own": scores(s0=won), "other": scores(s0=lost)}, "own", "other", True)
    many = _pair({"own": scores(s0=won, s1=won, s2=won), "other": scores(s0=lost, s1=lost, s2=lost)}, "own", "other", True)
    assert one == many and one is not None and one.p == mcnemar(5, 1)


def test_only_seeds_and_requests_that_both_arms_have_are_compared() -> None:
    pair = _pair({"own": scores(s0="111", s1="111"), "other": scores(s0="00")}, "own", "other", True)
    assert pair is not None and (pair.won, pair.lost) == (2, 0)
    assert _pair({"own": scores(s0="1"), "other": {}}, "own", "other", True) is None


def test_an_arms_folders_are_its_own_and_its_seeds(tmp_path: Path) -> None:
    def left(folder: str, *stopped: str) -> None:
        where = tmp_path / "stages" / folder / "model"
        where.mkdir(parents=True)
        rows: list[dict[str, Any]] = [{"id": f"r{i}", "stopped": s} for i, s in enumerate(stopped)]
        (where / "records.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))

    left("03-decrim", "all_pass", "max_rounds")
    left("03-decrim-seed1", "all_pass")
    left("04-decrim-self", "critic_error")
    left("05-best-of-decrim", "budget")
    (tmp_path / "stages" / "judged.jsonl").write_text("")
    run = RunData(tmp_path, {}, "", (), (), (), (), (), (), ())
    assert _ends(run, "decrim") == (("all pass", 2), ("max rounds", 1))
    assert _ends(run, "decrim-self") == (("critic error", 1),)
    assert _ends(run, "best-of") == ()
