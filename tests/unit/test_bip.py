"""BiP: its formula against finite differences and the engine, exact sparsity, what a step does, and that it can be resumed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from amends.bilevel.problem import Problem, hypergradient
from amends.bilevel.strategies.hessian_free import HessianFree
from amends.bilevel.trust import Trust
from amends.core.context import Memory
from amends.core.errors import UserError
from amends.core.protocols import Params
from amends.core.rng import rng, stream_seed
from amends.core.spec import Weighted, build_use
from amends.edits import sparse
from amends.edits.freeze import Freeze
from amends.edits.mask_file import Mask
from amends.engine.loader import Loader
from amends.engine.optim import SGD
from amends.terms.ascent import Ascent
from amends.terms.nll import NLL
from amends.train.bip import BiP, direction, largest
from amends.train.plain import Train
from amends.train.pruned import Pruned
from amends.unlearn.gradient import Gradient
from amends.unlearn.prune_first import PruneFirst

TRAIN = Train(on=("forget", "retain"), steps=6, batch=12, optim=SGD(lr=0.05, momentum=0.9, weight_decay=1e-2))
ASCENT = Gradient(objective=(Weighted(term=Ascent()), Weighted(term=NLL())), steps=3, batch=6, optim=SGD(lr=0.01))


def kernels(subject: Any) -> Tensor:
    return torch.cat([p.detach().flatten() for p in sparse.prunable(subject.module, "convolutions").values()])


def everything(subject: Any) -> Tensor:
    return torch.cat([v.flatten().float() for v in subject.module.state_dict().values()])


def made(world: Any, stage: BiP, **more: Any) -> tuple[Any, Memory]:
    subject, run = world.make(), Memory(**more)
    stage(subject, world.data, run)
    return subject, run


def scores_of(run: Memory) -> list[dict[str, Any]]:
    return [line for line in run.logged if line.get("part") == "sparse/mask"]


# ---------------------------------------------------------------------- the formula


def worked(gamma: float, slope: Tensor) -> tuple[Problem, dict[str, Tensor], dict[str, Tensor]]:
    """l(z) = c'z on both levels: theta* = -c o m / gamma, F = -sum c^2 m^2 / gamma, dF/dm = -2 c^2 m / gamma."""
    m = torch.rand(5, generator=rng(0, "m"), dtype=torch.float64)

    def loss(outer: Params, inner: Params) -> Tensor:
        return slope @ (outer["m"] * inner["theta"])

    def lower(outer: Params, inner: Params) -> Tensor:
        return loss(outer, inner) + 0.5 * gamma * (inner["theta"] ** 2).sum()

    return Problem(loss, lower), {"m": m}, {"theta": -slope * m / gamma}


def test_the_formula_is_the_closed_form_the_engines_answer_and_the_finite_difference() -> None:
    gamma, c = 2.5, torch.randn(5, generator=rng(0, "c"), dtype=torch.float64)
    problem, outer, inner = worked(gamma, c)
    m, theta = outer["m"], inner["theta"]
    direct, other = direction(theta, m, c, c, gamma, "paper")
    torch.testing.assert_close(direct - other, -2 * c**2 * m / gamma)
    engine = hypergradient(problem, outer, inner, strategy=HessianFree(curvature=gamma))
    torch.testing.assert_close(direct - other, engine.gradient["m"])
    assert engine.diagnosis.bias == pytest.approx(0, abs=1e-12), "the Hessian is gamma I here, and nothing is approximated"
    width, found = 1e-6, []
    for i in range(5):
        values = []
        for sign in (1, -1):
            moved = m.clone()
            moved[i] += sign * width
            values.append(float(problem.upper({"m": moved}, {"theta": -c * moved / gamma})))
        found.append((values[0] - values[1]) / (2 * width))
    assert (direct - other).tolist() == pytest.approx(found, rel=1e-6)


def test_for_a_piecewise_linear_network_the_formula_is_the_engines_implicit_gradient() -> None:
    """mean |W relu(z x)| has no second derivative: the cross derivative is diag(grad_z l), on each level's own rows."""
    draw = rng(0, "network")
    rows = {level: torch.randn(7, 4, generator=draw, dtype=torch.float64) for level in ("upper", "lower")}
    head = torch.randn(3, 6, generator=draw, dtype=torch.float64)
    theta, gamma = torch.randn(6, 4, generator=draw, dtype=torch.float64), 3.0
    m = (torch.rand(6, 4, generator=draw) < 0.5).double()

    def loss(z: Tensor, level: str) -> Tensor:
        return (head @ (z @ rows[level].T).relu()).abs().mean()

    problem = Problem(
        lambda x, y: loss(x["m"] * y["w"], "upper"),
        lambda x, y: loss(x["m"] * y["w"], "lower") + 0.5 * gamma * (y["w"] ** 2).sum(),
    )
    engine = hypergradient(problem, {"m": m}, {"w": theta}, strategy=HessianFree(curvature=gamma), trust=Trust.blind())
    slopes = {level: torch.func.grad(loss)(m * theta, level) for level in rows}
    direct, other = direction(theta, m, slopes["upper"], slopes["lower"], gamma, "paper")
    torch.testing.assert_close(direct - other, engine.gradient["m"])
    assert not torch.allclose(direct, engine.gradient["m"]), "the correction is no zero"


def test_the_released_correction_is_a_square_and_always_raises_a_score() -> None:
    weight, mask = torch.tensor([2.0, -1.0]), torch.tensor([1.0, 0.0])
    slope, lower = torch.tensor([0.5, 3.0]), torch.tensor([-4.0, 7.0])
    direct, other = direction(weight, mask, slope, lower, 10.0, "released")
    assert direct.tolist() == [1.0, -3.0] and other.tolist() == pytest.approx([0.1, 0.9])
    direct, other = direction(weight, mask, slope, lower, 10.0, "paper")
    assert direct.tolist() == [1.0, -3.0] and other.tolist() == pytest.approx([-0.2, 0.0])


def test_exactly_as_many_as_asked_for_are_kept_over_all_tensors_ties_or_not() -> None:
    scores = {"a": torch.tensor([[3.0, -9.0], [2.0, 2.0]]), "b": torch.tensor([2.0, 5.0])}
    chosen = largest(scores, 3)
    assert sum(int(c.sum()) for c in chosen.values()) == 3
    assert chosen["a"][0].tolist() == [True, False] and chosen["b"][1], "a score below 0 is not large"


# ---------------------------------------------------------------------- the stage


@pytest.mark.parametrize("stage", [
    BiP(train=TRAIN, sparsity=0.8), BiP(train=TRAIN, sparsity=0.9, dense=TRAIN, form="released", gamma=1e4),
    BiP(train=TRAIN, sparsity=0.95, every=3, which="weights", upper=("retain",)),
])  # fmt: skip
def test_the_share_that_was_asked_for_is_zero_to_the_weight(classifier_world: Any, stage: BiP, tmp_path: Path) -> None:
    subject, run = made(classifier_world, stage, folder=tmp_path)
    among = sparse.prunable(subject.module, stage.which)
    size = sum(p.numel() for p in among.values())
    assert sum(int((p != 0).sum()) for p in among.values()) == round((1 - stage.sparsity) * size)
    assert run.logged[-1] == sparse.sparsity(subject.module, stage.which) and f"of the {stage.which}" in run.said[-1]
    mask, _ = Mask.load(tmp_path / "mask.safetensors")
    assert sparse.holds(subject.module, mask)
    assert sorted(f.name for f in tmp_path.iterdir()) == ["mask.json", "mask.safetensors"], "no checkpoint of a part is left"
    assert len(scores_of(run)) == TRAIN.steps // stage.every


def test_one_step_of_each_level_by_hand(classifier_world: Any) -> None:
    """A step of gradient descent on theta under the first mask; then m by the formula, on the first rows of the other order."""
    world, lr, rate, gamma = classifier_world, 0.1, 0.7, 0.05
    train = replace(TRAIN, steps=1, optim=SGD(lr=lr))
    stage = BiP(train=train, sparsity=0.6, gamma=gamma, score_lr=rate, score_schedule="constant")
    subject, run = made(world, stage)

    twin = world.make()
    may = sparse.prunable(twin.module, "convolutions")
    theta = {n: p.detach().clone() for n, p in may.items()}
    keep = round(0.4 * sum(p.numel() for p in may.values()))
    scores = {n: w.abs() for n, w in theta.items()}
    first = largest(scores, keep)
    rows = world.data.together(train.on)

    def slopes(seed: int, mode: bool) -> dict[str, Tensor]:
        twin.call.train(mode)
        batch = Loader(twin, "train" if mode else "upper", rows, None, rows=train.batch, seed=seed).at(0)[0].batch
        like = twin.likelihood(batch)
        every = dict(twin.module.named_parameters())
        found = torch.autograd.grad(like.nll_B.sum() / like.n_B.sum(), list(every.values()))
        return dict(zip(every, found, strict=True))

    def show(masks: dict[str, Tensor]) -> None:
        with torch.no_grad():
            for n, p in may.items():
                p.copy_(theta[n] * masks[n])

    show(first)
    lower = slopes(0, True)
    with torch.no_grad():
        for n, p in twin.module.named_parameters():
            if n in theta:
                theta[n] -= lr * first[n] * lower[n]
            else:
                p -= lr * lower[n]
    show(first)
    upper = slopes(stream_seed(0, "bip", "upper"), False)
    for n in scores:
        gradient = theta[n] * upper[n] - (1 / gamma) * lower[n] * (first[n] * upper[n])
        scores[n] = scores[n] - rate * gradient
    show(largest(scores, keep))
    torch.testing.assert_close(everything(subject), everything(twin))
    assert scores_of(run)[0]["entered"] > 0, "the mask has moved"


def test_without_moving_scores_it_is_training_under_the_magnitude_mask(classifier_world: Any) -> None:
    """The limit of a small step: pruned weights only decay, and the mask stays."""
    plain = replace(TRAIN, optim=SGD(lr=0.05))
    subject, run = made(classifier_world, BiP(train=plain, sparsity=0.7, score_lr=1e-12))
    assert sum(line["entered"] for line in scores_of(run)) == 0
    other = classifier_world.make()
    may = sparse.prunable(other.module, "convolutions")
    chosen = largest({n: p.detach().abs() for n, p in may.items()}, round(0.3 * len(kernels(other))))
    ones = {n: torch.ones_like(p, dtype=torch.bool) for n, p in other.module.named_parameters()}
    sparse.put_on(other.module, Mask.of({**ones, **chosen}, "hand"))
    PruneFirst(then=plain)(other, classifier_world.data, Memory())
    torch.testing.assert_close(everything(subject), everything(other))


def test_scores_have_memory_of_their_own_and_pruned_weights_come_back_with_what_they_were(classifier_world: Any) -> None:
    """Shared with the weights, as released code has it, scores would move them; and a weight returns as it left."""
    from amends.core.protocols import Start, Step
    from amends.train.bip import _Dense, _Upper

    subject = classifier_world.make()
    params = dict(subject.module.named_parameters())
    start = Start(subject, classifier_world.data, Memory())
    dense, upper = _Dense("convolutions"), _Upper(BiP(train=TRAIN, sparsity=0.5))
    before = {n: p.detach().clone() for n, p in params.items()}
    theta, scores = dense.init(params, start), upper.init(params, start)
    for score in scores.values():
        score.add_(1.0)
    assert all(torch.equal(theta[n], before[n]) for n in theta)
    assert all(torch.equal(params[n], before[n] * upper.masks[n]) for n in theta)
    dense.grads(params, theta, Step(0, 1, 0.1))
    assert all(torch.equal(params[n], before[n]) for n in theta)


def test_equal_seeds_give_equal_models_and_another_seed_another(classifier_world: Any) -> None:
    stage = BiP(train=TRAIN, sparsity=0.8, score_lr=1.0)
    one, again, other = (everything(made(classifier_world, stage, seed=s)[0]) for s in (0, 0, 1))
    assert torch.equal(one, again) and not torch.equal(one, other)


class Killed(Exception):
    """The process ends here."""


@pytest.mark.parametrize("at", [3, 9, 14])
def test_what_was_interrupted_goes_on_bit_for_bit(classifier_world: Any, tmp_path: Path, at: int) -> None:
    class Ending(Memory):
        def log(self, **values: Any) -> None:
            super().log(**values)
            if len(self.logged) == at:
                raise Killed

    train = replace(TRAIN, checkpoint_every=1)
    stage = BiP(train=train, dense=train, sparsity=0.7, score_lr=2.0)
    whole, resumed = classifier_world.make(), classifier_world.make()
    run = Memory()
    stage(whole, classifier_world.data, run)
    assert sum(line["entered"] for line in scores_of(run)) > 0
    with pytest.raises(Killed):
        stage(classifier_world.make(), classifier_world.data, Ending(folder=tmp_path))
    stage(resumed, classifier_world.data, Memory(folder=tmp_path))
    assert torch.equal(everything(whole), everything(resumed))


def test_any_method_goes_on_from_it_and_its_zeros_stay(classifier_world: Any) -> None:
    stage = BiP(train=TRAIN, sparsity=0.7)
    subject, _ = made(classifier_world, stage)
    zeros, before = kernels(subject) == 0, kernels(subject).clone()
    PruneFirst(then=ASCENT)(subject, classifier_world.data, Memory())
    assert torch.equal(kernels(subject) == 0, zeros) and not torch.equal(kernels(subject), before)
    inside = classifier_world.make()
    PruneFirst(then=ASCENT, prune=stage)(inside, classifier_world.data, Memory())
    assert torch.equal(everything(inside), everything(subject))


def test_what_does_not_fit_is_said_in_a_sentence(classifier_world: Any, lm_world: Any) -> None:
    data = classifier_world.data
    with pytest.raises(UserError, match="bip.train: expected a stage `train`, and this is gradient"):
        BiP(train=ASCENT).objective_on(data)
    with pytest.raises(UserError, match="bip.dense: expected a stage `train`"):
        BiP(train=TRAIN, dense=ASCENT).objective_on(data)
    with pytest.raises(UserError, match="bip.train.parallel: scores are ranked over whole weights"):
        BiP(train=replace(TRAIN, parallel="fsdp2")).objective_on(data)
    with pytest.raises(UserError, match="bip.upper: give at least one role"):
        BiP(train=TRAIN, upper=()).objective_on(data)
    with pytest.raises(UserError, match="no convolutions to prune: set `which: weights`"):
        BiP(train=TRAIN)(lm_world.make(), lm_world.data, Memory())
    with pytest.raises(UserError, match="0.weight is to be pruned and is frozen: leave the `freeze` edit out"):
        BiP(train=replace(TRAIN, edits=(Freeze(but=("0.*",)),))).check_model(classifier_world.make())
    built = build_use("stages", {"use": "bip", "train": {"use": "train", "on": ["retain"], "steps": 3}}, "stages.x")
    assert isinstance(built, BiP) and built.train.steps == 3 and built.gamma == 1.0


def test_a_language_model_is_pruned_as_well(lm_world: Any) -> None:
    subject, run = made(lm_world, BiP(train=replace(TRAIN, steps=3, batch=4), sparsity=0.5, which="weights"))
    assert sparse.sparsity(subject.module, "weights")["sparsity"] == pytest.approx(0.5, abs=1e-3)
    assert len(scores_of(run)) == 3


def test_on_real_digits_it_keeps_the_accuracy_of_one_shot_pruning_with_a_twentieth_of_the_weights() -> None:
    """Not a comparison of methods: one seed, short training. Both must be worth having."""
    data: Any = build_use("data", {"use": "digits"}, "data").load(0)
    model = build_use("models", {"use": "image_classifier", "net": "conv", "width": 8}, "model")
    train = Train(on=("train",), steps=80, batch=64, optim=SGD(lr=0.1, momentum=0.9, weight_decay=5e-4, schedule="cosine"))
    found = {}
    for stage in (Pruned(train=train, which="weights"), BiP(train=train, dense=train, which="weights")):
        subject = model.load(data, 0)
        stage(subject, data, Memory())
        batch = subject.collate([subject.encode(row) for row in data["test"]])
        with torch.no_grad():
            guess = subject.likelihood(batch).dist.logits_NV.argmax(1)
        found[type(stage).__name__] = float((guess == batch["label"]).float().mean())
    assert found["Pruned"] > 0.8 and found["BiP"] > max(0.8, found["Pruned"] - 0.05), found
