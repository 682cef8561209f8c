"""A bench from its file to its board: recipes of methods, references that are shared, gaps that are named, going on."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from amends.cli.app import main
from amends.core.errors import UserError
from amends.runs import about
from amends.runs.bench import Bench, benches, folder_of_bench, load, plan
from amends.runs.bench_run import carry_out, gather, look
from amends.runs.methods import Method, find_method, packaged_methods
from amends.runs.recipe import packaged, resolve
from amends.runs.search import Trial, best_of, drawn, folder_of

BENCH = """\
title: "A tiny bench"
question: "Does it work?"
data: {use: facts, authors: 4, questions: 2, forget: 1, holdout: 1}
subject: {use: tiny_lm, width: 16, depth: 1, heads: 2, vocab: 300, context: 128}
stages:
  original: {use: train, once: true, on: [forget, retain], steps: 6, batch: 4}
  retrain: {use: train, on: [retain], steps: 4, batch: 4}
stage: {batch: 2, epochs: 3, optim: {use: adamw, warmup: 0.1}}
settings:
  npo: {lr: 3e-4, epochs: 2, objective.0.beta: 0.02, objective.1.weight: 5.0}
  simnpo: {steps: 2}
  dpo: {lora: {rank: 2, targets: [nothing]}}
rank: {forgetting: forget_distance, keeping: probability.retain, at_least: 0.5}
reading: {max_new_tokens: 2, show: [forget]}
measure: [{use: probability, role: forget}, {use: probability, role: retain}, {use: forget_distance}]
headline: [probability.forget]
attack: [{use: relearn, steps: 1, batch: 2}]
attack_measure: [probability.forget]
profiles:
  smoke: {steps: 1}
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """The bench as a file."""
    path = tmp_path / "tiny.yaml"
    path.write_text(BENCH)
    return path


class Nothing:
    """Every run is done."""

    def map(self, recipes: Any, folders: Any) -> Any:
        """An exit code of 0 for each."""
        return iter([0] * len(list(folders)))


def stage(bench: Bench, method: str) -> dict[str, Any]:
    """A method's stage in the bench."""
    return bench.stage_of(find_method(method))


# ---------------------------------------------------------------------- the file


def test_a_methods_stage_is_its_preset_under_the_benchs_conditions(file: Path) -> None:
    bench = load(str(file))
    npo = stage(bench, "npo")
    assert npo["optim"] == {"use": "adamw", "lr": 3e-4, "warmup": 0.1}, "settings win"
    assert (npo["epochs"], npo["batch"], npo["from"]) == (2, 2, "original")
    assert [t.get("beta") for t in npo["objective"]] == [0.02, None]
    assert npo["objective"][1]["weight"] == 5.0
    graddiff = stage(bench, "graddiff")
    assert graddiff["epochs"] == 3, "the bench's length before the preset's"
    assert graddiff["optim"]["lr"] == find_method("graddiff").lr["full"], "the preset's rate where the bench has none"
    simnpo = stage(bench, "simnpo")
    assert simnpo["steps"] == 2 and "epochs" not in simnpo
    short = stage(load(str(file), "smoke"), "npo")
    assert short["steps"] == 1 and "epochs" not in short
    assert find_method("npo").objective[0]["beta"] == 0.1, "the preset itself is not touched"


def test_a_stage_takes_only_what_it_knows(file: Path) -> None:
    bench = load(str(file))
    kept = Method("plain", "Nothing is done", "2401.06121", {"use": "pretrained"}, {"full": 1e-5, "lora": 1e-4}, 3)
    assert bench.stage_of(kept) == {"use": "pretrained", "from": "original"}


def test_what_may_be_continued_has_one_print(file: Path) -> None:
    bench = load(str(file))
    assert load(str(file), None, ["settings.npo.lr=1e-3", "title=other"]).print == bench.print
    assert load(str(file), None, ["stages.original.steps=7"]).print != bench.print
    assert load(str(file), model="some/model").template["subject"] == {"use": "hf", "name": "some/model"}


@pytest.mark.parametrize(
    ("sets", "message"),
    [
        (["stage="], "stage: a bench needs it"),
        (["settings.npoo={lr: 1}"], r"settings.npoo: no such method \(did you mean 'npo'\?\)"),
        (["settings.npo=3"], "settings.npo: expected a mapping of keys"),
        (["steps=many"], "steps: expected a number of steps, got 'many'"),
        (["rank.forgetting=forget_quality"], "rank.forgetting: nothing measured is called 'forget_quality'"),
        (["rank.keeping=probability.forget"], "rank.keeping: of probability.forget less is better"),
        (["rank.at_leest=1"], r"rank.at_leest: Rank has no such key \(did you mean 'at_least'\?\)"),
        (["stages.original.kind=retrain", "attack=[]", "attack_measure="], "a bench needs a stage called 'original'"),
    ],
)
def test_a_mistake_in_the_file_is_named(file: Path, sets: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        load(str(file), None, sets)


def test_an_attack_whose_library_is_missing_is_left_out_and_named(file: Path) -> None:
    extra = "attack=[{use: relearn, steps: 1}, {use: relearn, steps: 2, if_installed: no_such_module}]"
    bench = load(str(file), None, [extra])
    assert bench.template["attack"] == [{"use": "relearn", "steps": 1}]
    assert bench.notes == ("The attack relearn was left out: no_such_module is not installed.",)
    here = load(str(file), None, ["attack=[{use: relearn, steps: 1, if_installed: torch}]"])
    assert here.template["attack"] == [{"use": "relearn", "steps": 1}] and here.notes == ()


def test_a_method_that_does_not_fit_is_planned_as_a_gap(file: Path, tmp_path: Path) -> None:
    bench = load(str(file), None, ["settings.npo={objective.0.betta: 1}", "settings.idk={objective.0.role: neighbour}"])
    work = plan(bench, ["npo", "idk", "simnpo", "npo"], 2, tmp_path)
    assert [e.method.name for e in work.entries] == ["npo", "idk", "simnpo"]
    npo, idk, simnpo = work.entries
    assert npo.resolved is None and "objective.0.betta: NPO has no such key (did you mean 'beta'?)" in npo.problem
    assert idk.resolved is None and "neighbour" in idk.problem
    assert simnpo.resolved is not None and simnpo.resolved.tree["seeds"] == [0, 1]
    assert list(simnpo.resolved.tree["stages"]) == ["original", "retrain", "simnpo"]
    assert len(plan(bench, ["all"], 1, tmp_path).entries) == len(packaged_methods())


def test_every_packaged_bench_takes_every_method_in_every_profile() -> None:
    assert "tofu" in benches() and "tofu" not in packaged()
    for name in benches():
        for profile in (None, "smoke", "paper", *(["bip"] if name in ("digits", "images") else [])):
            bench = load(name, profile)
            for method in bench.methods(["all"]):
                assert bench.recipe(method, (0, 1, 2)).recipe.stages[-1].name == method.name


# ---------------------------------------------------------------------- what is collected


def left(folder: Path, stages: list[tuple[str, int, str]], **changes: Any) -> None:
    """A run's files, by hand: (name, seed, weights) of its stages, a measurement for each."""
    kinds = {"original": "original", "retrain": "retrain"}
    made = [{"name": n, "seed": s, "kind": kinds.get(n, "unlearned"), "weights": w, "seconds": 1.0} for n, s, w in stages]
    rows = [{"subject": n, "seed": s, "attack": None, "name": "probability.forget", "value": 0.5} for n, s, _ in stages]
    folder.mkdir(parents=True)
    head = {"status": "ok", "error": None, "device": "cpu", "seconds": 10.0, "stages": made}
    (folder / "manifest.json").write_text(json.dumps({**head, **changes}))
    (folder / "results.json").write_text(json.dumps({"measurements": rows, "recovered": []}))


def test_what_a_failed_run_left_is_kept_and_the_rest_named(file: Path, tmp_path: Path) -> None:
    work = plan(load(str(file)), ["npo", "simnpo", "graddiff"], 3, tmp_path)
    both = [("original", 0, "aa"), ("retrain", 0, "bb")]
    left(work.folder("references"), both)
    error = "OSError: /home/me/runs/x.safetensors: no space on device; 3/4 done"
    left(work.folder("npo"), [*both, ("npo", 0, "cc"), ("npo", 2, "dd")], status="failed", error=error)
    left(work.folder("simnpo"), [("original", 0, "other"), *((("simnpo", s, "ee")) for s in (0, 1, 2))], device="cuda:0")
    found = gather(work)
    npo, simnpo, graddiff = found["methods"]
    why = "OSError: .../x.safetensors: no space on device; 3/4 done"
    assert (npo["status"], npo["missing"]) == ("partial", [{"seed": 1, "why": why}])
    assert (simnpo["status"], simnpo["missing"]) == ("ok", [])
    assert graddiff["status"] == "missing"
    assert graddiff["missing"] == [{"seed": s, "why": "it was not started"} for s in (0, 1, 2)]
    assert [(m["subject"], m["seed"]) for m in found["measurements"]] == [
        ("original", 0), ("retrain", 0), ("npo", 0), ("npo", 2), ("simnpo", 0), ("simnpo", 1), ("simnpo", 2),
    ]  # fmt: skip
    assert found["seconds"] == 30.0
    assert [note.split(":")[0] for note in found["notes"]] == [
        "simnpo was run with another device than the references", "simnpo starts from other weights than the references",
    ]  # fmt: skip


def test_numbers_of_other_settings_do_not_pass_for_these(file: Path, tmp_path: Path) -> None:
    work = plan(load(str(file)), ["npo"], 1, tmp_path)
    left(work.folder("npo"), [("npo", 0, "cc")], recipe_hash="of other settings")
    left(work.folder("references"), [("original", 0, "aa")], recipe_hash=work.references.hash)

    carry_out(work, Nothing())
    assert [m["subject"] for m in gather(work)["measurements"]] == ["original"]
    assert resolve(str(work.folder("npo") / "bench.yaml")).hash == work.entries[0].resolved.hash


# ---------------------------------------------------------------------- the command


Amends = Callable[..., tuple[int, str, str]]


@pytest.fixture
def amends(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Amends:
    """Runs a command in this process."""

    def call(*words: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["amends", *map(str, words)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as caught:
            main()
        said = capsys.readouterr()
        return int(caught.value.code or 0), said.out, said.err

    return call


def test_a_bench_runs_names_its_gaps_and_goes_on(
    amends: Amends, file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["bench", file, "--methods", "npo,dpo,idk", "--seeds", 2, "--jobs", 2, "--json"]
    code, out, err = amends(*words, "--set", "settings.idk={objective.0.role: neighbour}")
    assert code == 0, err
    found = json.loads(out)
    assert found == json.loads((tmp_path / "results" / "tiny.json").read_text())
    lines = {x["method"]: x for x in found["leaderboard"]}
    assert {m: x["metrics"]["forget_distance"] is not None for m, x in lines.items()} == {
        "npo": True,
        "dpo": False,
        "idk": False,
    }
    assert set(lines["npo"]["metrics"]["probability.forget"]["by_seed"]) == {"0", "1"}
    assert lines["npo"]["cost"]["peak_bytes"]["mean"] > 0
    assert (lines["npo"]["missing"], lines["npo"]["cost"]["steps"]) == ([], [2])
    assert "nothing" in lines["dpo"]["missing"][0]["why"] and lines["dpo"]["missing"][0]["seeds"] == "0, 1"
    assert "neighbour" in lines["idk"]["missing"][0]["why"]
    assert [(s["name"], s["seed"]) for s in found["stages"]] == [
        ("original", 0), ("retrain", 0), ("retrain", 1), ("npo", 0), ("npo", 1),
    ]  # fmt: skip
    assert {m["name"]: m["tuned"] for m in found["methods"]}["npo"]["epochs"] == 2
    assert found["command"].endswith("--methods npo,dpo,idk --seeds 2 --set 'settings.idk={objective.0.role: neighbour}'")
    assert found["notes"] == []
    assert str(tmp_path) not in out + (tmp_path / "results" / "tiny.html").read_text()
    (root,) = (tmp_path / "runs").iterdir()
    taken = json.loads((root / "npo" / "manifest.json").read_text())["stages"]
    assert all(s["cached"] for s in taken if s["kind"] != "unlearned"), "made once, by the references"
    _goes_on(amends, words, tmp_path, lines["npo"])


def _goes_on(amends: Amends, words: list[object], tmp_path: Path, npo: dict[str, Any]) -> None:
    """The same command with the mistakes mended: what was made stays, what was missing is there."""
    marks = {f: f.stat().st_mtime_ns for f in tmp_path.glob("runs/*/*/stages/*/DONE")}
    assert len(marks) >= 3 + 5
    code, out, err = amends(*words, "--set", "settings.dpo={steps: 1}")
    assert code == 0, err
    lines = {x["method"]: x for x in json.loads(out)["leaderboard"]}
    assert all(x["missing"] == [] for x in lines.values())
    assert lines["dpo"]["cost"]["steps"] == [1]
    assert {f: f.stat().st_mtime_ns for f in marks} == marks
    assert lines["npo"]["metrics"] == npo["metrics"]
    page = (tmp_path / "results" / "tiny.html").read_text()
    assert "Nothing: every method that was asked for left every number" in page


def test_a_bench_without_references_is_one_sentence(amends: Amends, file: Path, tmp_path: Path) -> None:
    lost = ["--set", "subject={use: hf, name: /no/such/model}"]
    code, _, err = amends("bench", file, "--methods", "npo", "--seeds", 1, "--runs", tmp_path / "runs", *lost)
    assert code == 2
    last = err.splitlines()[-1]
    assert "/references: the references could not be made (" in last and "no such folder" in last
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["bench", "tofuu"], "no bench is called 'tofuu' (did you mean 'tofu'?)"),
        (["bench", "none.yaml"], "none.yaml: no such bench file"),
        (["bench", "tofu", "-p", "smok"], "tofu: no profile is called 'smok' (did you mean 'smoke'?)"),
    ],
)
def test_a_mistake_on_the_command_line_is_named(amends: Amends, words: list[str], message: str) -> None:
    code, _, err = amends(*words)
    assert code == 2 and message in err.splitlines()[-1]


def test_a_method_that_does_not_exist_is_named(amends: Amends, file: Path) -> None:
    code, _, err = amends("bench", file, "--methods", "npo,simnop")
    assert code == 2 and "simnop: no such method (did you mean 'simnpo'?)" in err.splitlines()[-1]


# ---------------------------------------------------------------------- listings and kinds


def test_listings_show_cost_and_recipe(amends: Amends) -> None:
    code, out, _ = amends("methods", "--json")
    rows = {row["method"]: row for row in json.loads(out)}
    assert code == 0 and set(rows) == set(packaged_methods(None))
    assert rows["npo"]["cost"] == "2 forwards + 2 backwards a step (2 x fine-tuning); once: 1 pass over the forget rows"
    assert (rows["npo-kl"]["forwards"], rows["npo-kl"]["backwards"], rows["npo-kl"]["copies"]) == (4, 2, 1)
    for row in rows.values():
        kind, _, name = row["recipe"].rpartition(" ")
        assert name in (benches() if kind == "bench" else packaged()) or (row["for"] == "classifier" and not name)
    assert rows["ascent"]["recipe"] == "tofu-small"
    _, text, _ = amends("methods")
    assert text.splitlines()[0].split() == ["method", "for", "paper", "needs", "cost", "recipe", "what"]


def test_a_bench_takes_only_methods_for_its_kind_of_model(file: Path, tmp_path: Path) -> None:
    of_language, of_classifiers = set(packaged_methods()), set(packaged_methods("classifier"))
    assert {"npo", "ascent", "graddiff", "graddiff-kl"} == of_language & of_classifiers
    assert {"salun", "l1-sparse", "scrub"} <= of_classifiers
    bench = load(str(file))
    assert {e.method.name for e in plan(bench, ["all"], 1, tmp_path).entries} == of_language
    with pytest.raises(UserError, match="--method salun: it is for classifier models, and this is a language model"):
        plan(bench, ["salun"], 1, tmp_path)
    with pytest.raises(UserError, match="--method rmu: it is for language models, and this is a classifier model"):
        find_method("rmu", "classifier")
    other = replace(bench, kind="classifier")
    assert (
        other.stage_of(find_method("ascent", "classifier"))["optim"]["lr"] == find_method("ascent").rate("classifier") == 1e-3
    )
    assert find_method("ascent").rate("language") == find_method("ascent").lr["full"]
    with pytest.raises(UserError, match="for: expected one of language, classifier, got 'clasifier'"):
        load(str(file), None, ["for=clasifier"])


def test_a_preset_may_name_its_recipe() -> None:
    npo = find_method("npo")
    named = Method(npo.name, npo.summary, npo.arxiv, npo.stage, npo.lr, npo.epochs, recipe="forget-demo")
    assert about.recipe_of(named) == "forget-demo" != about.recipe_of(npo)


# ---------------------------------------------------------------------- settings that are looked for


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
