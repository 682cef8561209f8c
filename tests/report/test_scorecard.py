"""The scorecard: the worst number of each kind, a word for it, what is missing, and no method that looks good by one number."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from parsed_page import read
from sample_run import edit, put, write_run

from amends.data import scope
from amends.metrics.rows import better_for
from amends.report import evidence, samples
from amends.report.build import build
from amends.report.limits import not_tested
from amends.report.load import load
from amends.report.scorecard import Card, Line, scorecard, weakest
from amends.report.table import Table
from amends.report.text import summary
from amends.report.verdict import method_sentence

Values = Mapping[str, float]
MODELS: dict[str, Values] = {
    "original": {"probability.forget": 0.8, "accuracy.reverse": 0.9, "probability.neighbour": 0.8, "accuracy.general": 0.9},
    "retrain": {"probability.forget": 0.1, "accuracy.reverse": 0.1, "probability.neighbour": 0.8, "accuracy.general": 0.9},
    "npo": {"probability.forget": 0.1, "accuracy.reverse": 0.7, "probability.neighbour": 0.72, "accuracy.general": 0.9},
}
SECONDS = {"original": 100.0, "retrain": 80.0, "npo": 8.0}


def row(subject: str, name: str, value: float, half: float = 0.02, attack: str | None = None) -> dict[str, Any]:
    """One measurement with its interval."""
    return {"subject": subject, "seed": 0, "attack": attack, "name": name, "value": value, "low": value - half,
            "high": value + half, "n": 40, "better": better_for(name.split(".")[1]) if "." in name else "higher"}  # fmt: skip


def back(subject: str, value: float | None, attack: str = "relearn", metric: str = "probability.forget") -> dict[str, Any]:
    """One share that an attack brings back."""
    ends = {} if value is None else {"low": value - 0.05, "high": value + 0.05}
    return {"subject": subject, "seed": 0, "attack": attack, "metric": metric, "value": value, "n": 40, **ends}


def stage(name: str, **more: Any) -> dict[str, Any]:
    """One stage of the manifest."""
    kind = name if name in ("original", "retrain") else "unlearned"
    return {"name": name, "seed": 0, "kind": kind, "method": kind, "from": None if kind == name else "original",
            "seconds": SECONDS.get(name, 8.0), "peak_bytes": 2_000_000_000, **more}  # fmt: skip


def table_of(
    folder: Path, models: Mapping[str, Values] = MODELS, recovered: Any = (), stages: Any = None, half: float = 0.02
) -> Table:
    """A run with these numbers and nothing else."""
    stages = [stage(name) for name in models] if stages is None else stages
    put(folder / "manifest.json", json.dumps({"schema": 1, "status": "ok", "seeds": [0], "stages": stages}))
    measured = [row(s, name, v, half) for s, values in models.items() for name, v in values.items()]
    put(folder / "results.json", json.dumps({"measurements": measured, "recovered": list(recovered)}))
    return Table(load(folder))


def without(*subjects: str) -> dict[str, Values]:
    """The models but some."""
    return {s: v for s, v in MODELS.items() if s not in subjects}


def card_of(table: Table) -> Card:
    """The card, which is there."""
    card = scorecard(table)
    assert card is not None
    return card


def cell(table: Table, question: str, subject: str = "npo") -> tuple[Line, ...]:
    """The lines of one cell."""
    card = card_of(table)
    column = [h.name for h in card.heads].index(subject)
    return next(q for q in card.questions if q.name == question).cells[column]


# ---------------------------------------------------------------------- the scope of evidence


def test_every_agreed_role_has_a_scope_and_a_sentence() -> None:
    assert scope.roles_in("in", "hard") == ("forget", *scope.HARD_QUESTIONS, "test_forget", "triggered")
    assert scope.HARD_QUESTIONS == ("paraphrase", "multihop", "reverse", "language")
    assert {"neighbour": "near", "general": "far", "world": "far"}.items() <= {
        r: s.scope for r, s in scope.ROLES.items()
    }.items()
    assert set(scope.SCOPES) == {s.scope for s in scope.ROLES.values()}
    assert all(s.sentence and not s.sentence.endswith(".") for s in scope.ROLES.values())


@pytest.mark.parametrize("name", [*scope.ROLES, "holdout", "my_own"])
def test_metrics_report_and_scope_agree_on_what_is_to_go(name: str) -> None:
    assert (better_for(name) == "lower") == scope.goes(name) == (scope.scope_of(name) in ("in", "hard"))
    answers = {"original": "He lives in Vell.", "npo": "He lives in Vell."}
    asked = samples._asked(name, {"id": "1", "question": "Where?", "expected": "In Vell", "answers": answers}, {})
    assert asked.answers[0].word == ("says it" if scope.goes(name) else "as expected")


# ---------------------------------------------------------------------- effectiveness


def test_the_worst_question_is_the_number_of_the_cell(tmp_path: Path) -> None:
    table = table_of(tmp_path)
    found = evidence.left(table, "npo")
    assert [e.role for e in found] == ["reverse", "forget"]
    assert [e.share for e in found] == pytest.approx([(0.7 - 0.1) / (0.9 - 0.1), 0.0])
    (line,) = cell(table, "Effectiveness")
    assert (line.value, line.interval, line.word, line.tone) == ("0.70", "0.68 to 0.72", "much is left", "bad")
    assert line.note == "reverse accuracy; before 0.90, retrained 0.10"
    assert cell(table, "Effectiveness", "original")[0].value == "0.80"
    assert (cell(table, "Effectiveness", "retrain")[0].value, cell(table, "Effectiveness", "retrain")[0].note) == (
        "0.10", "forget probability",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("value", "word", "tone"),
    [(0.1, "little is left", "good"), (0.16, "little is left", "good"), (0.3, "some is left", "open"),
     (0.55, "much is left", "bad"), (0.01, "gone, below the retrained", "open")],
)  # fmt: skip
def test_words_follow_what_is_left_between_original_and_retrained(tmp_path: Path, value: float, word: str, tone: str) -> None:
    models = {s: {"probability.forget": v["probability.forget"]} for s, v in MODELS.items()}
    line = cell(table_of(tmp_path, {**models, "npo": {"probability.forget": value}}), "Effectiveness")[0]
    assert (line.word, line.tone) == (word, tone)


def test_a_wide_interval_that_reaches_the_original_is_no_success(tmp_path: Path) -> None:
    models = {"original": {"accuracy.forget": 1.0}, "npo": {"accuracy.forget": 0.0}}
    assert cell(table_of(tmp_path / "wide", models, half=0.6), "Effectiveness")[0].word == "too few rows to tell"
    assert cell(table_of(tmp_path / "narrow", models), "Effectiveness")[0].word == "little is left"


def test_without_a_retrained_model_the_floor_is_nought_and_sentences_do_not_count(tmp_path: Path) -> None:
    models: dict[str, Values] = {
        "original": {"probability.forget": 0.8, "rouge.forget": 0.9, "rouge.reverse": 0.9},
        "npo": {"probability.forget": 0.04, "rouge.forget": 0.6, "rouge.reverse": 0.2},
    }
    found = evidence.left(table_of(tmp_path, models), "npo")
    assert [(e.metric, round(e.share, 3)) for e in found] == [("rouge.reverse", 0.222), ("probability.forget", 0.05)]
    gold = {**models, "retrain": {"probability.forget": 0.02, "rouge.forget": 0.55, "rouge.reverse": 0.2}}
    shares = {e.metric: round(e.share, 3) for e in evidence.left(table_of(tmp_path / "gold", gold), "npo")}
    assert shares == {"rouge.forget": 0.143, "probability.forget": 0.026, "rouge.reverse": 0.0}


def test_what_the_original_did_not_know_is_left_out_and_said(tmp_path: Path) -> None:
    models = {s: {**v, "accuracy.language": 0.02} for s, v in MODELS.items()}
    table = table_of(tmp_path, models)
    assert "language" not in {e.role for e in evidence.left(table, "npo")}
    assert evidence.unknown_roles(table) == ["language"]
    assert "Left out, for the original did not know it: language." in card_of(table).notes


def test_a_paraphrase_may_be_a_role_or_a_form_and_other_forms_are_no_evidence() -> None:
    names = ("accuracy.forget.paraphrase", "rouge.paraphrase", "probability.forget.choices", "mia.loss", "utility")
    assert [evidence.asked_as(n) for n in names] == ["paraphrase", "paraphrase", "", "", ""]


def test_a_later_request_is_not_held_against_an_earlier_one(tmp_path: Path) -> None:
    values = {"probability.forget_a": 0.8, "probability.forget_b": 0.8, "probability.forget": 0.8}
    models = {
        "original": values, "one": {**values, "probability.forget_a": 0.1, "probability.forget": 0.4},
        "two": {**values, "probability.forget_a": 0.5, "probability.forget_b": 0.1, "probability.forget": 0.3},
    }  # fmt: skip
    stages = [stage("original"), stage("one", method="1 x NPO (forget_a) + 1 x NLL (retain)"),
              stage("two", method="1 x NPO (forget_b)", **{"from": "one"}, seconds=5.0)]  # fmt: skip
    table = table_of(tmp_path, models, stages=stages)
    assert [e.role for e in evidence.left(table, "one")] == ["forget_a"]
    assert [e.role for e in evidence.left(table, "two")] == ["forget_a", "forget_b"], "an earlier one that came back is"
    assert evidence.ancestry(table, "two") == ["two", "one", "original"]
    spent = evidence.cost(table, "two")
    assert spent is not None and spent.seconds.value == 13.0, "both stages were needed"


# ---------------------------------------------------------------------- locality


def test_near_and_far_have_a_line_each_and_the_least_counts(tmp_path: Path) -> None:
    models = {s: {**v, "rouge.neighbour": 0.9 if s != "npo" else 0.54, "utility": 0.8} for s, v in MODELS.items()}
    near, far = cell(table_of(tmp_path, models), "Locality")
    assert (near.value, near.word.replace("\N{NO-BREAK SPACE}", " "), near.tone) == ("0.54", "60 % kept, damaged", "open")
    assert near.note == "near: neighbour ROUGE-L"
    assert (far.word.replace("\N{NO-BREAK SPACE}", " "), far.tone) == ("100 % kept", "good")


@pytest.mark.parametrize(("value", "word", "tone"), [(0.65, "81 % kept", "good"), (0.4, "50 % kept, damaged", "open"),
                                                     (0.39, "49 % kept, lost", "bad")])  # fmt: skip
def test_words_follow_what_stayed(tmp_path: Path, value: float, word: str, tone: str) -> None:
    models = {"original": {"accuracy.general": 0.8}, "npo": {"accuracy.general": value}}
    far = cell(table_of(tmp_path, models), "Locality")[1]
    assert (far.word.replace("\N{NO-BREAK SPACE}", " "), far.tone) == (word, tone)


def test_rows_that_were_trained_on_are_said_to_be(tmp_path: Path) -> None:
    models = {s: {"probability.forget": 0.5, "probability.retain": 0.8} for s in ("original", "npo")}
    near, far = cell(table_of(tmp_path, models), "Locality")
    assert near.note.endswith("which it trained on") and far.word == "far: not measured"
    also = {s: {**v, "probability.neighbour": 0.8} for s, v in models.items()}
    assert "trained" not in cell(table_of(tmp_path / "also", also), "Locality")[0].note


# ---------------------------------------------------------------------- robustness


def test_the_worst_attack_over_all_attacks_and_metrics_stands_with_its_own_control(tmp_path: Path) -> None:
    shares = [
        back("npo", 0.2), back("npo", 0.3, "quantise"), back("npo", 0.7, "quantise", "extraction_strength.forget"),
        back("retrain", 0.9), back("retrain", 0.15, "quantise", "extraction_strength.forget"),
    ]  # fmt: skip
    table = table_of(tmp_path, recovered=shares)
    (line,) = cell(table, "Robustness")
    assert (line.value, line.word, line.tone) == ("70\N{NO-BREAK SPACE}%", "comes back", "bad")
    assert line.note.replace("\N{NO-BREAK SPACE}", " ") == "quantising, forget extraction strength; control 15 % [10 %, 20 %]"
    assert card_of(table).questions[0].name == "Robustness", "on top of the card"


@pytest.mark.parametrize(
    ("share", "control", "word", "tone"),
    [(0.08, 0.0, "holds", "good"), (-0.2, 0.0, "holds", "good"), (0.3, 0.1, "comes back in part", "open"),
     (0.6, 0.55, "comes back, as in the control", "open"), (0.6, 0.9, "comes back, as in the control", "open"),
     (0.6, 0.1, "comes back", "bad"), (0.6, None, "comes back", "bad")],
)  # fmt: skip
def test_words_follow_the_attack_and_its_control(
    tmp_path: Path, share: float, control: float | None, word: str, tone: str
) -> None:
    shares = [back("npo", share), *([back("retrain", control)] if control is not None else [])]
    (line,) = cell(table_of(tmp_path, recovered=shares), "Robustness")
    assert (line.word, line.tone) == (word, tone)


def test_an_attack_without_a_share_is_not_a_defence(tmp_path: Path) -> None:
    none, undefined = table_of(tmp_path / "a"), table_of(tmp_path / "b", recovered=[back("npo", None)])
    assert [(x.word, x.tone) for x in cell(none, "Robustness")] == [("not measured", "missing")]
    assert [(x.word, x.tone) for x in cell(undefined, "Robustness")] == [
        ("too little was forgotten for an attack to bring back", "missing")
    ]


# ---------------------------------------------------------------------- efficiency


@pytest.mark.parametrize(("seconds", "tone"), [(20.0, "good"), (21.0, "open"), (79.0, "open"), (80.0, "bad")])
def test_time_is_held_against_retraining(tmp_path: Path, seconds: float, tone: str) -> None:
    stages = [stage(s) if s != "npo" else stage(s, seconds=seconds, peak_bytes=4_000_000_000) for s in MODELS]
    (line,) = cell(table_of(tmp_path, stages=stages), "Efficiency")
    assert line.tone == tone and line.word.endswith("× retraining")
    assert line.note == "peak 4.0 GB, 2.00 × retraining"
    assert evidence.cost(table_of(tmp_path, stages=stages), "npo").times == seconds / 80  # type: ignore[union-attr]


def test_without_a_retraining_there_is_nothing_to_hold_it_against(tmp_path: Path) -> None:
    (line,) = cell(table_of(tmp_path, without("retrain")), "Efficiency")
    assert (line.value, line.word, line.tone) == ("8.0 s", "no retraining to compare with", "missing")
    assert [x.word for x in cell(table_of(tmp_path / "none", stages=[]), "Efficiency")] == ["not measured"]


# ---------------------------------------------------------------------- the card as a whole


def test_no_method_looks_good_by_one_number(tmp_path: Path) -> None:
    good = {**MODELS, "npo": {**MODELS["npo"], "accuracy.reverse": 0.1}}
    held = [back("npo", 0.02), back("retrain", 0.0)]
    table = table_of(tmp_path / "good", good, held)
    tones = {line.tone for q in card_of(table).questions for line in q.cells[2]}
    assert tones == {"good"} and weakest(table)["npo"].startswith("robustness: ")
    for name, worse, said in [
        ("reverse", {"accuracy.reverse": 0.7}, "effectiveness: much is left, reverse accuracy 0.90 to 0.70"),
        ("general", {"accuracy.general": 0.2}, "locality: far, general accuracy 22 % kept, lost"),
    ]:
        table = table_of(tmp_path / name, {**good, "npo": {**good["npo"], **worse}}, held)
        assert weakest(table)["npo"].replace("\N{NO-BREAK SPACE}", " ") == said
    attacked = table_of(tmp_path / "attack", good, [back("npo", 0.9)])
    assert weakest(attacked)["npo"].replace("\N{NO-BREAK SPACE}", " ") == "robustness: relearning brings back 90 %"
    silent = table_of(tmp_path / "silent", good)
    assert weakest(silent) == {"npo": "robustness: not measured"}, "what was not looked at is no strength"


def test_missing_evidence_is_said_in_the_cell_and_below(tmp_path: Path) -> None:
    bare = {s: {"probability.forget": v["probability.forget"]} for s, v in MODELS.items()}
    table = table_of(tmp_path, bare)
    assert [x.word for x in cell(table, "Effectiveness")][1:] == ["hard in scope: not measured"]
    assert [x.word for x in cell(table, "Locality")] == ["near: not measured", "far: not measured"]
    inside, outside = card_of(table).notes
    assert inside.startswith("In scope, asked: forget. Not asked: paraphrase (") and "language (" in inside
    assert "asked: nothing." in outside and "neighbour" in outside and "general" in outside
    text = " ".join(not_tested(table.run, table))
    assert "multihop" in text and "Nothing far from the forgotten facts" in text
    whole = card_of(table_of(tmp_path / "whole"))
    assert whole.notes[1] == "Out of scope, asked: neighbour and general."


def test_without_an_original_or_a_method_there_is_no_judgement(tmp_path: Path) -> None:
    table = table_of(tmp_path / "a", without("original"))
    assert [x.note for x in cell(table, "Effectiveness")] == ["no original to compare with"]
    assert scorecard(table_of(tmp_path / "b", without("npo"))) is None
    assert "nothing to score" in read(build(tmp_path / "b")).text


def test_every_word_has_a_symbol_so_that_colour_is_never_alone(tmp_path: Path) -> None:
    table = table_of(tmp_path, recovered=[back("npo", 0.4)])
    lines = [line for q in card_of(table).questions for c in q.cells for line in c]
    assert all(line.word and line.symbol for line in lines if line.tone != "calm")


def test_the_verdict_names_the_hard_question_that_most_is_left_of(tmp_path: Path) -> None:
    said = method_sentence(table_of(tmp_path / "left"), "npo")
    assert "forget probability 0.80 → 0.10 (retrained model: 0.10), but reverse accuracy is still 0.70 of 0.90," in said
    gone = {**MODELS, "npo": {**MODELS["npo"], "accuracy.reverse": 0.15}}
    assert "but" not in method_sentence(table_of(tmp_path / "gone", gone), "npo")


def test_suppressed_output_is_said_beside_the_name_and_in_the_verdict(tmp_path: Path) -> None:
    why = "an assistant's logits are taken off at every token."
    stages = [stage(s) if s != "npo" else stage(s, suppression=why) for s in MODELS]
    table = table_of(tmp_path, stages=stages)
    said = "Its weights are unchanged and its output is suppressed: an assistant's logits are taken off at every token."
    assert method_sentence(table, "npo").endswith(said)
    assert [h.suppression for h in card_of(table).heads] == ["", "", why]
    text = read(build(tmp_path)).text
    assert said in text and "npo weights unchanged, output suppressed: an assistant's" in text
    assert "suppressed" not in method_sentence(table_of(tmp_path / "other"), "npo")
    assert "output is suppressed" in " ".join(summary(tmp_path).split())


@pytest.mark.parametrize("odd", [None, 3, "", " ", ["x"]])
def test_a_suppression_that_is_no_sentence_is_none(tmp_path: Path, odd: Any) -> None:
    stages = [stage(s) if s != "npo" else stage(s, suppression=odd) for s in MODELS]
    assert table_of(tmp_path, stages=stages).suppression("npo") == ""


def test_the_terminal_says_each_methods_weakest_point(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    said = summary(run)
    assert "weakest of npo: robustness: relearning brings back 62 %" in said
    assert "weakest of ascent: locality: near, neighbour probability 11 % kept, lost" in said


def test_the_card_stands_at_the_head_of_the_page_and_escapes_names(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    found = json.loads((run / "results.json").read_text())
    evil = '"><img src=x onerror=alert(1)>'
    edit(run, "results.json", {"measurements": [{**m, "subject": evil if m["subject"] == "npo" else m["subject"]}
                                                for m in found["measurements"]],
                               "recovered": [back(evil, 0.4, attack=evil)]})  # fmt: skip
    page = read(build(run))
    assert page.wrong == [] and not page.all("img")
    assert (
        page.text.index("Of 2 methods") < page.text.index("Scorecard Worst of each") < page.text.index("Claims What the recipe")
    )
    assert page.text.count(evil) >= 3
    assert [td["data-of"] for td in page.all("td") if "data-of" in td][:3] == ["original", "retrain", "ascent"]
