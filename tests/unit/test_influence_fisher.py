"""Per-sample gradients, influence and Fisher forgetting: by hand on two weights, against loops and exact solutions."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from amends.attribution.magnitude import Magnitude
from amends.core.context import Memory
from amends.core.errors import UserError
from amends.core.types import Sample
from amends.data.bundle import Bundle
from amends.edits.clip import Clip
from amends.edits.mask_file import Mask
from amends.edits.weight_mask import WeightMask
from amends.engine.per_sample import per_sample
from amends.subjects.classifier import Classifier
from amends.subjects.head import head, num_classes
from amends.unlearn.fisher import Fisher
from amends.unlearn.influence import Influence, exact, running
from amends.unlearn.live import Live


class Normed(nn.Module):
    """Convolution, batch norm with statistics of its own, a head."""

    def __init__(self, classes: int = 4) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3)
        self.head = nn.Linear(3 * 36, classes)

    def forward(self, image: Tensor) -> Tensor:
        return self.head(torch.relu(self.norm(self.conv(image))).flatten(1))


def normed() -> Classifier:
    torch.manual_seed(0)
    module = Normed()
    with torch.no_grad():
        module.norm.running_mean.copy_(torch.tensor([0.1, -0.2, 0.3]))
        module.norm.running_var.copy_(torch.tensor([0.5, 2.0, 1.0]))
    return Classifier(module)


def named(subject: Any) -> dict[str, Tensor]:
    return dict(subject.module.named_parameters())


def batch_of(subject: Any, rows: Any) -> Any:
    return subject.collate([subject.encode(row) for row in rows])


def in_a_loop(subject: Any, rows: Any) -> dict[str, Tensor]:
    subject.call.eval()
    found = []
    for row in rows:
        like = subject.likelihood(batch_of(subject, [row]))
        found.append(torch.autograd.grad((like.nll_B / like.n_B).sum(), list(named(subject).values())))
    return dict(zip(named(subject), map(torch.stack, zip(*found, strict=True)), strict=True))


@pytest.mark.parametrize("make", ["tiny", "normed"])
def test_gradients_of_rows_together_are_those_of_each_alone(classifier_world: Any, make: str) -> None:
    subject = classifier_world.make() if make == "tiny" else normed()
    rows, before = classifier_world.data["forget"], [b.clone() for b in subject.module.buffers()]
    subject.call.train()
    found = per_sample(subject, batch_of(subject, rows), named(subject))
    assert subject.call.training and all(p.grad is None for p in named(subject).values())
    assert all(torch.equal(a, b) for a, b in zip(before, subject.module.buffers(), strict=True)), "statistics are left alone"
    expected = in_a_loop(subject, rows)
    for name, value in found.items():
        torch.testing.assert_close(value, expected[name], rtol=1e-4, atol=1e-6)
    one = next(iter(named(subject)))
    assert list(per_sample(subject, batch_of(subject, rows), {one: named(subject)[one]})) == [one]


def test_packed_tokens_have_no_gradients_of_single_rows(lm_world: Any) -> None:
    subject = lm_world.make()
    with pytest.raises(UserError, match="CausalLM gives no gradients of single rows"):
        per_sample(subject, batch_of(subject, lm_world.data["forget"][:2]), named(subject))


# ---------------------------------------------------------------------- the inverse


def test_the_recursion_by_hand_on_two_gradients() -> None:
    """v = (1, 2), g1 = (1, 0), g2 = (1, 1), M = 2: tau = <o, g2> = 1, k = v - 3 / 3 (1, 0) = (0, 2)."""
    g = torch.tensor([[1.0, 0.0], [1.0, 1.0]])
    assert running(torch.tensor([1.0, 2.0]), iter(g), 2, 1.0).tolist() == [0.0, 2.0]


def test_woodbury_is_the_inverse() -> None:
    g = torch.randn(7, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    v = torch.arange(5.0, dtype=torch.float64)
    for damping in (1.0, 0.01):
        dense = damping * torch.eye(5, dtype=torch.float64) + g.T @ g / 7
        torch.testing.assert_close(exact(v, g, damping), torch.linalg.solve(dense, v))


def test_with_equal_gradients_one_running_vector_is_woodfisher() -> None:
    """The recursion uses M - 1 of the M gradients and divides by M."""
    g, v = torch.tensor([0.5, -1.0, 2.0], dtype=torch.float64), torch.tensor([1.0, 1.0, -3.0], dtype=torch.float64)
    for damping in (1.0, 0.3):
        dense = damping * torch.eye(3, dtype=torch.float64) + 4 / 5 * torch.outer(g, g)
        torch.testing.assert_close(running(v, iter([g] * 5), 5, damping), torch.linalg.solve(dense, v))


def test_many_different_gradients_are_where_the_two_part() -> None:
    g = torch.randn(200, 20, generator=torch.Generator().manual_seed(1)) * 5
    v = torch.ones(20)
    assert (running(v, iter(g), 200, 1.0) - exact(v, g, 1.0)).norm() > 0.5 * v.norm()


@pytest.mark.parametrize("inverse", ["running", "exact"])
def test_large_damping_is_a_plain_gradient_step(classifier_world: Any, inverse: Any) -> None:
    """H -> damping I, so theta moves by alpha / damping (n_f / N) (mean_f - mean_r)."""
    subject, data = normed(), classifier_world.data
    start = torch.cat([p.detach().flatten().clone() for p in named(subject).values()])
    outcome = Influence(alpha=1e6, damping=1e6, inverse=inverse, micro=5)(subject, data, run := Memory())
    moved = torch.cat([p.detach().flatten() for p in named(subject).values()]) - start
    f, r = (torch.cat([v.mean(0).flatten() for v in in_a_loop(normed(), data[role]).values()]) for role in ("forget", "retain"))
    torch.testing.assert_close(moved, 0.5 * (f - r), rtol=1e-3, atol=1e-4)
    assert (outcome.steps, outcome.stopped) == (1, None) and "12 retain rows" in run.said[0]


@pytest.mark.parametrize("inverse", ["running", "exact"])
def test_a_small_step_widens_the_gap_between_the_two_losses(classifier_world: Any, inverse: Any) -> None:
    """To first order by <v, H^-1 v> N / n_f, which is positive as H is."""
    data = classifier_world.data
    split = Bundle({
        "forget": tuple(s for rows in data.roles.values() for s in rows if s.data["label"] == 0),
        "retain": tuple(s for rows in data.roles.values() for s in rows if s.data["label"] != 0),
    })  # fmt: skip

    def gap(subject: Any) -> float:
        subject.call.eval()
        forget, retain = (subject.likelihood(batch_of(subject, split[r])).nll_B.mean().item() for r in ("forget", "retain"))
        return forget - retain

    subject = normed()
    before = gap(subject)
    start = torch.cat([p.detach().flatten().clone() for p in named(subject).values()])
    Influence(inverse=inverse, alpha=0.02)(subject, split, Memory())
    moved = torch.cat([p.detach().flatten() for p in named(subject).values()]) - start
    f, r = (torch.cat([v.mean(0).flatten() for v in in_a_loop(normed(), split[role]).values()]) for role in split.roles)
    assert 0 < gap(subject) - before == pytest.approx(((f - r) @ moved).item(), rel=0.1)


def test_a_mask_holds_weights_through_influence_and_through_noise(classifier_world: Any, tmp_path: Any) -> None:
    for stage in (Influence(mask=WeightMask(by=Magnitude(), keep=0.4)), Fisher(mask=WeightMask(by=Magnitude(), keep=0.4))):
        subject, run = normed(), Memory(folder=tmp_path / type(stage).__name__)
        before = {n: p.detach().clone() for n, p in named(subject).items()}
        stage(subject, classifier_world.data, run)
        mask, _ = Mask.load(run.folder / "mask.safetensors")
        for name, p in named(subject).items():
            frozen = mask.frozen(name, p.device)
            assert torch.equal(p[frozen], before[name][frozen])
        assert not torch.equal(named(subject)["head.weight"], before["head.weight"])
        assert all(p.requires_grad for p in named(subject).values())
    with pytest.raises(UserError, match="mask: expected weight_mask, and this is clip"):
        Influence(mask=Clip())(normed(), classifier_world.data, Memory())


def test_influence_says_what_it_cannot_do(classifier_world: Any, lm_world: Any) -> None:
    with pytest.raises(UserError, match="12 gradients of .* weights take .* lower `rows`"):
        Influence(inverse="exact", at_most_gb=1e-9)(normed(), classifier_world.data, Memory())
    with pytest.raises(UserError, match="row forget-000 of 'forget' has no label"):
        Influence().objective_on(lm_world.data)
    with pytest.raises(UserError, match="no role 'rest'"):
        Fisher(retain="rest").objective_on(classifier_world.data)


def test_drawn_rows_follow_the_seed(classifier_world: Any) -> None:
    stage = Influence(order="drawn", rows=5)
    ids = [[s.id for s in stage._seen(classifier_world.data, Memory(seed=seed))] for seed in (0, 0, 1)]
    assert ids[0] == ids[1] != ids[2] and len(ids[0]) == 5
    assert [s.id for s in Influence(rows=3)._seen(classifier_world.data, Memory())] == [
        "retain-000",
        "retain-001",
        "retain-002",
    ]


# ---------------------------------------------------------------------- Fisher


class Two(nn.Module):
    """Logits (a x, b x) of a one-pixel image x."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(1, 2, bias=False)
        with torch.no_grad():
            self.head.weight.zero_()

    def forward(self, image: Tensor) -> Tensor:
        return self.head(image.flatten(1))


def pixels(*values: float) -> Bundle:
    image = [torch.tensor([[[v]]]) for v in values]
    return Bundle({"retain": tuple(Sample(f"r{i}", {"image": x, "label": 0}) for i, x in enumerate(image))})


def diagonal(over: Any, *values: float, batch: int = 32) -> list[float]:
    subject, data = Classifier(Two()), pixels(*values)
    stage = Fisher(over=over, batch=batch)
    live = Live.of(subject, data, None, Memory())
    return stage.diagonal(subject, live, list(data["retain"]), Memory())["head.weight"].flatten().tolist()


def test_the_fisher_information_by_hand() -> None:
    """At a = b = 0: p = 1/2, d CE(x, y) / da = -+ x / 2 for either label, so F_a = x^2 / 4 for one row.

    Of two rows x = 1 and x = -3: rows (1 + 9) / 2 / 4 = 1.25; the batch's mean gradient is that of x = -1: 0.25.
    """
    assert diagonal("batch", 2.0) == diagonal("row", 2.0) == pytest.approx([1.0, 1.0])
    assert diagonal("row", 1.0, -3.0) == pytest.approx([1.25, 1.25])
    assert diagonal("batch", 1.0, -3.0) == pytest.approx([0.25, 0.25])
    assert diagonal("batch", 1.0, -3.0, batch=1) == pytest.approx([1.25, 1.25])


def test_the_variance_by_hand() -> None:
    stage, f = Fisher(alpha=1e-3), torch.tensor([[1.0, 1e-9], [0.1, 0.3]])
    assert stage.variance(f, False)[0].tolist() == pytest.approx([1e-3 * (1 + 1000) / 2] * 2)
    assert stage.variance(f, True)[0].tolist() == pytest.approx([1e-2 * (1 + 100) / 2] * 2)
    assert Fisher(alpha=1e-3, average=False).variance(f, False)[1].tolist() == pytest.approx([1e-2, 1e-3 / 0.3])
    assert stage.variance(f[1], False).tolist() == pytest.approx([1e-1, 1e-2 / 0.3])


def test_noise_has_the_variance_it_says_and_follows_the_seed(classifier_world: Any) -> None:
    def noise(seed: int, **fields: Any) -> dict[str, Tensor]:
        subject = normed()
        before = {n: p.detach().clone() for n, p in named(subject).items()}
        Fisher(alpha=1e-6, **fields)(subject, classifier_world.data, Memory(seed=seed))
        return {n: p.detach() - before[n] for n, p in named(subject).items()}

    first, again, other = noise(0), noise(0), noise(1)
    assert all(torch.equal(first[n], again[n]) and not torch.equal(first[n], other[n]) for n in first)
    subject, data = normed(), classifier_world.data
    fisher = Fisher().diagonal(subject, Live.of(subject, data, None, Memory()), list(data["retain"]), Memory())
    scaled = first["head.weight"] / Fisher(alpha=1e-6).variance(fisher["head.weight"], True).sqrt()
    assert scaled.std().item() == pytest.approx(1.0, abs=0.1)


def test_blanking_a_class_is_apart_and_off_by_default(classifier_world: Any) -> None:
    subject = normed()
    Fisher(alpha=1e-12, blank_class=2)(subject, classifier_world.data, Memory())
    rows = subject.module.head.weight.detach().norm(dim=1) / math.sqrt(108)
    assert rows[2] == pytest.approx(1e-2, rel=0.3) and rows[[0, 1, 3]].min() > 0.03
    with pytest.raises(UserError, match="there is no class 9: the model has 4"):
        Fisher(blank_class=9)(normed(), classifier_world.data, Memory())


def test_the_head_is_the_last_linear_layer_with_that_many_outputs(classifier_world: Any) -> None:
    subject = normed()
    assert head(subject.module, 4)[0] == "head" and num_classes(subject, classifier_world.data["forget"][0]) == 4
    with pytest.raises(UserError, match="no linear layer with 5 outputs"):
        head(subject.module, 5)
