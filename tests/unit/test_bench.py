"""A bench from its file to what is collected: recipes of methods, references that are shared, gaps that are named."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from bench_world import Nothing, stage, written

from amends.core.errors import UserError
from amends.runs import about
from amends.runs.bench import benches, load, plan
from amends.runs.bench_run import carry_out, gather
from amends.runs.methods import Method, find_method, packaged_methods
from amends.runs.recipe import packaged, resolve


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """The bench as a file."""
    return written(tmp_path)


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
