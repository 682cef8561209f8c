"""Edits that draw weights to a point: by hand, against the proximal operator's definition, and in the loop."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from amends.core.context import Memory
from amends.core.errors import UserError
from amends.core.protocols import Start, Step
from amends.core.spec import Weighted
from amends.edits.prox_l1 import ProxL1, strength
from amends.edits.soft_mask import SoftMask, cut_at
from amends.engine.fit import fit
from amends.engine.optim import SGD, AdamW
from amends.subjects.tiny import TinyLM
from amends.terms.nll import NLL

FIRST = Step(0, 10, 0.5)


def params(*values: float) -> dict[str, nn.Parameter]:
    return {"w": nn.Parameter(torch.tensor([list(values)])), "b": nn.Parameter(torch.tensor(list(values)))}


def test_the_soft_threshold_by_hand() -> None:
    """lr gamma = 0.5 * 0.4 = 0.2."""
    found = params(1.0, -0.5, 0.1, -0.2)
    ProxL1(gamma=0.4, on="weights").weights(found, None, FIRST)
    assert found["w"][0].tolist() == pytest.approx([0.8, -0.3, 0.0, 0.0]) and found["b"].tolist() == pytest.approx(
        [1, -0.5, 0.1, -0.2]
    )
    assert found["w"][0, 2:].tolist() == [0, 0]
    ProxL1(gamma=0.4).weights(found, None, FIRST)
    assert found["b"].tolist() == pytest.approx([0.8, -0.3, 0.0, 0.0])


def test_the_soft_threshold_is_the_minimiser_that_defines_it() -> None:
    """argmin_x (x - y)^2 / 2 + t |x|, on a grid."""
    grid = torch.linspace(-2, 2, 40001)
    for y in (-1.3, -0.1, 0.05, 0.7):
        best = grid[((grid - y) ** 2 / 2 + 0.2 * grid.abs()).argmin()]
        found = params(y)
        ProxL1(gamma=0.4).weights(found, None, FIRST)
        assert found["w"].item() == pytest.approx(best.item(), abs=2e-4)


def test_the_subgradient_is_that_of_automatic_differentiation() -> None:
    found = params(1.0, -0.5, 0.0)
    (0.3 * sum(p.abs().sum() for p in found.values())).backward()
    expected = {n: p.grad.clone() for n, p in found.items()}
    for p in found.values():
        p.grad = torch.zeros_like(p)
    ProxL1(gamma=0.3, form="subgradient").grads(found, None, FIRST)
    for n, p in found.items():
        assert torch.equal(p.grad, expected[n])
    before = found["w"].detach().clone()
    ProxL1(gamma=0.3, form="subgradient").weights(found, None, FIRST)
    assert torch.equal(found["w"], before)


def test_schedules_begin_and_end_where_they_say() -> None:
    def of(schedule: Any, free: float = 0.0) -> list[float]:
        return [strength(schedule, Step(t, 5, 0.1), free) for t in range(5)]

    assert of("decaying") == pytest.approx([1, 0.8, 0.6, 0.4, 0.2])
    assert of("growing") == pytest.approx([0, 0.2, 0.4, 0.6, 0.8])
    assert of("constant", free=0.4) == [1, 1, 1, 0, 0]
    assert of("decaying", free=0.4) == pytest.approx([1, 2 / 3, 1 / 3, 0, 0])
    assert of("constant", free=1.0) == [0] * 5


def test_the_loop_tells_edits_the_step_the_length_and_the_rate(classifier_world: Any) -> None:
    seen: list[Step] = []

    class Watching:
        def init(self, params: Any, start: Any) -> None: ...
        def grads(self, params: Any, state: Any, step: Step) -> None:
            seen.append(step)

        def weights(self, params: Any, state: Any, step: Step) -> None:
            seen.append(step)

    optim = SGD(lr=0.1, schedule="linear")
    fit(
        classifier_world.make(),
        [Weighted(term=NLL())],
        classifier_world.data,
        steps=2,
        optim=optim,
        edits=[Watching()],
        run=Memory(),
    )
    assert seen == [Step(0, 2, 0.1)] * 2 + [Step(1, 2, 0.05)] * 2


@pytest.mark.parametrize("optim", [SGD(lr=0.05, momentum=0.9, weight_decay=0.01), AdamW(lr=1e-2)])
def test_in_the_loop_it_makes_exact_zeros_and_gamma_0_is_fine_tuning(classifier_world: Any, optim: Any) -> None:
    def trained(edits: list[Any]) -> torch.Tensor:
        subject = classifier_world.make()
        fit(subject, [Weighted(term=NLL())], classifier_world.data, steps=20, optim=optim, edits=edits, run=Memory())
        return torch.cat([p.detach().flatten() for p in subject.module.parameters()])

    plain = trained([])
    assert torch.equal(trained([ProxL1(gamma=0.0)]), plain)
    zeros = [(trained([ProxL1(gamma=g, schedule="constant")]) == 0).float().mean().item() for g in (0.01, 0.3)]
    assert 0 == (plain == 0).float().mean() <= zeros[0] < zeros[1] and zeros[1] > 0.1


# ---------------------------------------------------------------------- the mask that moves


def test_a_share_comes_back_to_where_it_started_and_the_rest_is_drawn_there(classifier_world: Any) -> None:
    """Changes 0.1, -0.2, 0.4, -0.8 with share 1/2: the threshold is 0.2."""
    found = {"w": nn.Parameter(torch.tensor([1.0, 1.0, 1.0, 1.0]))}
    edit = SoftMask(share=0.5, schedule="constant")
    state = edit.init(found, Start(classifier_world.make(), classifier_world.data, Memory()))
    with torch.no_grad():
        found["w"].add_(torch.tensor([0.1, -0.2, 0.4, -0.8]))
    edit.weights(found, state, FIRST)
    assert found["w"][:2].tolist() == [1.0, 1.0]
    assert found["w"][2:].tolist() == pytest.approx([1.2, 0.4], rel=5e-3)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_the_threshold_is_the_quantile_up_to_a_codes_width(share: float) -> None:
    moved = {
        "a": torch.randn(300, generator=torch.Generator().manual_seed(0)),
        "b": torch.zeros(20),
        "c": torch.full((30,), 1e-3),
    }
    every = torch.cat(list(moved.values())).abs()
    least = torch.kthvalue(every, round(share * len(every))).values.item()
    assert least <= cut_at(moved, share) <= least * 1.004 + 1e-12
    assert (every <= cut_at(moved, share)).float().mean() >= share


def test_a_whole_share_changes_nothing_and_none_is_training(classifier_world: Any) -> None:
    def trained(edits: list[Any]) -> torch.Tensor:
        subject = classifier_world.make()
        fit(subject, [Weighted(term=NLL())], classifier_world.data, steps=5, optim=SGD(lr=0.1), edits=edits, run=Memory())
        return torch.cat([p.detach().flatten() for p in subject.module.parameters()])

    start = torch.cat([p.detach().flatten() for p in classifier_world.make().module.parameters()])
    assert torch.equal(trained([SoftMask(share=1.0, schedule="constant")]), start)
    assert torch.equal(trained([SoftMask(share=0.0)]), trained([]))
    half = trained([SoftMask(share=0.5, schedule="constant")])
    assert 0.45 < (half == start).float().mean() < 0.6


def test_an_adapter_has_no_start_to_go_back_to(lm_world: Any) -> None:
    from amends.subjects.lora import Lora

    subject = TinyLM(width=32, depth=2, heads=2, vocab=300).load(lm_world.data, 0)
    Lora().attach(subject, 0)
    with pytest.raises(UserError, match="soft_mask"):
        SoftMask().init(dict(subject.module.named_parameters()), Start(subject, lm_world.data, Memory()))
