"""Settings that a bench looks for: trials from a budget, the best of those that keep enough, on seeds that no table shows."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from bench_world import BENCH, Amends, Nothing, written

from amends.core.errors import UserError
from amends.runs.bench import folder_of_bench, load
from amends.runs.bench_run import look
from amends.runs.methods import find_method
from amends.runs.search import Trial, best_of, drawn, folder_of


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """The bench as a file."""
    return written(tmp_path)


SEARCHED = """\
search:
  seed: 50
  budget: 3
  at_least: 0.9
  over:
    all: {lr: [1e-4, 3e-4]}
    npo: {objective.0.beta: [0.02, 0.1], epochs: [1]}
  changes: {reading.show: []}
expect:
  - {that: npo.probability.forget, at_most: 10.0, of: original.probability.forget, because: "a claim of two models"}
  - {that: simnpo.probability.forget, at_most: 1.0, because: "not among the methods of the run"}
"""


def test_trials_are_a_grid_of_which_the_budget_is_drawn(file: Path) -> None:
    file.write_text(BENCH + SEARCHED)
    search = load(str(file)).search
    assert search is not None
    assert search.trials(find_method("simnpo")) == [{"lr": 1e-4}, {"lr": 3e-4}]
    trials = search.trials(find_method("npo"))
    assert len(trials) == 3 and trials == search.trials(find_method("npo")), "three of four, the same ones each time"
    assert all(t["epochs"] == 1 for t in trials)
    assert drawn([{"a": i} for i in range(9)], 4, 0) != drawn([{"a": i} for i in range(9)], 4, 1)


def test_the_best_trial_forgets_most_of_those_that_keep_enough() -> None:
    rows = [Trial({}, 0.5, 0.9), Trial({}, 0.2, 0.8), Trial({}, 0.2, 0.85), Trial({}, float("nan"), 1.0), Trial({}, None, 2.0)]
    assert best_of(rows, "lower", 0.75) == 2, "the same forgetting: the one that keeps more"
    assert best_of(rows, "higher", 0.75) == 0
    assert best_of(rows, "lower", 0.99) == 0, "none keeps enough: the one that keeps most"
    assert best_of(rows[3:], "lower", 0.0) is None


@pytest.mark.parametrize(
    ("sets", "message"),
    [
        (["search.over.npoo={lr: [1]}"], r"search.over.npoo: no such method \(did you mean 'npo'\?\)"),
        (["search.over.npo={lr: 1e-4}"], "search.over.npo: expected lists of values"),
        (["search.buget=3"], r"search.buget: Search has no such key \(did you mean 'budget'\?\)"),
        (["expect.0.that=npoo.probability.forget"], "expect.0.that: no stage is called 'npoo'"),
        (["expect.0.of=npo.utility"], "expect.0.of: nothing measured is called 'utility'"),
    ],
)
def test_a_mistake_in_the_search_or_a_claim_is_named(file: Path, sets: list[str], message: str) -> None:
    file.write_text(BENCH + SEARCHED)
    with pytest.raises(UserError, match=message):
        load(str(file), None, sets)


def test_a_search_without_a_plan_or_on_a_seed_of_the_table_is_refused(amends: Amends, file: Path, tmp_path: Path) -> None:
    words = ["bench", file, "--methods", "npo", "--seeds", 2, "--search", "--runs", tmp_path / "runs"]
    code, _, err = amends(*words)
    assert code == 2 and "the bench does not say what to try" in err
    file.write_text(BENCH + SEARCHED.replace("seed: 50", "seed: 1"))
    code, _, err = amends(*words)
    assert code == 2 and "1 is also a seed of the table" in err


def test_a_search_finds_settings_and_the_table_uses_them(amends: Amends, file: Path, tmp_path: Path) -> None:
    file.write_text(BENCH + SEARCHED)
    out = tmp_path / "board.json"
    words = ["bench", file, "--methods", "npo", "--seeds", 1, "--search", "--runs", tmp_path / "runs", "--out", out]
    code, _, err = amends(*words)
    assert code == 0, err
    found = json.loads(out.read_text())
    trials = found["search"]["methods"]["npo"]["trials"]
    (chosen,) = [t for t in trials if t["chosen"]]
    assert len(trials) == 3 and all(t["forgetting"] is not None and t["seconds"] > 0 for t in trials)
    stage_used = found["methods"][0]["stage"]
    assert stage_used["optim"]["lr"] == chosen["settings"]["lr"]
    assert stage_used["objective"][0]["beta"] == chosen["settings"]["objective.0.beta"]
    assert stage_used["objective"][1]["weight"] == 5.0, "what is not searched stays as the file says"
    assert [c["verdict"] for c in found["claims"]] == ["met", "not tested"]
    assert found["command"].endswith("--search")
    page = out.with_suffix(".html").read_text()
    assert "Settings were chosen on seed 50" in page and "a claim of two models" in page


def test_what_is_enough_is_a_share_of_the_originals(file: Path, tmp_path: Path) -> None:
    """0.9 of 0.8 is 0.72: without the share, or without a floor, another trial would be chosen."""
    file.write_text(BENCH + SEARCHED)
    bench = load(str(file))
    resolved, settings = bench.trials(find_method("npo"))
    folder = folder_of(folder_of_bench(bench, tmp_path), "npo")
    folder.mkdir(parents=True)
    values = {"original": (0.6, 0.8), "t01": (0.3, 0.75), "t02": (0.2, 0.73), "t03": (0.1, 0.5)}
    rows = [
        {"subject": subject, "seed": 50, "attack": None, "name": name, "value": value}
        for subject, pair in values.items()
        for name, value in zip(("forget_distance", "probability.retain"), pair, strict=True)
    ]
    (folder / "manifest.json").write_text(json.dumps({"recipe_hash": resolved.hash, "stages": []}))
    (folder / "results.json").write_text(json.dumps({"measurements": rows, "recovered": []}))

    found, tried = look(bench, ["npo"], (0, 1), tmp_path, Nothing())
    assert [t["chosen"] for t in tried["methods"]["npo"]["trials"]] == [False, True, False]
    assert found.settings["npo"] == {**bench.settings["npo"], **settings[1]}


def test_a_search_may_choose_by_other_measurements_than_the_table(file: Path, tmp_path: Path) -> None:
    """As on validation rows: by the table's own numbers the last trial would be chosen."""
    file.write_text(BENCH + SEARCHED)
    bench = load(str(file), sets=["search.forgetting=probability.forget"])
    assert (bench.chosen_by.forgetting, bench.chosen_by.keeping) == ("probability.forget", "probability.retain")
    assert bench.rank.forgetting == "forget_distance" and bench.print == load(str(file)).print
    resolved, _ = bench.trials(find_method("npo"))
    folder = folder_of(folder_of_bench(bench, tmp_path), "npo")
    values = {"original": (0.6, 0.8, 0.9), "t01": (0.3, 0.8, 0.1), "t02": (0.2, 0.8, 0.2), "t03": (0.1, 0.8, 0.3)}
    names = ("forget_distance", "probability.retain", "probability.forget")
    rows = [
        {"subject": subject, "seed": 50, "attack": None, "name": name, "value": value}
        for subject, each in values.items()
        for name, value in zip(names, each, strict=True)
    ]
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_text(json.dumps({"recipe_hash": resolved.hash, "stages": []}))
    (folder / "results.json").write_text(json.dumps({"measurements": rows, "recovered": []}))

    _, tried = look(bench, ["npo"], (0, 1), tmp_path, Nothing())
    assert [t["chosen"] for t in tried["methods"]["npo"]["trials"]] == [True, False, False]
    assert (tried["forgetting"], tried["keeping"]) == ("probability.forget", "probability.retain")
    with pytest.raises(UserError, match="search.keeping: nothing measured is called 'probability.retin'"):
        load(str(file), sets=["search.keeping=probability.retin"])
