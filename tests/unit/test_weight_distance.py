"""Distances of weights by hand, and the exact unlearner that they are measured to: the same training without some rows."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from amends.attribution.synflow import SynFlow
from amends.core.context import Memory
from amends.core.errors import UserError
from amends.edits import sparse
from amends.engine.loader import Loader
from amends.engine.optim import SGD
from amends.metrics.evaluation import Evaluation
from amends.metrics.weight_distance import WeightDistance, apart, moved, together
from amends.subjects.tiny import TinyClassifier
from amends.train.plain import Train
from amends.train.pruned import Pruned
from amends.unlearn.influence import Influence
from amends.unlearn.prune_first import PruneFirst

PLAIN = SGD(lr=0.1, momentum=0.0, schedule="constant")
ALL = Train(on=("forget", "retain"), steps=1, batch=1000, optim=PLAIN)
EXACT = replace(ALL, leave_out="forget")


def model(**weights: list[float]) -> dict[str, Tensor]:
    return {name: torch.tensor(values) for name, values in weights.items()}


def parameters(subject: Any) -> dict[str, Tensor]:
    return {n: p.detach().clone() for n, p in subject.module.named_parameters()}


def made(classifier_world: Any, *stages: Any) -> dict[str, Tensor]:
    """The parameters after some stages, from the first weights of seed 0."""
    subject = TinyClassifier(classes=4, width=4).load(classifier_world.data, 0)
    for stage in stages:
        stage(subject, classifier_world.data, Memory())
    return parameters(subject)


def distance(mine: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    return together(apart(mine, other))[0]


def test_distances_by_hand() -> None:
    assert apart(model(a=[1.0, 5.0], b=[4.0]), model(a=[1.0, 2.0], b=[0.0])) == {"a": [3.0, 2], "b": [4.0, 1]}
    way = moved(model(a=[0.0, 5.0], b=[4.0]), model(a=[9.0, 2.0], b=[0.0]))
    assert way == {"a": [3.0, 1], "b": [4.0, 1]}, "what is 0 is pruned, not moved"
    assert together(way) == (5.0, 2)
    assert together(moved(model(a=[1.0]), model(a=[1.0]))) == (0.0, 1)


def test_it_measures_what_an_evaluation_brings(classifier_world: Any) -> None:
    mine, other, first = model(a=[3.0, 0.0]), model(a=[0.0, 4.0]), model(a=[1.0, 7.0])
    one = Evaluation(None, classifier_world.data, weights=lambda: mine, first=lambda: first)
    two = Evaluation(None, classifier_world.data, weights=lambda: other)
    far = WeightDistance().measure(one, two)
    assert (far.name, far.value, far.low, far.high, far.n, far.better) == ("weight_distance", 5.0, 5.0, 5.0, 2, "lower")
    assert far.scores == {"a": 5.0}
    assert WeightDistance().measure(one, one).value == 0
    way = WeightDistance(to="first").measure(one, None)
    assert (way.name, way.value, way.n, way.better) == ("weight_travel", 2.0, 1, "closer")
    one.first = None
    assert WeightDistance(to="first").measure(one).value == 2.0, "kept with the reading: no model is needed again"
    with pytest.raises(UserError, match="first weights are not known here"):
        WeightDistance(to="first").measure(two)
    with pytest.raises(UserError, match="weights are not kept here"):
        WeightDistance().measure(Evaluation(None, classifier_world.data), two)
    with pytest.raises(UserError, match="compares with another model"):
        WeightDistance().measure(one, None)
    with pytest.raises(UserError, match="other weights"):
        apart(mine, model(b=[1.0]))


def test_rows_that_are_left_out_keep_their_place_in_the_order(classifier_world: Any) -> None:
    rows = classifier_world.data.together(("forget", "retain"))
    gone = frozenset(r.id for r in classifier_world.data["forget"])
    subject = TinyClassifier(classes=4, width=2).load(classifier_world.data, 0)
    whole, left = (Loader(subject, "train", rows, None, rows=4, seed=3, without=w) for w in (frozenset(), gone))
    steps = range(2 * whole.num_batches)
    for step in steps:
        assert [r.id for r in left.rows_at(step)] == [r.id for r in whole.rows_at(step) if r.id not in gone]
    assert sum(len(left.rows_at(s)) for s in steps) == 2 * (len(rows) - len(gone))
    single = Loader(subject, "train", rows, None, rows=1, seed=3, without=gone)
    empty = [s for s in range(len(rows)) if not single.rows_at(s)]
    assert len(empty) == len(gone) and all(single.at(s) == [] for s in empty)
    with pytest.raises(UserError, match="in one process only"):
        Loader(subject, "train", rows, None, rows=4, seed=3, without=gone, world=2)


def test_one_step_apart_is_the_rate_times_the_difference_of_mean_gradients(classifier_world: Any) -> None:
    """theta_1 - theta*_1 = eta (mean gradient of what stays - mean gradient of all): e(m) of doing nothing at t = 1."""
    subject = TinyClassifier(classes=4, width=4).load(classifier_world.data, 0)
    means = []
    for roles in (("retain",), ("forget", "retain")):
        rows = [subject.encode(r) for r in classifier_world.data.together(roles)]
        like = subject.likelihood(subject.collate(rows))
        means.append(torch.autograd.grad(like.nll_B.mean(), list(subject.module.parameters())))
    by_hand = 0.1 * float(sum((a - b).square().sum() for a, b in zip(*means, strict=True))) ** 0.5
    assert distance(made(classifier_world, ALL), made(classifier_world, EXACT)) == pytest.approx(by_hand, rel=1e-4)


def test_a_training_that_leaves_nothing_out_is_the_training_itself(classifier_world: Any) -> None:
    few = replace(ALL, steps=6, batch=5)
    other = replace(few, leave_out="forget")
    assert distance(made(classifier_world, few), made(classifier_world, few)) == 0
    assert distance(made(classifier_world, other), made(classifier_world, few)) > 0
    one_by_one = replace(other, batch=1, steps=len(classifier_world.data.together(("forget", "retain"))))
    assert all(bool(p.isfinite().all()) for p in made(classifier_world, one_by_one).values()), "a step of no row does nothing"


def test_under_a_mask_only_what_is_left_is_apart(classifier_world: Any) -> None:
    prune = Pruned(train=replace(ALL, steps=5, batch=6), by=SynFlow(), when="fresh", rounds=5, sparsity=0.8, which="weights")
    mine, exact = (
        made(classifier_world, prune),
        made(classifier_world, replace(prune, train=replace(prune.train, leave_out="forget"))),
    )
    for name, p in mine.items():
        assert torch.equal(p == 0, exact[name] == 0), "SynFlow looks at no data: one mask for both"
    unlearned = made(classifier_world, prune, PruneFirst(then=Influence(alpha=0.1), which="weights"))
    assert distance(unlearned, exact) > 0 and all(bool((p[mine[n] == 0] == 0).all()) for n, p in unlearned.items())


def test_a_stage_says_how_sparse_it_is(classifier_world: Any) -> None:
    subject = TinyClassifier(classes=4, width=4).load(classifier_world.data, 0)
    assert sparse.zeros(subject.module) == 0
    assert sparse.zeros(torch.nn.ReLU()) is None
    assert ALL(subject, classifier_world.data, Memory()).sparsity is None, "it does not prune: the run counts zeros"
    prune = Pruned(train=replace(ALL, steps=2), sparsity=0.5, which="weights")
    outcome = prune(subject, classifier_world.data, Memory())
    assert outcome.sparsity == pytest.approx(0.5, abs=0.01) and sparse.zeros(subject.module) != outcome.sparsity
    then = PruneFirst(then=Influence(alpha=0.1), which="weights")
    assert then(subject, classifier_world.data, Memory()).sparsity == outcome.sparsity


def test_what_is_left_out_must_be_in_the_order(classifier_world: Any) -> None:
    for on in (("retain",), ("forget",)):
        with pytest.raises(UserError, match="leave_out: 'forget' keeps its place in the order"):
            Train(on=on, leave_out="forget", steps=1).objective_on(classifier_world.data)
