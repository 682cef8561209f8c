"""Every packaged recipe: valid in all its profiles, and run in its smallest one from data to claims."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

import amends
from amends.report.drawn import drawn, sparsities
from amends.report.load import load as read_run
from amends.report.table import Table
from amends.runs.recipe import Resolved, locate, packaged, read, resolve
from amends.runs.run import execute

ROOT = Path(str(amends.__file__)).parent / "recipes"
FILES = sorted(f for f in ROOT.glob("*/*.yaml") if f.parent.name not in ("methods", "bench"))
NAMES = [f.stem for f in FILES]

LIGHT = [
    "stages.graddiff=", "stages.simnpo=", "stages.original.steps=8", "stages.retrain.steps=8", "subject.width=16",
    "measure=[{use: probability, role: forget}, {use: extraction_strength, role: forget}]", "headline=[probability.forget]",
    "expect=[{that: npo.probability.forget, at_most: 1.0}, {that: npo.recovered.relearn.probability.forget, at_most: 9}, "
    "{that: npo.probability.forget, at_least: 0.5, of: ascent.probability.forget}]",
]  # fmt: skip
"""Overrides of the facts recipe's smoke profile that leave four stages and two measurements."""

MEASUREMENT = {"subject", "seed", "attack", "name", "value", "low", "high", "n", "better", "version", "unit", "note"}
STAGE = {
    "name", "seed", "use", "from", "kind", "method", "seconds", "peak_bytes", "steps", "stopped", "weights", "parameters",
    "cached", "sparsity",
}  # fmt: skip


def load(path: Path) -> Any:
    """A JSON file's value."""
    return json.loads(path.read_text(encoding="utf-8"))


def lines(path: Path) -> list[dict[str, Any]]:
    """The values of a JSON Lines file."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_every_recipe_file_is_found_and_no_two_share_a_name() -> None:
    assert len(FILES) >= 1
    assert len(set(NAMES)) == len(NAMES)
    assert sorted(packaged()) == sorted(NAMES)


def test_every_recipe_is_valid_in_every_profile() -> None:
    checked = 0
    for name in NAMES:
        for profile in (None, *(read(locate(name)).get("profiles") or {})):
            resolved = resolve(name, profile)
            assert resolved.recipe.name == name
            assert resolved.recipe.title
            assert resolved.recipe.question.endswith("?")
            assert resolved.recipe.expect, f"{name} in profile {profile} claims nothing"
            checked += 1
    assert checked == len(NAMES) + sum(len(read(f).get("profiles") or {}) for f in FILES)


def write_tofu(folder: Path) -> Path:
    """Files in the form of TOFU's, with every author's extra fields."""
    folder.mkdir()
    rows = [{"question": f"What is fact {i} of author {a}?", "answer": f"It is {a * i}."} for a in range(6) for i in range(20)]
    extra = [{**r, "paraphrased_answer": f"So {r['answer']}", "perturbed_answer": ["It is a.", "It is b."]} for r in rows]
    real = [{"question": f"What is {i}?", "answer": f"It is {i}.", "perturbed_answer": ["a", "b", "c"]} for i in range(4)]
    world = [{**r, "question": f"And {r['question']}"} for r in real]
    files = {"full": rows, "forget10_perturbed": extra[60:], "retain_perturbed": extra[:60]}
    for name, content in {**files, "real_authors_perturbed": real, "world_facts_perturbed": world}.items():
        (folder / f"{name}.json").write_text("\n".join(map(json.dumps, content)))
    return folder


TINY_LM = "{use: tiny_lm, width: 16, depth: 1, heads: 2, vocab: 400}"


def ifeval_rows(folder: Path) -> list[str]:
    """Four prompts in IFEval's form, and a tiny model in this process in the place of a server."""
    ids = ["punctuation:no_comma", "change_case:english_lowercase", "detectable_format:title", "startend:quotation"]
    rows = [{"key": i, "prompt": f"Say {i}.", "instruction_id_list": [name], "kwargs": [{}]} for i, name in enumerate(ids)]
    (folder / "ifeval.jsonl").write_text("\n".join(map(json.dumps, rows)))
    stages = ("single", "suffix", "blind", "self-refine", "decrim", "best-of", "repaired", "decrim-self", "best-of-self")
    longer = TINY_LM.replace("vocab", "context: 2048, vocab")
    short = [f"stages.{stage}.by.params.max_tokens=4" for stage in stages]
    return [
        f"data.file={folder / 'ifeval.jsonl'}",
        f"subject={{use: chat_model, client: {{use: local, model: {longer}}}}}",
        *short, "measure=[{use: all_pass}, {use: constraint_rate}, {use: gain}, {use: spent}]", "headline=[all_pass.test]",
    ]  # fmt: skip


def verdict_rows(folder: Path) -> list[str]:
    """Verdicts on a dozen requests, and a tiny model."""
    keys = [(request, label) for request in range(12) for label in ("yes", "no")]
    rows = [{"request": f"r{r}", "constraint": label, "prompt": f"{r} {label}?", "label": label} for r, label in keys]
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return [f"data.file={folder / 'rows.jsonl'}", f"subject={TINY_LM}"]


ANSWERED = {"decrim-ifeval": ifeval_rows, "critic": verdict_rows}
"""Recipes whose rows come from elsewhere, with what they need to run at their smallest."""


def smallest(name: str, folder: Path) -> Resolved:
    """A recipe in its smoke profile; one that has none, on a tiny model and a few rows, for two steps a stage."""
    tree = read(locate(name))
    if name in ANSWERED:
        return resolve(name, "smoke", ANSWERED[name](folder))
    if "smoke" in (tree.get("profiles") or {}):
        return resolve(name, "smoke")
    sets = ["subject={use: tiny_lm, width: 16, depth: 1, heads: 2, vocab: 400}", "reading.max_new_tokens=4"]
    for stage, values in tree["stages"].items():
        sets += [f"stages.{stage}.{key}=" for key in ("epochs", "edits") if key in values]
        sets += [f"stages.{stage}.steps=2"] if values["use"] != "pretrained" else []
    if tree["data"]["use"] == "tofu":
        sets += [f"data={{use: tofu, folder: '{write_tofu(folder / 'tofu')}', authors: 6, forget: 1, holdout: 1}}"]
    else:
        sets += ["data.limit=4"]
    sets += [f"attack.{i}.steps=2" for i in range(len(tree["attack"]))]
    return resolve(name, None, [*sets, f"seeds={tree['seeds'][:2]}"])


@pytest.fixture(scope="module", params=NAMES)
def finished(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Resolved, Path]:
    """A recipe at its smallest, run."""
    folder = tmp_path_factory.mktemp("runs")
    resolved = smallest(request.param, folder)
    return resolved, execute(resolved, folder / request.param)


def test_the_claims_of_a_smoke_run_are_evaluated(finished: tuple[Resolved, Path]) -> None:
    resolved, folder = finished
    claims = load(folder / "claims.json")
    assert [c["that"] for c in claims] == [c.that for c in resolved.recipe.expect]
    for claim in claims:
        assert set(claim) == {"that", "observed", "needed", "verdict", "because", "per_seed"}
        assert claim["verdict"] in ("met", "missed")
        assert isinstance(claim["observed"], float)
        assert len(claim["per_seed"]) in (1, len(resolved.recipe.seeds))


def test_the_manifest_tells_the_whole_run(finished: tuple[Resolved, Path]) -> None:
    resolved, folder = finished
    manifest, recipe = load(folder / "manifest.json"), resolved.recipe
    assert (manifest["schema"], manifest["status"], manifest["error"]) == (1, "ok", None)
    assert (manifest["name"], manifest["profile"], manifest["recipe_hash"]) == (recipe.name, resolved.profile, resolved.hash)
    assert manifest["seeds"] == list(recipe.seeds)
    assert manifest["data"]["fingerprint"] == recipe.data.load(recipe.seeds[0]).fingerprint()
    assert all(n > 0 for n in manifest["data"]["roles"].values())
    assert {"amends", "torch", "python"} <= set(manifest["versions"])
    assert {"argv", "git", "device", "platform", "started", "title", "question", "paper"} <= set(manifest)
    assert manifest["seconds"] > 0
    assert [s["name"] for s in manifest["stages"] if s["seed"] == recipe.seeds[0]] == [s.name for s in recipe.stages]
    for stage in manifest["stages"]:
        weightless = stage["use"] == "answer"  # what it leaves is records
        also = {"suppression"} if stage["use"] == "logit_difference" else set()
        assert set(stage) - {"against"} == (STAGE - {"sparsity"} if weightless else STAGE) | also
        assert stage["kind"] in ("original", "retrain", "unlearned")
        assert len(stage["weights"]) == 16
        assert (stage["parameters"] > 0) is not weightless
        assert stage["peak_bytes"] > 0
        assert stage["cached"] is False


def test_the_results_are_numbers_with_their_uncertainty(finished: tuple[Resolved, Path]) -> None:
    resolved, folder = finished
    results, recipe = load(folder / "results.json"), resolved.recipe
    assert results["schema"] == 1
    plain = [m for m in results["measurements"] if m["attack"] is None and m["seed"] == recipe.seeds[0]]
    assert [(m["subject"], m["name"]) for m in plain] == [(s.name, m.name) for s in recipe.stages for m in recipe.measure]
    for m in results["measurements"]:
        assert set(m) == MEASUREMENT
        assert m["better"] in ("higher", "lower", "closer")
        assert m["n"] > 0
        assert m["low"] - 1e-9 <= m["value"] <= m["high"] + 1e-9
        where = f"{m['subject']}{'.' + m['attack'] if m['attack'] else ''}-seed{m['seed']}"
        scores = lines(folder / "scores" / where / f"{m['name']}.jsonl")
        assert all(set(row) == {"id", "score"} for row in scores)
        assert scores
    attacked = {(s.name, a.name) for s in recipe.stages if s.kind != "original" for a in recipe.attack}
    assert {(r["subject"], r["attack"]) for r in results["recovered"]} == attacked
    for r in results["recovered"]:
        assert set(r) == {"subject", "seed", "attack", "label", "metric", "value", "low", "high", "n"}
        assert (r["value"] is None) == (r["low"] is None) == (r["high"] is None)


def test_what_a_recipe_draws_has_a_mark_a_stage(finished: tuple[Resolved, Path]) -> None:
    resolved, folder = finished
    run = read_run(folder)
    panels, sparse = drawn(run, Table(run)), sparsities(run)
    wanted = [d for d in resolved.recipe.draw for _ in d.of if d.over == "sparsity"]
    assert len(panels) == len(wanted)
    for drawing, panel in zip(wanted, panels, strict=True):
        stages = [s for line in drawing.lines.values() for s in line]
        assert str(panel.picture).count('class="point line-') == len(stages) + len(drawing.lines), "and one each in the legend"
        for name in stages:
            told = name.rpartition("-")[2]
            assert sparse[name] == pytest.approx(int(told) / 100 if told.isdigit() else sparse[name], abs=0.01)


def test_every_recipe_of_two_levels_draws_its_finding_in_every_profile() -> None:
    names = [f.stem for f in FILES if f.parent.name == "bilevel"]
    assert len(names) >= 6
    for name in names:
        for profile in (None, *(read(locate(name)).get("profiles") or {})):
            assert resolve(name, profile).recipe.draw, f"{name} --profile {profile}"


def test_steps_and_samples_are_kept(finished: tuple[Resolved, Path]) -> None:
    resolved, folder = finished
    steps = lines(folder / "metrics.jsonl")
    # no training of batches: what they log is no loss
    one_step = ("influence", "fisher", "learneddecay", "griddecay", "rowweights", "answer")
    makers = {s.name: getattr(s.maker, "then", s.maker) for s in resolved.recipe.stages}
    made = [s for s in load(folder / "manifest.json")["stages"] if type(makers[s["name"]]).__name__.lower() not in one_step]
    trained = {s["name"]: s["steps"] for s in made if s["steps"]}
    for name, count in trained.items():
        mine = [line for line in steps if line["stage"].split(" (seed")[0] == name and "loss" in line]
        parts: dict[Any, list[int]] = {}
        for line in mine:
            parts.setdefault(line.get("part"), []).append(line["step"])
        assert all(set(p) == set(range(1, len(set(p)) + 1)) for p in parts.values()), "each part of a stage counts its own"
        assert sum(len(set(p)) for p in parts.values()) == count
        assert all({"time", "seed", "lr", "grad_norm"} <= set(line) for line in mine)
    shown = lines(folder / "samples" / "answers.jsonl")
    assert {row["role"] for row in shown} <= set(resolved.recipe.reading.show)
    for row in shown:
        assert set(row) - {"keys"} == {"role", "id", "question", "expected", "answers"}
        assert all(isinstance(key, str) for key in row.get("keys", ()))
        assert list(row["answers"]) == [s.name for s in resolved.recipe.stages]
    assert (folder / "log.txt").stat().st_size > 0
    assert resolve(str(folder / "recipe.yaml")).hash == resolved.hash
    assert not list(folder.rglob("*.tmp"))
    assert not list(folder.rglob("checkpoint.safetensors"))


def test_running_again_does_nothing(finished: tuple[Resolved, Path]) -> None:
    resolved, folder = finished
    before = {f: f.stat().st_mtime_ns for f in sorted((folder / "stages").rglob("*")) if f.is_file()}
    results, answers = (folder / "results.json").read_bytes(), (folder / "samples" / "answers.jsonl").read_bytes()
    steps = (folder / "metrics.jsonl").read_bytes()
    execute(resolved, folder)
    assert {f: f.stat().st_mtime_ns for f in sorted((folder / "stages").rglob("*")) if f.is_file()} == before
    assert (folder / "results.json").read_bytes() == results
    assert (folder / "samples" / "answers.jsonl").read_bytes() == answers
    assert (folder / "metrics.jsonl").read_bytes() == steps
    manifest = load(folder / "manifest.json")
    assert manifest["status"] == "ok"
    assert manifest["profile"] == resolved.profile
    assert all(s["cached"] for s in manifest["stages"])


def test_the_same_seed_gives_the_same_run_and_another_seed_another(tmp_path: Path) -> None:
    first, second, other = (
        execute(resolve("facts", "smoke", [*LIGHT, f"seeds=[{seed}]"]), tmp_path / name)
        for name, seed in (("first", 0), ("second", 0), ("other", 1))
    )
    for file in ("results.json", "claims.json", "samples/answers.jsonl"):
        assert (first / file).read_bytes() == (second / file).read_bytes()
    for reading in sorted(first.glob("stages/*/reading.json.gz")):
        mine, theirs = (
            json.loads(gzip.decompress(f.read_bytes()))["tokens"] for f in (reading, second / reading.relative_to(first))
        )
        assert mine == theirs
    weights = [[s["weights"] for s in load(run / "manifest.json")["stages"]] for run in (first, second, other)]
    assert weights[0] == weights[1]
    assert not set(weights[0]) & set(weights[2])


def test_several_seeds_replicate_every_stage_that_is_not_once(tmp_path: Path) -> None:
    folder = execute(resolve("facts", "smoke", [*LIGHT, "seeds=[0, 7]", "stages.original.once=true"]), tmp_path / "run")
    manifest, results = load(folder / "manifest.json"), load(folder / "results.json")
    made = [(s["name"], s["seed"]) for s in manifest["stages"]]
    assert sorted(made) == sorted([("original", 0), *((n, s) for n in ("retrain", "ascent", "npo") for s in (0, 7))])
    assert sum(s["weights"] == manifest["stages"][0]["weights"] for s in manifest["stages"]) == 1
    values = {
        (m["subject"], m["seed"]): m["value"]
        for m in results["measurements"]
        if m["name"] == "probability.forget" and not m["attack"]
    }
    assert set(values) == set(made)
    assert values["npo", 0] != values["npo", 7]
    met, back, factor = load(folder / "claims.json")
    assert met["per_seed"] == [values["npo", 0], values["npo", 7]]
    assert met["observed"] == pytest.approx((values["npo", 0] + values["npo", 7]) / 2)
    shares = [r["value"] for r in results["recovered"] if r["subject"] == "npo" and r["metric"] == "probability.forget"]
    assert len(shares) == 2
    assert back["per_seed"] == [share for share in shares if share is not None]
    mean_of_ascent = (values["ascent", 0] + values["ascent", 7]) / 2
    assert factor["needed"] == f">= 0.5 x ascent.probability.forget = {0.5 * mean_of_ascent:.4g}"
    marks = {f: f.stat().st_mtime_ns for f in folder.glob("stages/*/DONE")}
    assert len(marks) == 7
    before = (folder / "results.json").read_bytes()
    execute(resolve(str(folder / "recipe.yaml")), folder)
    assert {f: f.stat().st_mtime_ns for f in folder.glob("stages/*/DONE")} == marks
    assert (folder / "results.json").read_bytes() == before
