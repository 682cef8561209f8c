"""Negated task vectors: the arithmetic on weights, what is left alone, and resuming."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from amends.core.context import Memory
from amends.core.errors import UserError
from amends.core.spec import Weighted, build_use
from amends.data.bundle import Bundle
from amends.engine.fit import fit
from amends.engine.optim import AdamW
from amends.subjects.classifier import Classifier
from amends.subjects.lora import Lora
from amends.terms.nll import NLL
from amends.train.plain import Train
from amends.unlearn.task_vector import TaskVector

OPTIM = AdamW(lr=2e-3)


def weights(subject: Any) -> dict[str, torch.Tensor]:
    return {n: t.detach().clone() for n, t in subject.module.state_dict().items()}


def unlearned(world: Any, run: Memory | None = None, **options: Any) -> tuple[Any, Memory]:
    subject, run = world.make(), run or Memory()
    TaskVector(**{"steps": 4, "batch": 4, "optim": OPTIM, **options})(subject, world.data, run)
    return subject, run


def test_it_is_theta_minus_alpha_times_what_fine_tuning_changes(world: Any) -> None:
    theta, over = world.make(), world.make()
    fit(over, [Weighted(term=NLL(role="forget"))], world.data, steps=4, batch=4, optim=OPTIM, run=Memory())
    start, tuned = weights(theta), weights(over)
    for alpha in (0.5, 5.0):
        for name, value in weights(unlearned(world, alpha=alpha)[0]).items():
            torch.testing.assert_close(value, start[name] - alpha * (tuned[name] - start[name]), rtol=1e-5, atol=1e-6)


def test_the_model_is_as_it_was_given_but_for_its_weights(lm_world: Any) -> None:
    subject, run = unlearned(lm_world)
    assert not subject.call.training
    assert all(p.requires_grad and p.grad is None for p in subject.module.parameters())
    assert "took the task vector away 5 times" in run.said[-1]


def test_what_a_model_has_just_learned_becomes_improbable_again(lm_world: Any) -> None:
    subject = lm_world.make()
    Train(on=("forget", "retain"), steps=10, optim=AdamW(lr=3e-3))(subject, lm_world.data, Memory())
    batch = subject.collate([subject.encode(s) for s in lm_world.data["forget"]])
    before = subject.likelihood(batch).nll_B.sum().item()
    TaskVector(steps=4, alpha=1.0, optim=OPTIM)(subject, lm_world.data, Memory())
    assert subject.likelihood(batch).nll_B.sum().item() > before + 10


def test_half_precision_weights_are_moved_in_single_precision(lm_world: Any) -> None:
    """5 x a small difference of bf16 numbers is one rounding, not three."""
    subject = lm_world.make()
    subject.module.to(torch.bfloat16)
    start = weights(subject)
    over = lm_world.make()
    over.module.to(torch.bfloat16)
    fit(over, [Weighted(term=NLL(role="forget"))], lm_world.data, steps=2, batch=4, optim=AdamW(lr=1e-2), run=Memory())
    tuned = weights(over)
    TaskVector(steps=2, batch=4, optim=AdamW(lr=1e-2))(subject, lm_world.data, Memory())
    for name, value in weights(subject).items():
        exact = start[name].float() - 5 * (tuned[name].float() - start[name].float())
        assert torch.equal(value, exact.to(torch.bfloat16)), name


def test_a_batch_norms_statistics_stay_the_originals(classifier_world: Any) -> None:
    torch_model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 4))
    subject = Classifier(torch_model)
    before = {n: b.clone() for n, b in subject.module.named_buffers()}
    TaskVector(steps=3, batch=4, optim=OPTIM)(subject, classifier_world.data, Memory())
    assert before and all(torch.equal(b, before[n]) for n, b in subject.module.named_buffers())


def test_an_adapter_is_merged_before_it_is_taken_away(lm_world: Any) -> None:
    subject, _ = unlearned(lm_world, lora=Lora(rank=2))
    start = weights(lm_world.make())
    found = weights(subject)
    assert found.keys() == start.keys()
    moved = {n for n in found if not torch.equal(found[n], start[n])}
    assert moved and not any("embed" in n or "norm" in n for n in moved)


def test_a_resumed_run_ends_where_an_uninterrupted_one_does(lm_world: Any, tmp_path: Path) -> None:
    """The start's weights come from the stage it starts from, the fine-tuned ones from the checkpoint."""
    straight = weights(unlearned(lm_world, steps=6)[0])
    fit(
        lm_world.make(), [Weighted(term=NLL(role="forget"))], lm_world.data, steps=3, batch=4, optim=OPTIM,
        checkpoint_every=3, run=Memory(folder=tmp_path),
    )  # fmt: skip
    subject, run = unlearned(lm_world, Memory(folder=tmp_path), steps=6, checkpoint_every=3)
    assert "resumed at step 3" in run.said
    assert all(torch.equal(v, straight[n]) for n, v in weights(subject).items())


def test_its_length_is_given_in_steps_or_epochs(lm_world: Any) -> None:
    assert TaskVector(epochs=3, batch=5).num_steps(lm_world.data) == 9
    for wrong in (TaskVector(), TaskVector(steps=1, epochs=1)):
        with pytest.raises(UserError, match="give either `steps` or `epochs`"):
            wrong.objective_on(lm_world.data)
    with pytest.raises(UserError, match="no role 'other'"):
        TaskVector(epochs=1, role="other").objective_on(Bundle(lm_world.data.roles))


def test_a_recipe_builds_it() -> None:
    built = build_use("stages", {"use": "task_vector", "alpha": 2, "epochs": 1, "optim": {"use": "adamw", "lr": 1e-5}}, "s")
    assert built == TaskVector(alpha=2, epochs=1, optim=AdamW(lr=1e-5))
