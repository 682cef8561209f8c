"""Penalties and row weights that are learned from validation rows, and what they stand on: closed forms, limits, mistakes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from amends.bilevel.compare import against_differences
from amends.bilevel.problem import Problem, hypergradient
from amends.bilevel.solvers import LBFGS
from amends.bilevel.strategies.cg import CG
from amends.bilevel.strategies.unroll import Unroll
from amends.core.context import Memory
from amends.core.errors import UserError
from amends.core.rng import rng
from amends.core.spec import build_use
from amends.data.bundle import Bundle
from amends.train.grid_decay import GridDecay
from amends.train.learned_decay import LearnedDecay, log_penalties, penalty
from amends.train.levels import in_doubles, losses, weights_of
from amends.train.row_weights import RowWeights, row_weights

NOISY = {"use": "noisy", "of": {"use": "digits"}, "limit": {"train": 120, "test": 60}, "valid": 40, "noise": 0.3}


def world(**changes: Any) -> tuple[Bundle, Any]:
    data = build_use("data", {**NOISY, **changes}, "data").load(0)
    return data, build_use("models", {"use": "image_classifier", "net": "linear"}, "subject").load(data, 0)


def test_lbfgs_solves_a_ridge_in_closed_form_and_cannot_be_unrolled() -> None:
    a, b = torch.randn(30, 6, generator=rng(0, "a"), dtype=torch.float64), torch.randn(30, generator=rng(0, "b")).double()
    problem = Problem(
        lambda x, y: (a @ y["w"] - b).square().sum(),
        lambda x, y: 0.5 * (a @ y["w"] - b).square().sum() + 0.5 * x["decay"] * y["w"].square().sum(),
    )
    outer, inner = {"decay": torch.tensor(0.7, dtype=torch.float64)}, {"w": torch.zeros(6, dtype=torch.float64)}
    with torch.no_grad():
        found = LBFGS().step(problem, outer, inner)["w"]
    torch.testing.assert_close(found, torch.linalg.solve(a.T @ a + 0.7 * torch.eye(6).double(), a.T @ b))
    answer = hypergradient(problem, outer, inner, strategy=CG(), solver=LBFGS())
    assert against_differences(answer, problem, outer, inner, solver=LBFGS()).degrees < 0.1
    with pytest.raises(UserError, match="lbfgs: its iterations cannot be unrolled"):
        hypergradient(problem, outer, inner, strategy=Unroll(), solver=LBFGS())


@pytest.mark.parametrize("per", ["one", "feature", "weight", "tensor"])
def test_the_hypergradient_of_penalties_is_the_finite_difference(per: Any) -> None:
    data, subject = world()
    with in_doubles(subject):
        train, valid = losses(subject, data, "train"), losses(subject, data, "valid")
        stage = LearnedDecay(per=per, first=0.05)
        outer, inner = log_penalties(weights_of(subject), per, 0.05), weights_of(subject)
        problem = Problem(lambda x, y: valid.at(y).mean(), lambda x, y: stage.lower(train, x, y))
        answer = hypergradient(problem, outer, inner, strategy=CG(steps=200), solver=LBFGS(iterations=300))
        found = against_differences(
            answer, problem, outer, dict(answer.inner), solver=LBFGS(iterations=300), directions=2, width=1e-2
        )
    assert found.degrees < 2 and found.ratio == pytest.approx(1, abs=0.02)


def test_equal_penalties_are_one_weight_decay() -> None:
    weights = {"w": torch.tensor([[1.0, 2.0], [3.0, 4.0]]), "b": torch.tensor([2.0])}
    for per in ("one", "feature", "weight", "tensor"):
        decays = {n: v.exp() for n, v in log_penalties(weights, per, 0.1).items()}
        assert float(penalty(decays, weights)) == pytest.approx(0.05 * 34)
    with pytest.raises(UserError, match="learned_decay.per: the model has no weight matrix"):
        log_penalties({"b": torch.ones(2)}, "feature", 0.1)


def test_learned_penalties_lower_the_validation_loss_and_the_model_is_left_in_its_precision(tmp_path: Path) -> None:
    data, subject = world()
    run = Memory(folder=tmp_path)
    LearnedDecay(steps=6)(subject, data, run)
    seen = [line["valid_loss"] for line in run.logged if "valid_loss" in line]
    assert seen[-1] < seen[0] and len(seen) == 6
    assert all(p.dtype == torch.float32 for p in subject.module.state_dict().values())
    kept = json.loads((tmp_path / "decays.json").read_text())
    assert sorted(len(torch.tensor(v).flatten()) for v in kept.values()) == [1, 64]


def test_a_grid_keeps_what_validation_rows_like_best() -> None:
    data, subject = world()
    run = Memory()
    GridDecay(decays=(1e-3, 3e-2, 100.0), iterations=100)(subject, data, run)
    best = min(run.logged, key=lambda line: line["valid_loss"])
    with in_doubles(subject):
        assert losses(subject, data, "valid").seen(weights_of(subject))["loss"] == pytest.approx(best["valid_loss"], rel=1e-4)
    assert best["decay"] != 100.0


def test_rows_with_wrong_labels_come_to_weigh_less() -> None:
    data, subject = world()
    run = Memory()
    RowWeights(steps=5)(subject, data, run)
    first, last = (line for line in (run.logged[0], run.logged[-1]))
    assert first["weight_right"] == first["weight_wrong"] == 1.0 and first["wrong_auroc"] == 0.5
    assert last["weight_wrong"] < last["weight_right"] and last["wrong_auroc"] > 0.6
    assert last["valid_loss"] < first["valid_loss"]


def test_class_weights_have_a_mean_of_one_over_classes() -> None:
    x = torch.randn(4, generator=rng(0, "x"))
    assert float(row_weights(x, torch.arange(4), "class").mean()) == pytest.approx(1)
    assert row_weights(torch.tensor([0.0, 100.0, -100.0]), torch.arange(3), "row").tolist() == pytest.approx([1, 2, 0])


def test_mistakes_planted_in_labels_are_told_and_validation_rows_are_clean_and_even() -> None:
    data, _ = world(keep={3: 0.25})
    wrong = [row for row in data["train"] if row.data["noisy"]]
    assert len(wrong) == round(0.3 * len(data["train"]))
    assert all((row.data["label"] != row.data["clean_label"]) == row.data["noisy"] for row in data["train"])
    assert all(row.id.split("-")[1] == str(row.data["label"]) for row in data["valid"])
    counts = [sum(row.data["label"] == k for row in data["valid"]) for k in range(10)]
    assert counts == [4] * 10
    of_three = [row for row in data["train"] if row.data["clean_label"] == 3]
    before, _ = world()
    assert len(of_three) == max(1, round(0.25 * sum(row.data["clean_label"] == 3 for row in before["train"])))
    assert {r.id for r in data["train"]} <= {r.id for r in before["train"]}
    with pytest.raises(UserError, match=r"data.keep: the data has no class 'ten'"):
        world(keep={"ten": 0.5})
    with pytest.raises(UserError, match="data.valid: 120 rows were to be set aside, and there are 120"):
        world(valid=120)


def test_rows_on_both_levels_are_refused() -> None:
    data, _ = world()
    with pytest.raises(UserError, match="learned_decay.valid: row .* is trained on as well"):
        LearnedDecay(valid="train").objective_on(data)
    with pytest.raises(UserError, match="data has no role 'valid'"):
        RowWeights().objective_on(world(valid=0)[0])
