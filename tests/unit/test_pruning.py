"""Sparse models: how they are pruned, that zeros stay zeros under every stage, and what does not fit."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from amends.attribution.magnitude import Magnitude
from amends.attribution.saliency import Saliency
from amends.attribution.synflow import SynFlow
from amends.core.context import Memory
from amends.core.errors import UserError
from amends.core.protocols import Start
from amends.core.spec import Weighted, build_use
from amends.edits import sparse
from amends.edits.mask_file import Mask
from amends.edits.weight_mask import WeightMask
from amends.engine.optim import SGD, AdamW
from amends.subjects.classifier import Classifier
from amends.subjects.fresh import redraw
from amends.subjects.tiny import TinyClassifier
from amends.terms.ascent import Ascent
from amends.terms.nll import NLL
from amends.train.plain import Train
from amends.train.pruned import Pruned
from amends.unlearn.bad_teacher import BadTeacher
from amends.unlearn.boundary_expand import BoundaryExpand
from amends.unlearn.fisher import Fisher
from amends.unlearn.gradient import Gradient
from amends.unlearn.influence import Influence
from amends.unlearn.prune_first import PruneFirst
from amends.unlearn.scrub import Scrub
from amends.unlearn.task_vector import TaskVector

HEAVY = SGD(lr=0.05, momentum=0.9, weight_decay=0.1)
TRAIN = Train(on=("forget", "retain"), steps=6, batch=12, optim=HEAVY)
ASCENT = Gradient(
    objective=(Weighted(term=Ascent()), Weighted(term=NLL())), steps=4, batch=6, optim=AdamW(lr=1e-2, weight_decay=0.3)
)


def kernels(subject: Any) -> Tensor:
    return torch.cat([p.detach().flatten() for p in sparse.prunable(subject.module, "convolutions").values()])


def everything(subject: Any) -> Tensor:
    return torch.cat([v.flatten().float() for v in subject.module.state_dict().values()])


def pruned(world: Any, stage: Pruned, **more: Any) -> tuple[Any, Memory]:
    subject, run = world.make(), Memory(**more)
    stage(subject, world.data, run)
    return subject, run


# ---------------------------------------------------------------------- how they are pruned


@pytest.mark.parametrize("stage", [
    Pruned(train=TRAIN, sparsity=0.8), Pruned(train=TRAIN, sparsity=0.8, rounds=3, rewind=2),
    Pruned(train=TRAIN, sparsity=0.8, rewind=None),
    Pruned(train=TRAIN, sparsity=0.8, when="given", rewind=None),
    Pruned(train=TRAIN, sparsity=0.8, by=SynFlow(), when="fresh", rounds=20),
    Pruned(train=TRAIN, sparsity=0.8, by=Saliency(), when="fresh"), Pruned(train=TRAIN, sparsity=0.8, which="weights"),
])  # fmt: skip
def test_the_share_that_was_asked_for_is_zero_and_said_so(classifier_world: Any, stage: Pruned, tmp_path: Path) -> None:
    subject, run = pruned(classifier_world, stage, folder=tmp_path)
    shares = sparse.sparsity(subject.module, stage.which)
    assert shares["sparsity"] == pytest.approx(0.8, abs=2e-3)
    assert run.logged[-1] == shares and f"sparsity {shares['sparsity']:.2%} of the {stage.which}, " in run.said[-1]
    mask, _ = Mask.load(tmp_path / "mask.safetensors")
    assert sparse.holds(subject.module, mask) and all((p != 0).any() for p in subject.module.parameters())
    assert sorted(f.name for f in tmp_path.iterdir()) == ["mask.json", "mask.safetensors"], "no checkpoint of a part is left"


def test_one_shot_pruning_is_train_prune_go_back_train(classifier_world: Any) -> None:
    """Step by step with the library's parts; plain gradient descent keeps nothing between steps."""
    plain = SGD(lr=0.1, schedule="linear")
    train = replace(TRAIN, optim=plain)
    subject, _ = pruned(classifier_world, Pruned(train=train, sparsity=0.5, rewind=0))
    by_hand = classifier_world.make()
    train(by_hand, classifier_world.data, Memory())
    size = kernels(by_hand).abs()
    cut = size.sort().values[round(0.5 * len(size)) - 1]
    keep = {n: p.detach().abs() > cut for n, p in sparse.prunable(by_hand.module, "convolutions").items()}
    again = classifier_world.make()
    mask = Mask.of({n: keep.get(n, torch.ones_like(p, dtype=torch.bool)) for n, p in again.module.named_parameters()}, "hand")
    sparse.put_on(again.module, mask)
    PruneFirst(then=train)(again, classifier_world.data, Memory())
    torch.testing.assert_close(everything(subject), everything(again))


def test_a_given_model_without_a_training_is_pruned_and_left(classifier_world: Any) -> None:
    subject, run = classifier_world.make(), Memory()
    before = {n: p.detach().clone() for n, p in subject.module.named_parameters()}
    outcome = Pruned(sparsity=0.5, when="given", rewind=None)(subject, classifier_world.data, run)
    assert outcome.steps == 0 and outcome.sparsity == pytest.approx(0.5, abs=0.01)
    for name, p in subject.module.named_parameters():
        assert torch.equal(p[p != 0], before[name][p != 0]), "what is left has not moved"
    with pytest.raises(UserError, match="without it the start model is pruned and left: set `when: given`"):
        Pruned(rewind=None).objective_on(classifier_world.data)


def test_a_given_model_is_pruned_as_it_is_and_trained_on_once(classifier_world: Any) -> None:
    subject = classifier_world.make()
    before = {n: p.detach().clone() for n, p in sparse.prunable(subject.module, "convolutions").items()}
    run = Memory()
    outcome = Pruned(train=TRAIN, sparsity=0.5, when="given", rewind=None)(subject, classifier_world.data, run)
    assert outcome.steps == TRAIN.steps and {line.get("part") for line in run.logged if line.get("step")} == {"sparse"}
    cut = torch.cat([p.abs().flatten() for p in before.values()]).median()
    for name, p in sparse.prunable(subject.module, "convolutions").items():
        assert torch.equal(p == 0, before[name].abs() <= cut), "by the size that the start model gives it"


def test_rewinding_takes_up_the_schedule_where_it_was(classifier_world: Any) -> None:
    _, run = pruned(classifier_world, Pruned(train=replace(TRAIN, optim=SGD(lr=0.6, schedule="linear")), rewind=2))
    rates = {part: [line["lr"] for line in run.logged if line.get("part") == part and line.get("step")] for part in
             ("early", "round-1", "sparse")}  # fmt: skip
    assert rates["early"] == pytest.approx([0.6, 0.5])
    assert rates["round-1"] == rates["sparse"] == pytest.approx([0.4, 0.3, 0.2, 0.1])


def test_rounds_prune_the_same_share_of_what_is_left(classifier_world: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    kept: list[float] = []
    made = WeightMask.made
    monkeypatch.setattr(WeightMask, "made", lambda self, *a: (kept.append(self.keep), made(self, *a))[1])
    pruned(classifier_world, Pruned(train=TRAIN, sparsity=1 - 0.8**3, rounds=3))
    assert kept == pytest.approx([0.8, 0.64, 0.512])


def test_a_pruned_weight_never_comes_back_in_later_rounds(classifier_world: Any) -> None:
    subject = classifier_world.make()
    first = Pruned(train=TRAIN, sparsity=0.5)._mask(subject, classifier_world.data, Memory(), 0.5)
    sparse.put_on(subject.module, first)
    second = Pruned(train=TRAIN, sparsity=0.5)._mask(subject, classifier_world.data, Memory(), 0.25)
    for name, p in sparse.prunable(subject.module, "convolutions").items():
        assert (second.frozen(name, p.device) >= first.frozen(name, p.device)).all()


# ---------------------------------------------------------------------- SynFlow


class Chain(nn.Module):
    """Two linear layers without biases."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False)
        with torch.no_grad():
            self.a.weight.copy_(torch.tensor([[1.0, -2.0], [0.5, 0.0]]))
            self.b.weight.copy_(torch.tensor([[-1.0, 1.0], [2.0, 3.0]]))

    def forward(self, image: Tensor) -> Tensor:
        return self.b(self.a(image.flatten(1)))


def test_synaptic_flow_by_hand() -> None:
    """R = 1' |B| |A| 1. Columns of |B| sum to (3, 4): |A| gets (1, 2, 1/2, 0) times (3, 3, 4, 4) = (3, 6, 2, 0).

    |A| 1 = (3, 1/2): |B| gets (3, 1/2, 6, 3/2). The largest is 6.
    """
    from amends.core.types import Sample
    from amends.data.bundle import Bundle

    subject = Classifier(Chain())
    data = Bundle({"forget": (Sample("x", {"image": torch.zeros(1, 1, 2), "label": 0}),)})
    params = dict(subject.module.named_parameters())
    found = dict(SynFlow().scores(params, Start(subject, data, Memory())))
    assert found["a.weight"].tolist() == [[0.5, 1.0], [pytest.approx(1 / 3), 0.0]]
    assert found["b.weight"].tolist() == [[0.5, pytest.approx(1 / 12)], [1.0, 0.25]]
    for layer in found.values():
        assert layer.sum() == pytest.approx(11 / 6), "flow is conserved from layer to layer"
    assert params["a.weight"].tolist() == [[1.0, -2.0], [0.5, 0.0]] and params["a.weight"].dtype is torch.float32


def test_synflow_needs_images(lm_world: Any) -> None:
    subject = lm_world.make()
    with pytest.raises(UserError, match="synflow: .* the data has no images"):
        list(SynFlow().scores(dict(subject.module.named_parameters()), Start(subject, lm_world.data, Memory())))


# ---------------------------------------------------------------------- then anything


THEN = [
    ASCENT, Scrub(epochs=1, max_epochs=1, batch=6, optim=HEAVY), BadTeacher(steps=3, batch=6, optim=HEAVY),
    TaskVector(steps=3, alpha=2.0, optim=HEAVY), BoundaryExpand(steps=3, optim=HEAVY), Influence(rows=8), Fisher(alpha=1e-4),
    Influence(inverse="exact"), TRAIN,
]  # fmt: skip


@pytest.mark.parametrize("then", THEN, ids=lambda s: type(s).__name__)
def test_zeros_stay_zeros_under_every_stage_and_the_rest_moves(classifier_world: Any, then: Any) -> None:
    subject, _ = pruned(classifier_world, Pruned(train=TRAIN, sparsity=0.7))
    zeros, before = kernels(subject) == 0, kernels(subject).clone()
    run = Memory()
    PruneFirst(then=then)(subject, classifier_world.data, run)
    assert torch.equal(kernels(subject) == 0, zeros) and not torch.equal(kernels(subject), before)
    assert "sparsity 7" in run.said[0] and run.logged[0]["sparsity"] == pytest.approx(0.7, abs=2e-3)


def test_a_mask_restricts_influence_to_what_is_left(classifier_world: Any) -> None:
    """The inverse is that of the restricted gradients, not the masked step of the dense one."""
    subject, _ = pruned(classifier_world, Pruned(train=TRAIN, sparsity=0.7))
    before = everything(subject).clone()
    stage = Influence(inverse="exact", damping=1e-3)
    PruneFirst(then=stage)(subject, classifier_world.data, Memory())
    other, _ = pruned(classifier_world, Pruned(train=TRAIN, sparsity=0.7))
    stage(other, classifier_world.data, Memory())
    alive = before != 0
    assert not torch.allclose((everything(subject) - before)[alive], (everything(other) - before)[alive], rtol=1e-2)


def test_the_retrained_reference_has_the_same_mask_and_other_weights(classifier_world: Any) -> None:
    subject, _ = pruned(classifier_world, Pruned(train=TRAIN, sparsity=0.7))
    zeros = kernels(subject) == 0
    reference, _ = pruned(classifier_world, Pruned(train=TRAIN, sparsity=0.7))
    retrain = PruneFirst(then=Train(on=("retain",), steps=4, optim=HEAVY), fresh=True)
    retrain(reference, classifier_world.data, Memory(seed=3))
    again, _ = pruned(classifier_world, Pruned(train=TRAIN, sparsity=0.7))
    with torch.no_grad():  # what the weights were must not matter
        for p in again.module.parameters():
            p.mul_(7.0)
    retrain(again, classifier_world.data, Memory(seed=3))
    assert torch.equal(kernels(reference) == 0, zeros) and torch.equal(everything(reference), everything(again))


def test_pruning_and_unlearning_in_one_stage_is_the_same_as_in_two(classifier_world: Any, tmp_path: Path) -> None:
    stage = Pruned(train=TRAIN, sparsity=0.7)
    one, run = classifier_world.make(), Memory(folder=tmp_path / "one")
    PruneFirst(then=ASCENT, prune=stage)(one, classifier_world.data, run)
    two, _ = pruned(classifier_world, stage, folder=tmp_path / "two")
    PruneFirst(then=ASCENT)(two, classifier_world.data, Memory())
    assert torch.equal(everything(one), everything(two))
    three = classifier_world.make()
    for name, p in pruned(classifier_world, stage)[0].module.named_parameters():
        three.module.get_parameter(name).data.copy_(p.data)
    PruneFirst(then=ASCENT, file=str(tmp_path / "two" / "mask.safetensors"))(three, classifier_world.data, Memory())
    assert torch.equal(everything(one), everything(three))


def test_what_does_not_fit_is_said_in_a_sentence(classifier_world: Any, lm_world: Any, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="the start model has no weight that is 0: prune it first"):
        PruneFirst(then=ASCENT)(classifier_world.make(), classifier_world.data, Memory())
    pruned(classifier_world, Pruned(train=TRAIN), folder=tmp_path)
    wider = TinyClassifier(width=5).load(classifier_world.data, 0)
    with pytest.raises(
        UserError, match=r"mask is for another model: its 0.weight has the shape \(8, 1, 3, 3\), this model's \(5"
    ):
        PruneFirst(then=ASCENT, file=str(tmp_path / "mask.safetensors"))(wider, classifier_world.data, Memory())
    with pytest.raises(UserError, match="no convolutions to prune: set `which: weights`"):
        Pruned(train=TRAIN, by=Magnitude())(lm_world.make(), lm_world.data, Memory())
    with pytest.raises(UserError, match="the training has 6 steps, so none is number 6"):
        Pruned(train=TRAIN, rewind=6).objective_on(classifier_world.data)
    with pytest.raises(UserError, match="with `when: given` there is no training to go back in"):
        Pruned(train=TRAIN, when="given").objective_on(classifier_world.data)
    with pytest.raises(UserError, match="pruned.train: expected a stage `train`, and this is gradient"):
        Pruned(train=ASCENT).objective_on(classifier_world.data)
    with pytest.raises(UserError, match="give `prune` or `file`"):
        PruneFirst(then=ASCENT, prune=Pruned(train=TRAIN), file="x").objective_on(classifier_world.data)
    with pytest.raises(UserError, match="Pretrained cannot be told which weights"):
        PruneFirst(then=build_use("stages", "pretrained", "s")).objective_on(classifier_world.data)
    own = Influence(mask=WeightMask(by=Magnitude()))
    with pytest.raises(UserError, match="Influence has a mask of its own"):
        PruneFirst(then=own).objective_on(classifier_world.data)


def test_a_stage_inside_a_stage_is_read_from_yaml() -> None:
    built = build_use("stages", {
        "use": "prune_first", "prune": {"use": "pruned", "train": {"use": "train", "on": ["retain"], "steps": 3}},
        "then": {"use": "gradient", "objective": ["ascent"], "steps": 2},
    }, "stages.x")  # fmt: skip
    assert isinstance(built.prune, Pruned) and isinstance(built.then, Gradient) and built.prune.train.steps == 3
    with pytest.raises(UserError, match=r"stages\.x\.then\.stepz: Gradient has no such key"):
        build_use("stages", {"use": "prune_first", "then": {"use": "gradient", "stepz": 2}}, "stages.x")


def test_drawing_anew_leaves_nothing_of_the_old_weights_and_follows_the_seed() -> None:
    class Token(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.token, self.layer, self.norm = nn.Parameter(torch.arange(50.0)), nn.Linear(4, 4), nn.BatchNorm1d(4)

    def drawn(seed: int) -> Token:
        module = Token()
        module.norm.running_mean.fill_(3.0)
        before = torch.random.get_rng_state()
        redraw(module, seed, "fresh")
        assert torch.equal(torch.random.get_rng_state(), before)
        return module

    one, again, other = drawn(0), drawn(0), drawn(1)
    assert torch.equal(one.layer.weight, again.layer.weight) and not torch.equal(one.layer.weight, other.layer.weight)
    assert sorted(one.token.tolist()) == list(range(50)) != one.token.tolist() and one.norm.running_mean.tolist() == [0] * 4


class Killed(Exception):
    """The process ends here."""


@pytest.mark.parametrize("at", [2, 5, 8])
@pytest.mark.parametrize("kind", ["pruned", "prune_first", "scrub"])
def test_what_was_interrupted_goes_on_bit_for_bit(classifier_world: Any, tmp_path: Path, kind: str, at: int) -> None:
    """Each part of a stage has a folder of its own, so none takes up another's checkpoint."""

    class Ending(Memory):
        def log(self, **values: Any) -> None:
            super().log(**values)
            if len(self.logged) == at:
                raise Killed

    scrub = Scrub(epochs=2, max_epochs=1, batch=5, optim=HEAVY, checkpoint_every=1)
    train = replace(TRAIN, checkpoint_every=1)
    stage = {
        "pruned": Pruned(train=train, sparsity=0.7, rewind=2, rounds=2), "scrub": scrub,
        "prune_first": PruneFirst(then=scrub, prune=Pruned(train=train, sparsity=0.7)),
    }[kind]  # fmt: skip
    whole, resumed = classifier_world.make(), classifier_world.make()
    stage(whole, classifier_world.data, Memory())
    with pytest.raises(Killed):
        stage(classifier_world.make(), classifier_world.data, Ending(folder=tmp_path))
    stage(resumed, classifier_world.data, Memory(folder=tmp_path))
    assert torch.equal(everything(whole), everything(resumed))
