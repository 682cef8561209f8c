"""Fast-BAT's gradient against finite differences and the engine's active set, its special cases, and accuracy under attack."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.func import functional_call

from amends.bilevel.problem import Linear, Problem, hypergradient
from amends.bilevel.strategies.active_set import ActiveSet
from amends.core.context import Memory
from amends.core.errors import UserError
from amends.core.protocols import Params
from amends.core.rng import rng
from amends.engine.optim import SGD
from amends.engine.perturb import Box, Started, climbed, seen
from amends.engine.score import batches
from amends.metrics.evaluation import Evaluation
from amends.metrics.robust_accuracy import RobustAccuracy
from amends.train.adversarial import Adversarial
from amends.train.fast_bat import FastBAT
from amends.train.plain import Train

TRAIN = Train(on=("forget", "retain"), steps=3, batch=6, optim=SGD(lr=0.05))


def smooth(world: Any) -> tuple[Any, Any]:
    """A classifier without kinks in double precision, and five rows in the middle of 0..1, with where an attack starts."""
    subject = world.make()
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 8), torch.nn.Tanh(), torch.nn.Linear(8, 4)).double()
    for i, p in enumerate(net.parameters()):
        p.data = torch.randn(p.shape, generator=rng(0, "weights", i), dtype=torch.float64) / 2
    subject.module = subject.call = net
    batch = subject.collate([subject.encode(row) for row in world.data["forget"][:5]])
    image = torch.rand(batch["image"].shape, generator=rng(0, "image"), dtype=torch.float64)
    start = 2 * torch.rand(image.shape, generator=rng(0, "start"), dtype=torch.float64) - 1
    subject.likelihood = lambda b: _likelihood(net, b)
    return subject, replace(batch, tensors={**batch.tensors, "image": image, "start": start})


def _likelihood(net: Any, batch: Any) -> Any:
    from amends.core.types import Likelihood
    from amends.subjects.distributions import Categorical

    dist = Categorical(net(batch["image"]), batch["label"], torch.arange(len(batch)))
    return Likelihood(dist.nll(), torch.ones(len(batch)), dist)


def moved(net: Any, direction: list[Tensor], by: float) -> None:
    with torch.no_grad():
        for p, d in zip(net.parameters(), direction, strict=True):
            p.add_(by * d)


@pytest.mark.parametrize(("lam", "steps"), [(0.5, 1), (2.0, 2), (40.0, 3)])
def test_the_gradient_is_the_finite_difference_of_the_bilevel_objective(classifier_world: Any, lam: float, steps: int) -> None:
    """Some pixels are at the edge of the box (of eps, or of 0..1) and some inside; the attack is solved anew at each point."""
    subject, batch = smooth(classifier_world)
    stage = FastBAT(train=TRAIN, eps=0.2, lam=lam, steps=steps, lr=0.05)
    claimed = torch.autograd.grad(stage.losses(subject, batch).sum(), list(subject.module.parameters()))
    plain = replace(stage, cross=False)
    part = torch.autograd.grad(plain.losses(subject, batch).sum(), list(subject.module.parameters()))
    for k in range(3):
        u = [torch.randn(p.shape, generator=rng(k, "u", i), dtype=torch.float64) for i, p in enumerate(part)]
        values = []
        for sign in (1, -1):
            moved(subject.module, u, sign * 1e-6)
            values.append(float(plain.losses(subject, batch).sum().detach()))
            moved(subject.module, u, -sign * 1e-6)
        found = (values[0] - values[1]) / 2e-6
        assert float(sum((c * d).sum() for c, d in zip(claimed, u, strict=True))) == pytest.approx(found, rel=2e-4)
        without = float(sum((c * d).sum() for c, d in zip(part, u, strict=True)))
        assert abs(without - found) > 1e-3 * abs(found), "the cross term is no zero"


def test_the_gradient_is_the_engines_for_a_box_with_an_active_set(classifier_world: Any) -> None:
    """F.1's constrained row: H^-1 among the coordinates that the box leaves free."""
    subject, batch = smooth(classifier_world)
    net, stage = subject.module, FastBAT(train=TRAIN, eps=0.1, lam=2.0, steps=1)
    box = Box.around(batch["image"], stage.eps)
    z = box.project(stage.eps * batch["start"])

    def ce(weights: Params, delta: Tensor) -> Tensor:
        logits = functional_call(net, dict(weights), (batch["image"] + delta,))
        return torch.nn.functional.cross_entropy(logits, batch["label"], reduction="sum")

    def lower(x: Params, y: Params) -> Tensor:
        at = z.clone().requires_grad_()
        (slope,) = torch.autograd.grad(-ce(x, at), [at], create_graph=True)
        return (slope * (y["delta"] - z)).sum() + stage.lam / 2 * (y["delta"] - z).square().sum()

    size = z.numel()
    eye = torch.eye(size, dtype=torch.float64)
    held = Linear(torch.cat([eye, -eye]), torch.cat([box.high.flatten(), -box.low.flatten()]))
    weights = {n: p.detach() for n, p in net.named_parameters()}
    at = z.clone().requires_grad_()
    (slope,) = torch.autograd.grad(ce(weights, at), [at])
    delta = box.project(z + slope / stage.lam)
    active = ~box.inside(delta)
    assert 10 < int(active.sum()) < size - 10
    answer = hypergradient(
        Problem(lambda x, y: ce(x, y["delta"]), lower, constraints=held), weights, {"delta": delta}, strategy=ActiveSet()
    )
    mine = torch.autograd.grad(stage.losses(subject, batch).sum(), list(net.parameters()))
    for (name, theirs), ours in zip(answer.gradient.items(), mine, strict=True):
        torch.testing.assert_close(ours, theirs, msg=lambda m, name=name: f"{name}: {m}")


def test_fast_at_and_pgd_training_are_its_special_cases(classifier_world: Any) -> None:
    for steps, lr in ((1, 0.125), (2, 0.05)):
        made = []
        for stage in (
            Adversarial(train=TRAIN, eps=0.1, steps=steps, lr=lr),
            FastBAT(train=TRAIN, eps=0.1, steps=steps, lr=lr, last="sign", cross=False),
        ):
            subject = classifier_world.make()
            assert stage(subject, classifier_world.data, Memory()).steps == 3
            made.append(torch.cat([p.detach().flatten() for p in subject.module.parameters()]))
        assert torch.equal(*made)


def test_a_large_lambda_leaves_training_on_the_signed_steps_alone(classifier_world: Any) -> None:
    subject, batch = smooth(classifier_world)
    far = FastBAT(train=TRAIN, eps=0.1, steps=3, lr=0.05, lam=1e9).losses(subject, batch)
    box = Box.around(batch["image"], 0.1)
    delta = climbed(subject, batch, box.project(0.1 * batch["start"]), box, 0.05, 2)
    torch.testing.assert_close(far, seen(subject, batch, delta).nll_B)


def test_where_attacks_start_is_drawn_for_the_whole_batch(classifier_world: Any) -> None:
    """Pieces of a batch see the starts that the whole one does, so they give one gradient."""
    made = []
    for micro in (None, 2):
        subject = classifier_world.make()
        FastBAT(train=replace(TRAIN, micro=micro), eps=0.1)(subject, classifier_world.data, Memory())
        made.append(torch.cat([p.detach().flatten() for p in subject.module.parameters()]))
    torch.testing.assert_close(*made, rtol=1e-4, atol=1e-6)
    assert Started(classifier_world.make()).module is not None


def test_accuracy_under_attack_falls_with_eps_and_never_exceeds_accuracy(classifier_world: Any) -> None:
    subject = classifier_world.make()
    Train(on=("forget", "retain"), steps=60, batch=12, optim=SGD(lr=0.1, momentum=0.9))(
        subject, classifier_world.data, Memory()
    )
    values = []
    for eps in (1e-6, 0.2, 0.9):
        evaluation = Evaluation(subject, classifier_world.data)
        metric = RobustAccuracy(role="forget", eps=eps, steps=5, restarts=2)
        found = metric.measure(evaluation)
        assert metric.measure(evaluation).value == found.value and found.n == 12
        values.append(found.value)
    batch = next(batches(subject, classifier_world.data["forget"]))
    told = float((subject.likelihood(batch).dist.logits_NV.argmax(-1) == batch["label"]).float().mean())
    assert told == values[0] >= values[1] >= values[2] and values[2] < 1


def test_what_does_not_fit_is_said_in_a_sentence(classifier_world: Any, lm_world: Any) -> None:
    with pytest.raises(UserError, match="fast_bat.train: expected a stage `train`, and this is sgd"):
        FastBAT(train=SGD()).objective_on(classifier_world.data)
    with pytest.raises(UserError, match="adversarial: row .* has no image, and only pixels can be changed"):
        Adversarial(train=TRAIN).objective_on(lm_world.data)
    with pytest.raises(UserError, match=r"robust_accuracy.forget: its rows are no labelled images"):
        RobustAccuracy(role="forget").measure(Evaluation(lm_world.make(), lm_world.data))


def test_a_row_counts_only_when_it_holds_up_to_every_restart(classifier_world: Any) -> None:
    """Attacks that are little more than their random start: twenty turn rows that the first leaves, and never fewer."""
    subject, data = classifier_world.make(), classifier_world.data
    Train(on=("forget", "retain"), steps=60, batch=12, optim=SGD(lr=0.1, momentum=0.9))(subject, data, Memory())
    held = []
    for restarts in (1, 20):
        metric = RobustAccuracy(role="retain", eps=1.0, steps=1, lr=1e-4, restarts=restarts)
        held.append(metric.measure(Evaluation(subject, data)).value)
    assert held[1] < held[0]


class Killed(Exception):
    """The process ends here."""


@pytest.mark.parametrize("stage", [Adversarial, FastBAT])
def test_what_was_interrupted_goes_on_bit_for_bit(classifier_world: Any, tmp_path: Path, stage: Any) -> None:
    class Ending(Memory):
        def log(self, **values: Any) -> None:
            super().log(**values)
            if values.get("step") == 5:
                raise Killed

    made = stage(train=replace(TRAIN, steps=7, checkpoint_every=2))
    whole, resumed = classifier_world.make(), classifier_world.make()
    made(whole, classifier_world.data, Memory())
    with pytest.raises(Killed):
        made(classifier_world.make(), classifier_world.data, Ending(folder=tmp_path))
    again = Memory(folder=tmp_path)
    made(resumed, classifier_world.data, again)
    assert again.said == ["resumed at step 4"]
    for a, b in zip(whole.module.parameters(), resumed.module.parameters(), strict=True):
        assert torch.equal(a, b)
