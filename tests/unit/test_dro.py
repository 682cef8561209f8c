"""Group weights: closed forms against a solver and by hand, limits, what a training with them does, and the worst class."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from amends.core.context import Memory
from amends.core.errors import UserError
from amends.core.rng import rng
from amends.engine.optim import SGD
from amends.metrics.accuracy import Accuracy
from amends.metrics.evaluation import Evaluation
from amends.metrics.worst_class import WorstClass
from amends.train.dro import DRO, Groups, follow, worst
from amends.train.plain import Train

TRAIN = Train(on=("forget", "retain"), steps=8, batch=12, optim=SGD(lr=0.05))


def test_weights_by_hand() -> None:
    loss = torch.tensor([0.0, 2.0], dtype=torch.float64)
    e = 2.718281828459045
    assert worst(loss, 2.0, "kl").tolist() == pytest.approx([1 / (1 + e), e / (1 + e)])
    assert worst(loss, 4.0, "chi2").tolist() == pytest.approx([0.375, 0.625])
    assert worst(loss, 0.5, "chi2").tolist() == [0.0, 1.0], "the worst alone, at the simplex's edge"
    assert follow(torch.tensor([0.5, 0.5]), loss, 0.5, smooth=1.0).tolist() == [0.5, 0.5]


@pytest.mark.parametrize("penalty", ["kl", "chi2"])
def test_closed_forms_beat_every_other_point_of_the_simplex(penalty: Any) -> None:
    loss = torch.randn(5, generator=rng(0, "loss"), dtype=torch.float64)
    prior = torch.softmax(torch.randn(5, generator=rng(0, "prior"), dtype=torch.float64), 0)

    def value(a: torch.Tensor) -> torch.Tensor:
        d = torch.special.xlogy(a, a / prior).sum(-1) if penalty == "kl" else 0.5 * ((a - prior) ** 2 / prior).sum(-1)
        return a @ loss - 0.6 * d

    best = worst(loss, 0.6, penalty, prior)
    assert float(best.sum()) == pytest.approx(1) and bool((best >= 0).all())
    draws = torch.rand(4000, 5, generator=rng(0, "others"), dtype=torch.float64).log().neg()
    others = draws / draws.sum(1, keepdim=True)
    near = 0.98 * best + 0.02 * others
    assert float(value(best)) >= float(value(torch.cat([others, near])).max())


@pytest.mark.parametrize("penalty", ["kl", "chi2"])
def test_limits_are_equal_weights_and_the_worst_alone(penalty: Any) -> None:
    loss = torch.tensor([0.3, 1.2, 0.9], dtype=torch.float64)
    assert worst(loss, 1e9, penalty).tolist() == pytest.approx([1 / 3] * 3)
    assert worst(loss, 1e-4, penalty).tolist() == pytest.approx([0, 1, 0], abs=1e-9)
    a = torch.full((3,), 1 / 3, dtype=torch.float64)
    for _ in range(400):
        a = follow(a, loss, 0.1)
    assert a.tolist() == pytest.approx([0, 1, 0], abs=1e-4)


def test_equal_weights_and_equal_groups_are_plain_training(classifier_world: Any) -> None:
    """The world has as many rows of each class, so that a row weighs 1."""
    plain, weighed = classifier_world.make(), classifier_world.make()
    TRAIN(plain, classifier_world.data, Memory())
    DRO(train=TRAIN, weights="kl", strength=1e9)(weighed, classifier_world.data, Memory())
    for a, b in zip(plain.module.parameters(), weighed.module.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


def test_the_averaged_weights_are_kept_and_a_denoisers_concepts_are_groups_too(world: Any, tmp_path: Path) -> None:
    if world.kind == "causal_lm":
        with pytest.raises(UserError, match="dro.group: row .* has no 'label'"):
            DRO(train=TRAIN).objective_on(world.data)
        return
    run = Memory(folder=tmp_path)
    stage = DRO(train=TRAIN, excess=True, then=replace(TRAIN, steps=2))
    assert stage(world.make(), world.data, run).steps == 10
    kept = json.loads((tmp_path / "group_weights.json").read_text())
    assert list(kept) == ["0", "1", "2", "3"] and sum(kept.values()) == pytest.approx(1)
    lines = [line for line in run.logged if line.get("part") == "groups"]
    assert [line["step"] for line in lines] == list(range(1, 9))
    assert kept["2"] == pytest.approx(sum(line["weight_2"] for line in lines) / 8)


def test_a_row_weighs_its_groups_weight_over_its_groups_share(classifier_world: Any) -> None:
    groups = Groups.of(classifier_world.data, ("forget",), "label")
    assert groups.shares_K.tolist() == [0.25] * 4 and groups.of_row["forget-001"] == 1
    one = classifier_world.data.with_role("forget", classifier_world.data["forget"][:1])
    with pytest.raises(UserError, match="dro.group: all rows have the same 'label'"):
        DRO(train=replace(TRAIN, on=("forget",))).objective_on(one)
    with pytest.raises(UserError, match="dro.then: expected a stage `train`, and this is sgd"):
        DRO(train=TRAIN, then=SGD()).objective_on(classifier_world.data)


def test_the_worst_class_is_no_better_than_all_rows(classifier_world: Any) -> None:
    subject = classifier_world.make()
    Train(on=("forget", "retain"), steps=30, batch=12, optim=SGD(lr=0.1))(subject, classifier_world.data, Memory())
    evaluation = Evaluation(subject, classifier_world.data)
    found, whole = WorstClass(role="retain").measure(evaluation), Accuracy(role="retain").measure(evaluation)
    by_class = [sum(v for row, v in found.scores.items() if int(row[-3:]) % 4 == k) / 3 for k in range(4)]
    assert found.value == pytest.approx(min(by_class)) and found.value <= whole.value and found.n == 3
    assert f"'{by_class.index(min(by_class))}'" in found.note


class Killed(Exception):
    """The process ends here."""


@pytest.mark.parametrize("at", [3, 7, 12, 19])
@pytest.mark.parametrize("weights", ["follow", "kl"])
def test_what_was_interrupted_goes_on_bit_for_bit(classifier_world: Any, tmp_path: Path, at: int, weights: Any) -> None:
    """At each step of the first part the fit and the groups log; of the second the fit alone."""

    class Ending(Memory):
        def log(self, **values: Any) -> None:
            super().log(**values)
            if len(self.logged) == at:
                raise Killed

    train = replace(TRAIN, checkpoint_every=3)
    stage = DRO(train=train, weights=weights, eta=0.5, excess=True, then=replace(train, steps=6))
    whole, resumed = classifier_world.make(), classifier_world.make()
    stage(whole, classifier_world.data, Memory(folder=tmp_path / "whole"))
    with pytest.raises(Killed):
        stage(classifier_world.make(), classifier_world.data, Ending(folder=tmp_path / "killed"))
    again = Memory(folder=tmp_path / "killed")
    stage(resumed, classifier_world.data, again)
    assert at < 7 or "worst: resumed at step 3" in again.said or "worst: resumed at step 6" in again.said
    for a, b in zip(whole.module.parameters(), resumed.module.parameters(), strict=True):
        assert torch.equal(a, b)
    kept = [(tmp_path / name / "group_weights.json").read_text() for name in ("whole", "killed")]
    assert kept[0] == kept[1] and len(set(json.loads(kept[0]).values())) > 1
    assert [file.name for file in (tmp_path / "killed").iterdir()] == ["group_weights.json"], "no checkpoint of a part is left"
