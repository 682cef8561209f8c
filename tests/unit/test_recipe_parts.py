"""What recipes are made of: YAML, overrides, claims, sweeps, records, and the share that an attack brings back."""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from amends.core import yamls
from amends.core.errors import UserError
from amends.core.types import Measurement
from amends.metrics.recovered import recovered
from amends.metrics.stats import interval
from amends.runs import overrides
from amends.runs.claims import Claim
from amends.runs.recipe import build_recipe, read, resolve
from amends.runs.record import Folder, read_json, write_json, write_text
from amends.runs.sweep import grid

# ---------------------------------------------------------------------- YAML


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("{on: 1, off: 2, no: 3, yes: 4, y: 5}", {"on": 1, "off": 2, "no": 3, "yes": 4, "y": 5}),
        ("[on, off, yes, no, y]", ["on", "off", "yes", "no", "y"]),
        ("[true, False, TRUE]", [True, False, True]),
        ("[1e-5, 1E5, 1.5e3, -2.e1, .5, +3.0, 7, -7]", [1e-5, 1e5, 1500.0, -20.0, 0.5, 3.0, 7, -7]),
        ("[1e, e5, 1-5, 1.2.3]", ["1e", "e5", "1-5", "1.2.3"]),
        ("[.inf, -.inf, null, ~]", [math.inf, -math.inf, None, None]),
        ("", None),
    ],
)
def test_yaml_means_what_it_says(text: str, value: Any) -> None:
    found = yamls.load(text)
    assert found == value
    assert [type(v) for v in found or ()] == [type(v) for v in value or ()]


@pytest.mark.parametrize(
    "text",
    [
        "a: 1\na: 2", "{x: {a: 1, a: 1}}", "? [a]\n: 1", "a: &b [*b]", "2001-99-99", "!!int x", "!!bool maybe", "!!timestamp x",
        "0b_", "[" * 1500, "9" * 5000, "!!python/object:os.system {}", "a: b: c", "\ta: 1",
    ],
)  # fmt: skip
def test_text_that_is_no_yaml_is_a_yaml_error(text: str) -> None:
    with pytest.raises(yaml.YAMLError):
        yamls.load(text)


def test_a_key_that_stands_twice_names_the_line(tmp_path: Path) -> None:
    file = tmp_path / "r.yaml"
    file.write_text("name: a\nstages: {}\nname: b\n")
    with pytest.raises(UserError, match=r"r\.yaml:3: not valid YAML \(the key 'name' stands twice\)$"):
        read(file)


def test_dumped_values_load_as_they_were() -> None:
    values = {"on": "1e5", "lr": 1e-5, "no": ["yes", "1.5", "null", ".5", "2024-01-01", "012", "1:30"], "x": None, "y": True}
    assert yamls.load(yamls.dump(values)) == values


# ---------------------------------------------------------------------- overrides

TREE = {"data": {"use": "facts"}, "stages": {"npo": {"steps": 3, "objective": [{"use": "npo"}, {"use": "nll"}]}}, "seeds": [0]}


@pytest.mark.parametrize(
    ("text", "at", "value"),
    [
        ("stages.npo.steps=20", ("stages", "npo"), {"steps": 20, "objective": [{"use": "npo"}, {"use": "nll"}]}),
        ("stages.npo.objective.0.beta=5e-2", ("stages", "npo", "objective", 0), {"use": "npo", "beta": 0.05}),
        ("stages.npo.objective.1={use: kl}", ("stages", "npo", "objective"), [{"use": "npo"}, {"use": "kl"}]),
        ("stages.npo.objective.0=", ("stages", "npo", "objective"), [{"use": "nll"}]),
        ("stages.npo.steps=", ("stages", "npo"), {"objective": [{"use": "npo"}, {"use": "nll"}]}),
        ("seeds=[1, 2]", ("seeds",), [1, 2]),
        ("title=a = b", ("title",), "a = b"),
        ("data.on=yes", ("data",), {"use": "facts", "on": "yes"}),
    ],
)
def test_an_override_changes_one_place(text: str, at: tuple[Any, ...], value: Any) -> None:
    before = json.dumps(TREE)
    result: Any = overrides.apply(TREE, dict([overrides.parse(text)]), "--set")
    for key in at:
        result = result[key]
    assert result == value
    assert json.dumps(TREE) == before


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("stages.npoo.steps=1", r"--set stages\.npoo\.steps: stages has no key 'npoo' \(did you mean 'npo'\?\)"),
        ("stage.npo.steps=1", r"the recipe has no key 'stage' \(did you mean 'stages'\?\)"),
        ("stages.npo.stepz=", r"stages\.npo has no key 'stepz' \(did you mean 'steps'\?\)"),
        ("stages.npo.objective.2.beta=1", r"'2' is not an index of a list of 2, which starts at 0"),
        ("stages.npo.objective.-1=1", "'-1' is not an index"),
        ("stages.npo.objective.\N{SUPERSCRIPT TWO}=1", "is not an index"),
        ("stages.npo.steps.x=1", "'x' goes below a plain value"),
        ("stages.npo.steps", "expected key=value"),
        ("=3", "expected key=value"),
        ("seeds=[1", "is not a YAML value"),
        ("seeds=" + "[" * 1500, "is not a YAML value"),
    ],
)
def test_a_wrong_override_says_where(text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        overrides.apply(TREE, dict([overrides.parse(text)]), "--set")


def test_profiles_come_before_sets_and_both_before_nothing() -> None:
    plain, smoke = resolve("facts"), resolve("facts", "smoke")
    both = resolve("facts", "smoke", ["data.authors=7", "stages.npo.objective.0.beta=0.3"])
    assert plain.tree["data"]["authors"] == 20
    assert (smoke.tree["data"]["authors"], both.tree["data"]["authors"]) == (6, 7)
    assert both.recipe.stages[4].maker.objective[0].term.beta == 0.3
    assert len({plain.hash, smoke.hash, both.hash}) == 3
    with pytest.raises(UserError, match=r"facts: no profile is called 'smok' \(did you mean 'smoke'\?\)"):
        resolve("facts", "smok")


def test_the_saved_recipe_is_the_recipe(tmp_path: Path) -> None:
    resolved = resolve("facts", "smoke", ["title='1e5'", "stages.npo.optim.lr=1e-7", "data.holdout=2"])
    (tmp_path / "recipe.yaml").write_text(resolved.as_yaml())
    again = resolve(str(tmp_path / "recipe.yaml"))
    assert again.hash == resolved.hash
    assert again.recipe == resolved.recipe


# ---------------------------------------------------------------------- recipes


def facts(*sets: str) -> dict[str, Any]:
    """The smoke recipe's tree, changed."""
    tree = dict(resolve("facts", "smoke").tree)
    return overrides.apply(tree, dict(map(overrides.parse, sets)), "--set")


@pytest.mark.parametrize(
    ("sets", "message"),
    [
        (["stages.npo.from="], r"stages\.npo\.from: Gradient starts from another stage.*name an earlier one"),
        (["stages.npo.from=retrian"], r"stages\.npo\.from: no earlier stage is called 'retrian' \(did you mean 'retrain'\?\)"),
        (["stages.npo.from=[original]"], r"stages\.npo\.from: no earlier stage is called \['original'\]"),
        (["stages.original.from=npo"], r"stages\.original\.from: no earlier stage is called 'npo'"),
        (["stages.npo.once=no"], r"stages\.npo\.once: expected true or false, got 'no'"),
        (["stages.npo.once=true"], r"stages\.npo\.once: its start, 'original', is made anew for each seed"),
        (["stages.npo.kind=best"], r"stages\.npo\.kind: expected original, retrain or unlearned, got 'best'"),
        (["stages.npo.steps=0"], r"stages\.npo\.steps: Input should be greater than or equal to 1, got 0"),
        (["stages.npo.optim=0"], r"stages\.npo\.optim: expected a mapping with `use:`, got 0"),
        (["stages={}"], "stages: expected a mapping of names, with at least one stage"),
        (["stages.npo.setps=3"], r"stages\.npo\.setps: Gradient has no such key \(did you mean 'steps'\?\)"),
        (["stages.npo.objective.0.use=npoo"], r"stages\.npo\.objective\.0\.use: no term is called 'npoo' \(did you mean 'npo'"),
        (["measure.0.use=probabilty"], r"measure\.0\.use: no metric is called 'probabilty' \(did you mean 'probability'\?\)"),
        (["measure.0={use: rouge}"], r"measure: rouge\.forget stands twice"),
        (["attack=[relearn, relearn]"], "attack: relearn stands twice"),
        (["attack_measure=[probability.forgot]"], r"attack_measure\.0: nothing measured is called 'probability\.forgot'"),
        (["attack_measure=[forget_distance]"], r"attack_measure\.0: forget_distance compares two models"),
        (["headline=[utilty]"], r"headline\.0: nothing measured is called 'utilty' \(did you mean 'utility'\?\)"),
        (["against=retrian"], r"against: no stage is called 'retrian' \(did you mean 'retrain'\?\)"),
        (["stages.retrain="], r"measure\.\d: forget_quality compares with a retrained model, and no stage is called 'retrain'"),
        (["seeds=[]"], "recipe.seeds: .*at least 1 item"),
        (["seeds=[0, 0]"], "seeds: 0 stands twice"),
        (["seeds=[-1]"], r"recipe\.seeds\.0: Input should be greater than or equal to 0, got -1"),
        (["expect.0.that=npo.utilty"], r"expect\.0\.that: nothing measured is called 'utilty' \(did you mean 'utility'\?\)"),
        (["subject="], "subject: a recipe needs it"),
        (["reading.show=forget"], r"reading\.show: .*valid list"),
    ],
)  # fmt: skip
def test_a_mistake_in_a_recipe_names_its_path(sets: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        build_recipe(facts(*sets))


@pytest.mark.parametrize("key", ["measure", "attack", "data", "subject"])
def test_a_part_may_not_be_null(key: str) -> None:
    with pytest.raises(UserError, match=f"{key}: expected a (list|mapping)"):
        build_recipe({**facts(), key: None})


def test_an_attack_needs_an_original() -> None:
    tree = facts("expect=[]", "stages={base: {use: train, on: [forget, retain, world], steps: 2}}", "measure=[]", "headline=[]")
    with pytest.raises(UserError, match="attack: no stage is the original to compare with"):
        build_recipe(tree)
    assert build_recipe(overrides.apply(tree, {"stages.base.kind": "original"}, "--set")).stages[0].kind == "original"


@pytest.mark.parametrize(
    ("sets", "message"),
    [
        (["stages.retrain.on=[retain, wrld]"], r"stages\.retrain: data has no role 'wrld' \(did you mean 'world'\?\)"),
        (["stages.retrain.on=[]"], "stages.retrain: on: give at least one role"),
        (["stages.npo.objective.1.role=keep"], r"stages\.npo: data has no role 'keep'"),
        (["stages.npo.objective=[]"], r"stages\.npo: objective: give at least one term"),
        (["stages.npo.steps="], r"stages\.npo: give either `steps` or `epochs`"),
        (["stages.npo.epochs=2"], r"stages\.npo: give either `steps` or `epochs`"),
        (["stages.npo.guards=[{use: utility_budget, role: aside}]"], r"stages\.npo: data has no role 'aside'"),
        (
            ["stages.npo.objective.0={use: dpo, role: retain}"],
            r"stages\.npo: DPO needs another answer for every row of 'retain'",
        ),
        (["measure.0.role=forgt", "headline=[]", "expect=[]"], r"measure\.0 \(probability\.forgt\): data has no role 'forgt'"),
        (["attack.0.role=x"], r"attack\.0: data has no role 'x'"),
    ],
)
def test_what_the_data_lacks_is_found_before_a_model_is_loaded(sets: list[str], message: str) -> None:
    recipe = build_recipe(facts(*sets))
    with pytest.raises(UserError, match=message):
        recipe.check_data(recipe.data.load(0))


# ---------------------------------------------------------------------- claims


def table(**values: Sequence[float]) -> Callable[[str], Sequence[float]]:
    """Looks a quantity up; `__` stands for a dot."""
    return lambda path: values.get(path.replace(".", "__"), ())


@pytest.mark.parametrize(
    ("claim", "verdict", "needed", "observed"),
    [
        (Claim(that="npo.utility", at_least=0.5), "met", ">= 0.5", 0.5),
        (Claim(that="npo.utility", at_most=0.5), "met", "<= 0.5", 0.5),
        (Claim(that="npo.utility", at_least=0.51), "missed", ">= 0.51", 0.5),
        (Claim(that="npo.utility", at_least=0.8, of="original.utility"), "missed", ">= 0.8 x original.utility = 0.64", 0.5),
        (Claim(that="npo.utility", at_most=0.8, of="original.utility"), "met", "<= 0.8 x original.utility = 0.64", 0.5),
        (Claim(that="npo.seconds", at_most=1), "not tested", "<= 1", None),
        (Claim(that="npo.utility", at_most=1, of="retrain.utility"), "not tested", "<= 1 x retrain.utility", None),
        (Claim(that="broken.utility", at_most=1), "missed", "<= 1", math.nan),
        (Claim(that="broken.utility", at_least=1), "missed", ">= 1", math.nan),
    ],
)
def test_a_claim_is_met_missed_or_not_tested(claim: Claim, verdict: str, needed: str, observed: float | None) -> None:
    values = table(npo__utility=[0.4, 0.6], original__utility=[0.9, 0.7], broken__utility=[math.nan])
    found = claim.judge(values)
    assert (found["verdict"], found["needed"]) == (verdict, needed)
    assert found["observed"] == pytest.approx(observed, nan_ok=True)


def test_a_claim_rests_on_the_mean_over_seeds_and_keeps_each() -> None:
    found = Claim(that="a.u", at_least=0.6, because="why").judge(table(a__u=[0.5, 0.9]))
    assert (found["verdict"], found["observed"], found["per_seed"], found["because"]) == ("met", 0.7, [0.5, 0.9], "why")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"that": "npo.utility"}, "expect.0: give exactly one of at_least and at_most"),
        ({"that": "npo.utility", "at_least": 1, "at_most": 2}, "give exactly one"),
        ({"that": "npoo.utility", "at_least": 1}, r"expect\.0\.that: no stage is called 'npoo' \(did you mean 'npo'\?\)"),
        ({"that": "npo.utilty", "at_least": 1}, r"nothing measured is called 'utilty' \(did you mean 'utility'\?\)"),
        ({"that": "npo", "at_least": 1}, "nothing measured is called ''"),
        ({"that": "npo.utility", "at_least": 1, "of": "orig.utility"}, r"expect\.0\.of: no stage is called 'orig'"),
        ({"that": "npo.recovered.relern.utility", "at_most": 1}, r"no attack is called 'relern' \(did you mean 'relearn'\?\)"),
    ],
)
def test_a_claim_about_nothing_is_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Claim(**values).check("expect.0", ["original", "npo"], ["utility"], ["relearn"])


@pytest.mark.parametrize("that", ["npo.utility", "npo.seconds", "npo.recovered.relearn.utility"])
def test_a_claim_may_be_about_what_is_measured_spent_or_brought_back(that: str) -> None:
    Claim(that=that, at_most=1).check("expect.0", ["npo"], ["utility"], ["relearn"])


def test_a_bound_is_a_number() -> None:
    with pytest.raises(UserError, match=r"expect\.0\.at_least: .*finite number"):
        build_recipe(facts("expect=[{that: npo.utility, at_least: .nan}]"))


# ---------------------------------------------------------------------- what comes back


def measured(*scores: float) -> Measurement:
    """A measurement whose rows have these scores."""
    return Measurement(
        "m", sum(scores) / len(scores), 0, 1, len(scores), "lower", scores={str(i): s for i, s in enumerate(scores)}
    )


@pytest.mark.parametrize(
    ("attacked", "share"),
    [((0.1, 0.3), 0.0), ((0.9, 0.7), 1.0), ((0.5, 0.5), 0.5), ((0.3, 0.3), 1 / 6), ((0.0, 0.2), -1 / 6), ((1.0, 1.0), 4 / 3)],
)
def test_the_share_by_hand(attacked: tuple[float, float], share: float) -> None:
    """original - unlearned is 0.8 - 0.2 = 0.6 in the mean; row by row 0.8 and 0.4."""
    found = recovered(measured(0.9, 0.7), measured(0.1, 0.3), measured(*attacked))
    assert found["value"] == pytest.approx(share)
    assert found["n"] == 2
    assert found["low"] <= found["value"] + 1e-12
    assert found["high"] >= found["value"] - 1e-12


def test_the_share_of_the_same_loss_in_every_row_has_no_width() -> None:
    found = recovered(measured(0.9, 0.9, 0.9), measured(0.1, 0.1, 0.1), measured(0.5, 0.5, 0.5))
    assert found["low"] == found["high"] == found["value"] == pytest.approx(0.5)


def test_nothing_lost_means_nothing_to_bring_back() -> None:
    for unlearned in (measured(0.9, 0.7), measured(0.99, 0.99), measured(0.89, 0.68)):
        assert recovered(measured(0.9, 0.7), unlearned, measured(0.9, 0.9))["value"] is None
    assert recovered(measured(0.5), Measurement("m", 0, 0, 0, 0, "lower"), measured(0.5)) == {
        "value": None, "low": None, "high": None, "n": 0,
    }  # fmt: skip


def test_draws_in_which_nothing_was_lost_are_left_out_and_the_rest_is_used() -> None:
    """One row lost everything, one nothing: a quarter of the draws hold the second one only, and their share is 0 / 0."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = recovered(measured(1.0, 0.5), measured(0.0, 0.5), measured(0.5, 0.5))
    assert found["value"] == found["low"] == found["high"] == pytest.approx(0.5)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        wide = recovered(measured(1.0, 0.5, 0.8), measured(0.0, 0.5, 0.6), measured(0.5, 0.5, 0.8))
    assert wide["low"] == pytest.approx(0.5)
    assert wide["high"] == pytest.approx(1.0)
    assert wide["value"] == pytest.approx(0.7 / 1.2)


@pytest.mark.parametrize("values", [[0.25], [0.25, 0.25, 0.25], [0.1] * 7])
def test_a_statistic_that_does_not_vary_has_an_interval_of_no_width(values: list[float]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        low, high = interval([np.array(values)], np.mean, paired=False)
    assert low == high == pytest.approx(values[0])


def test_the_interval_of_a_mean_is_about_two_standard_errors_either_side() -> None:
    values = np.arange(100) / 99
    low, high = interval([values], np.mean, paired=False)
    error = values.std() / 10
    assert (low, high) == pytest.approx((0.5 - 1.96 * error, 0.5 + 1.96 * error), abs=0.15 * error)


# ---------------------------------------------------------------------- sweeps


def test_a_grid_is_every_combination_in_order() -> None:
    points = grid("facts", "smoke", ["seeds=[3]"], ["stages.npo.steps=2,4", "stages.npo.objective.0.beta=0.1,0.2,0.5"])
    found = [
        (p.recipe.stages[4].maker.steps, p.recipe.stages[4].maker.objective[0].term.beta) for p in (x.resolved for x in points)
    ]
    assert found == [(s, b) for s in (2, 4) for b in (0.1, 0.2, 0.5)]
    assert points[1].settings == ("stages.npo.steps=2", "stages.npo.objective.0.beta=0.2")
    assert len({p.resolved.hash for p in points}) == 6
    assert all(p.resolved.recipe.seeds == (3,) for p in points)


@pytest.mark.parametrize(
    ("over", "message"),
    [
        ("stages.npo.steps", "expected KEY=V1,V2"),
        ("stages.npo.steps=", "expected KEY=V1,V2"),
        ("stages.npo.steps=2,x", "valid integer"),
    ],
)
def test_a_wrong_axis_is_found_before_anything_runs(over: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        grid("facts", "smoke", [], [over])


# ---------------------------------------------------------------------- records


def test_json_has_no_numbers_that_are_none(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"x": [math.nan, math.inf, -math.inf, 1.5, "é"], 3: (None, True)})
    text = (tmp_path / "a.json").read_text(encoding="utf-8")
    assert json.loads(text) == {"x": [None, None, None, 1.5, "é"], "3": [None, True]}
    assert "é" in text
    Folder(tmp_path).write_lines("a/b.jsonl", [{"v": math.nan}, {"v": 1}])
    assert (tmp_path / "a" / "b.jsonl").read_text() == '{"v": null}\n{"v": 1}\n'


def test_a_write_that_fails_leaves_what_was_there(tmp_path: Path) -> None:
    (tmp_path / "folder.json" / "inside").mkdir(parents=True)
    with pytest.raises(UserError, match=r"folder\.json: could not be written .*what was saved before is untouched"):
        write_text(tmp_path / "folder.json", "text")
    (tmp_path / "file").write_text("old")
    with pytest.raises(UserError, match="could not be written"):
        write_text(tmp_path / "file" / "below.json", "text")
    assert (tmp_path / "file").read_text() == "old"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "folder.json"]


def test_a_line_that_cannot_be_added_is_a_user_error(tmp_path: Path) -> None:
    (tmp_path / "log.txt").mkdir()
    with pytest.raises(UserError, match=r"log\.txt: could not be written \(Is a directory\)"):
        Folder(tmp_path).append("log.txt", "a line")


def test_files_that_are_no_json_are_named(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("{")
    with pytest.raises(UserError, match=r"a\.json: not valid JSON"):
        read_json(tmp_path / "a.json")
    with pytest.raises(UserError, match=r"b\.json: no such file"):
        read_json(tmp_path / "b.json")


def test_a_folder_is_held_by_one_run_at_a_time(tmp_path: Path) -> None:
    with Folder(tmp_path / "run").locked():
        with pytest.raises(UserError, match="another run is writing here"), Folder(tmp_path / "run").locked():
            pass
        with Folder(tmp_path / "run", writes=False).locked():
            pass
    with Folder(tmp_path / "run").locked():
        pass
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot be used as a run folder"), Folder(tmp_path / "file").locked():
        pass


def test_a_process_that_does_not_write_writes_nothing(tmp_path: Path) -> None:
    silent = Folder(tmp_path, writes=False)
    silent.update(status="running")
    silent.append("log.txt", "a line")
    silent.write_lines("rows.jsonl", [{"a": 1}])
    assert list(tmp_path.iterdir()) == []
