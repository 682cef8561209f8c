"""What the page says of numbers: means and intervals over seeds, the headline, the verdict, the limits, the answers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sample_run import edit, put, write_run
from scipy import stats

from amends.report import samples
from amends.report.build import build
from amends.report.limits import controls, not_tested
from amends.report.load import load
from amends.report.table import HEADLINE, Cell, Table, aggregate, t_interval
from amends.report.text import summary
from amends.report.verdict import attacks_on, kept_share, method_sentence, verdict, worst_attacks
from amends.report.words import interval, number


def row(value: Any, seed: int = 0, **more: Any) -> dict[str, Any]:
    return {"seed": seed, "value": value, "low": 0.1, "high": 0.9, "n": 12, "better": "lower", **more}


def table_of(folder: Path, **options: Any) -> Table:
    return Table(load(write_run(folder, **options)))


@given(st.lists(st.floats(-100, 100), min_size=2, max_size=8))
def test_the_interval_over_seeds_is_scipys(values: list[float]) -> None:
    low, high = t_interval(values)
    scale = stats.sem(values)
    expected = stats.t.interval(0.95, len(values) - 1, loc=sum(values) / len(values), scale=scale) if scale > 0 else (low, high)
    assert (low, high) == pytest.approx(expected, rel=1e-6, abs=1e-6)


def test_one_seed_keeps_the_runs_own_interval() -> None:
    cell = aggregate([row(0.4)], "probability.forget")
    assert cell is not None and (cell.value, cell.low, cell.high, cell.n, cell.seeds) == (0.4, 0.1, 0.9, 12, 1)


def test_two_seeds_have_a_mean_a_spread_and_an_interval_over_seeds() -> None:
    cell = aggregate([row(1.0, 0, n=12), row(3.0, 1, n=9)], "loss")
    assert cell is not None and cell.value == 2.0 and cell.spread == (1.0, 3.0) and cell.n == 9
    assert (cell.low, cell.high) == pytest.approx((2 - 12.7062, 2 + 12.7062), abs=1e-3)


def test_an_interval_is_cut_only_where_the_metric_ends() -> None:
    shares = [row(0.1, 0), row(0.3, 1)]
    cut, free = aggregate(shares, "probability.forget"), aggregate(shares, "kl.forget")
    assert cut is not None and (cut.low, cut.high) == (0.0, 1.0)
    assert free is not None and free.low is not None and free.low < -1


@pytest.mark.parametrize("value", [None, float("nan"), float("inf"), "0.4", True])
def test_what_is_no_number_is_left_out(value: Any) -> None:
    assert aggregate([row(value)], "m") is None
    cell = aggregate([row(value, 0), row(0.5, 1)], "m")
    assert cell is not None and cell.value == 0.5 and cell.seeds == 1 and (cell.low, cell.high) == (0.1, 0.9)


def test_a_seed_that_was_written_twice_counts_once() -> None:
    cell = aggregate([row(0.2, 1), row(0.4, 1)], "m")
    assert cell is not None and cell.value == 0.4 and cell.seeds == 1


def test_overlap_needs_two_intervals() -> None:
    a, b, c = (Cell(v, lo, hi, 3, {0: v}) for v, lo, hi in ((1, 0, 2), (3, 2, 4), (6, 5, 7)))
    bare = Cell(1, None, None, 3, {0: 1})
    assert (a.overlaps(b), a.overlaps(c), c.overlaps(a), a.overlaps(bare)) == (True, False, False, None)


def test_subjects_stand_in_reading_order_whatever_the_file_says(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    found = json.loads((run / "results.json").read_text())
    manifest = json.loads((run / "manifest.json").read_text())
    edit(run, "results.json", {"measurements": found["measurements"][::-1]})
    edit(run, "manifest.json", {"stages": manifest["stages"][::-1]})
    assert Table(load(run)).subjects == ("original", "retrain", "ascent", "npo")


def test_the_headline_is_short_and_has_what_matters(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    found = json.loads((run / "results.json").read_text())
    extra = [{**row(0.5), "subject": "npo", "name": f"odd{i}.forget", "attack": None} for i in range(20)]
    edit(run, "results.json", {"measurements": extra + found["measurements"]})
    table = Table(load(run))
    assert len(table.headline) == HEADLINE
    assert {"probability.forget", "accuracy.forget.paraphrase", "forget_quality", "utility", "probability.neighbour"} <= set(
        table.headline
    )
    assert (table.target, table.keeping) == ("probability.forget", "probability.neighbour")


def test_a_paraphrase_is_never_the_target_while_the_question_itself_was_asked(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    names = ("accuracy.forget.paraphrase", "rouge.forget", "accuracy.neighbour.paraphrase", "rouge.neighbour")
    made = [
        {**row(0.5), "better": "higher" if "neighbour" in n else "lower", "subject": "npo", "name": n, "attack": None}
        for n in names
    ]
    edit(run, "results.json", {"measurements": made})
    table = Table(load(run))
    assert (table.target, table.keeping) == ("rouge.forget", "rouge.neighbour")


def test_the_verdict_is_computed_from_the_numbers(tmp_path: Path) -> None:
    table = table_of(tmp_path / "run")
    said = method_sentence(table, "npo").replace("\N{NO-BREAK SPACE}", " ")
    assert said == (
        "npo: forget probability 0.81 → 0.042 (retrained model: 0.06), the neighbours kept 94 % of their probability, "
        "relearning brings back 62 %."
    )
    assert kept_share(table, "npo") == pytest.approx(0.695 / 0.74)
    head = verdict(table.run, table)
    assert head.sentence.startswith("Of 2 methods, npo forgets most while keeping at least") and head.trouble == ""
    assert [line.partition(":")[0] for line in head.others] == ["ascent"], "ascent forgets more, but keeps 11 %"


def test_without_a_method_that_keeps_enough_none_is_recommended(tmp_path: Path) -> None:
    table = table_of(tmp_path / "run", without=("npo",))
    assert verdict(table.run, table).sentence.startswith("ascent: ")
    run = write_run(tmp_path / "two")
    found = json.loads((run / "results.json").read_text())["measurements"]
    for m in found:
        if m["subject"] == "npo" and m["name"] == "probability.neighbour":
            m["value"] = 0.5
    edit(run, "results.json", {"measurements": found})
    table = Table(load(run))
    assert verdict(table.run, table).sentence.startswith("None of 2 methods kept")


def test_the_worst_attack_on_each_method_is_set_against_the_control(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    found = json.loads((run / "results.json").read_text())
    back = {"seed": 0, "attack": "quantise", "metric": "probability.forget", "n": 36}
    found["recovered"] += [
        {**back, "subject": "npo", "value": 0.8, "low": 0.7, "high": 0.9},
        {**back, "subject": "ascent", "value": 0.1, "low": 0.0, "high": 0.2},
        {**back, "subject": "retrain", "value": 0.75, "low": 0.6, "high": 0.9},
    ]
    edit(run, "results.json", found)
    worst = worst_attacks(Table(load(run)))
    assert [(a.method, a.attack) for a in worst] == [("npo", "quantise"), ("ascent", "relearn")]
    assert "cannot be told apart" in worst[0].sentence and "hidden rather than removed" in worst[1].sentence


def test_an_attack_is_shown_as_it_calls_itself_and_by_its_name_in_old_results(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    found = json.loads((run / "results.json").read_text())
    named = [{**r, "attack": "relearn-50-percent"} for r in found["recovered"]]
    edit(run, "results.json", {**found, "recovered": named})
    assert attacks_on(Table(load(run)), "npo")[0].label == "relearning on 50 % of the rows"
    label = "relearning on 50 % of the <rows>"
    edit(run, "results.json", {**found, "recovered": [{**r, "label": label} for r in named]})
    (hit,) = attacks_on(Table(load(run)), "npo")
    assert (hit.attack, hit.label) == ("relearn-50-percent", label)
    assert hit.sentence.startswith("Relearning on 50 % of the <rows> brings back")
    assert f"back by {label} v" in summary(run) and "relearn-50-percent" not in summary(run)
    page = build(run).read_text()
    assert "relearning on 50 % of the &lt;rows&gt;" in page
    assert "relearn-50-percent" not in page


def test_without_a_control_nothing_is_concluded_and_an_undefined_share_is_no_attack(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", without=("retrain",))
    found = json.loads((run / "results.json").read_text())["recovered"]
    edit(run, "results.json", {"recovered": [{**r, "value": None} if r["subject"] == "ascent" else r for r in found]})
    table = Table(load(run))
    assert "Without a retrained control" in attacks_on(table, "npo")[0].sentence
    assert attacks_on(table, "ascent") == []


ABSENCES = [
    ("retrain", "No model retrained without the forget set"),
    ("original", "The original model was not measured"),
    ("attack", "No attack was tried"),
    ("samples/answers.jsonl", "No answers were kept"),
    ("claims.json", "The recipe makes no claim"),
]


@pytest.mark.parametrize(("absent", "sentence"), ABSENCES)
def test_what_is_absent_is_said_and_what_is_there_is_not(tmp_path: Path, absent: str, sentence: str) -> None:
    whole, part = table_of(tmp_path / "whole"), table_of(tmp_path / "part", without=(absent,))
    assert sentence not in " ".join(not_tested(whole.run, whole))
    assert sentence in " ".join(not_tested(part.run, part))


@pytest.mark.parametrize(("metric", "sentence"), [
    ("mia", "Membership inference"), ("paraphrase", "paraphrases were not tried"), ("neighbour", "locality near them"),
])  # fmt: skip
def test_a_metric_that_was_not_measured_is_said(tmp_path: Path, metric: str, sentence: str) -> None:
    whole = table_of(tmp_path / "whole")
    assert sentence not in " ".join(not_tested(whole.run, whole))
    run = write_run(tmp_path / "run")
    found = json.loads((run / "results.json").read_text())["measurements"]
    edit(run, "results.json", {"measurements": [m for m in found if metric not in m["name"]]})
    table = Table(load(run))
    assert sentence in " ".join(not_tested(table.run, table))


def test_one_seed_is_a_limit_and_three_are_not(tmp_path: Path) -> None:
    one, three = table_of(tmp_path / "one"), table_of(tmp_path / "three", seeds=(0, 1, 2))
    assert "One seed" in " ".join(not_tested(one.run, one)) and "One seed" not in " ".join(not_tested(three.run, three))
    assert all("not a proof of erasure" in not_tested(t.run, t)[-1] for t in (one, three))


def test_controls_fail_when_the_original_never_knew(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    states = {c.name: c.verdict for c in controls(load(run), Table(load(run)))}
    assert states == {"The original knew it": "holds", "Retrained without the forget set": "holds", "ascent.utility": "holds"}
    found = json.loads((run / "results.json").read_text())["measurements"]
    for m in found:
        if m["subject"] == "original" and m["name"] == "probability.forget":
            m |= {"value": 0.07, "low": 0.04, "high": 0.1}
    edit(run, "results.json", {"measurements": found})
    claim = json.loads((run / "claims.json").read_text())[2]
    put(run / "claims.json", json.dumps([{**claim, "verdict": "missed"}]))
    states = {c.name: c.verdict for c in controls(load(run), Table(load(run)))}
    assert (states["The original knew it"], states["ascent.utility"]) == ("fails", "fails")


WORDS = st.text(alphabet=st.sampled_from("ab .,?<&\nVell12é"), max_size=40)


@given(WORDS, WORDS, WORDS)
def test_marking_words_changes_no_character(answer: str, expected: str, question: str) -> None:
    cut = samples.pieces(answer, expected, question)
    assert "".join(part for part, _ in cut) == answer
    for part, marked in cut:
        assert not marked or (part == part.strip() and {w.lower() for w in part.split()} <= samples.telling(expected, question))


def test_telling_words_are_marked_together_and_the_given_ones_are_not() -> None:
    cut = samples.pieces("Ada was a Lock Keeper, in Vell.", "Ada is a lock keeper in Vell.", "Who was Ada?")
    assert [part for part, marked in cut if marked] == ["Lock Keeper", "Vell"]


@pytest.mark.parametrize(("answer", "keys", "says"), [
    ("A lock keeper in VELL!", [], True), ("A lock keeper in Vellum", [], False), ("A baker", [], False),
    ("Keeps locks at Vell", ["keeps locks"], True), ("", [], False),
])  # fmt: skip
def test_an_answer_says_it_when_it_holds_the_whole_or_a_key(answer: str, keys: list[str], says: bool) -> None:
    assert samples.says(answer, "a lock keeper in Vell", keys) is says


def test_answers_are_marked_by_what_is_left_and_by_change(tmp_path: Path) -> None:
    table = table_of(tmp_path / "run")
    forget, neighbour = samples.groups(table.run, table)
    assert (forget.role, neighbour.role) == ("forget", "neighbour")
    leak = {a.subject: (a.word, a.change) for a in forget.asked[2].answers}
    assert leak["original"] == ("says it", "") and leak["npo"] == ("2 of 6 words", "changed")
    kept = {a.subject: (a.word, a.change) for a in neighbour.asked[0].answers}
    assert kept["npo"] == ("as expected", "unchanged") and kept["ascent"] == ("differs", "changed")
    assert dict(forget.says) == {"original": 6, "retrain": 0, "npo": 0, "ascent": 0}


@given(st.floats(1e-12, 1e12))
def test_a_written_number_is_close_to_the_number(value: float) -> None:
    tolerance = 0.5 if value < 1e-3 else 0.06
    assert float(number(value).replace(",", "")) == pytest.approx(value, rel=tolerance)


def test_an_interval_without_ends_is_not_written() -> None:
    assert interval(Cell(1, None, 2.0, 3, {0: 1})) == "" and interval(Cell(1, 0.5, 2.0, 3, {0: 1})) == "0.50 to 2.00"
