"""Gradients of rows layer by layer: what a loop over rows gives, or nothing where a layer is not known to give it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from amends.core.types import Batch
from amends.engine import per_sample as per_sample_module
from amends.engine.layer_rows import FEW_PLACES, by_layers
from amends.engine.per_sample import of_function, per_sample
from amends.subjects.classifier import Classifier

ROWS, CLASSES = 5, 3


class Tail(nn.Module):
    """What stands before, and a linear head on the mean of its last axes."""

    def __init__(self, *layers: nn.Module, width: int) -> None:
        super().__init__()
        self.body, self.head = nn.Sequential(*layers), nn.Linear(width, CLASSES)

    def forward(self, image: Tensor) -> Tensor:
        return self.head(self.body(image).flatten(2).mean(2))


class Residual(nn.Module):
    """Sums in place, activations in place, one layer that is run twice."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.act = nn.Conv2d(2, 2, 3, padding=1), nn.BatchNorm2d(2), nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        out = self.act(self.norm(self.conv(x)))
        out = self.conv(out)
        out += x
        return self.act(out)


class Tied(nn.Module):
    """One weight in two layers."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(6, 6), nn.Linear(6, 6, bias=False)
        self.two.weight = self.one.weight
        self.head = nn.Linear(12, CLASSES)

    def forward(self, image: Tensor) -> Tensor:
        return self.head(self.two(self.one(image.flatten(2)).relu()).flatten(1))


class Beside(nn.Module):
    """A layer's weight that is used outside the layer as well, where no hook sees it."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.head = nn.Linear(6, 12), nn.Linear(12, CLASSES)

    def forward(self, image: Tensor) -> Tensor:
        x = self.one(image.flatten(2)).mean(1)
        return self.head(x) + F.linear(x.square(), self.head.weight)


class Overwrites(nn.Module):
    """What went into a layer is changed in place once it has gone through."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.head = nn.Linear(12, 12), nn.Linear(12, CLASSES)

    def forward(self, image: Tensor) -> Tensor:
        x = image.flatten(1) * 1.0
        out = self.one(x)
        x.mul_(0.5)
        return self.head(out + x)


class Across(nn.Module):
    """A row is judged by the mean of all rows."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.head = nn.Linear(12, 12), nn.Linear(12, CLASSES)

    def forward(self, image: Tensor) -> Tensor:
        x = self.one(image.flatten(1)).tanh()
        return self.head(x * x.mean(0, keepdim=True))


class Own(nn.Module):
    """A weight that belongs to no known layer."""

    def __init__(self) -> None:
        super().__init__()
        self.scale, self.head = nn.Parameter(torch.ones(12)), nn.Linear(12, CLASSES)

    def forward(self, image: Tensor) -> Tensor:
        return self.head(image.flatten(1) * self.scale)


def vectors(norm: nn.Module) -> nn.Module:
    """A norm with no axes behind its channels."""
    return nn.Sequential(nn.Flatten(), nn.Linear(12, 6), norm, nn.Tanh(), nn.Linear(6, CLASSES))


MODELS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "many places": (lambda: Tail(nn.Conv2d(2, 4, 3, padding=1), nn.ReLU(), width=4), (2, 9, 9)),
    "few places": (lambda: Tail(nn.Conv2d(2, 4, (3, 2), padding=(1, 0), stride=(2, 1)), nn.ReLU(), width=4), (2, 6, 7)),
    "few places, strided image": (lambda: Tail(nn.Conv2d(2, 4, 1, stride=2, bias=False), nn.ReLU(), width=4), (2, 6, 7)),
    "in place": (lambda: Tail(nn.Conv2d(2, 4, 3), nn.ReLU(inplace=True), width=4), (2, 6, 6)),
    "groups": (lambda: Tail(nn.Conv2d(4, 6, 3, groups=2, padding=1), nn.ReLU(), width=6), (4, 5, 5)),
    "dilation": (lambda: Tail(nn.Conv2d(2, 3, 3, dilation=2), nn.ReLU(), width=3), (2, 7, 7)),
    "batch norm": (lambda: Tail(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(inplace=True), width=4), (2, 6, 6)),
    "group norm": (lambda: Tail(nn.Conv2d(2, 4, 3), nn.GroupNorm(2, 4), nn.ReLU(), width=4), (2, 6, 6)),
    "batch norm of vectors": (lambda: vectors(nn.BatchNorm1d(6)), (2, 6)),
    "group norm of vectors": (lambda: vectors(nn.GroupNorm(2, 6)), (2, 6)),
    "batch norm of series": (lambda: Tail(nn.BatchNorm1d(2), nn.Tanh(), width=2), (2, 6)),
    "layer norm": (lambda: Tail(nn.Linear(6, 5), nn.LayerNorm(5), nn.Tanh(), width=2), (2, 6)),
    "norm of two axes": (lambda: Tail(nn.LayerNorm((3, 4)), nn.Tanh(), width=2), (2, 3, 4)),
    "no scale": (lambda: Tail(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4, affine=False), nn.ReLU(), width=4), (2, 6, 6)),
    "residual": (lambda: Tail(Residual(), width=2), (2, 5, 5)),
    "tied": (Tied, (2, 6)),
}  # fmt: skip


def made(make: Callable[[], nn.Module], shape: tuple[int, ...]) -> tuple[Classifier, Batch]:
    torch.manual_seed(0)
    module = make()
    for m in module.modules():
        if isinstance(m, (nn.BatchNorm1d, nn.BatchNorm2d)):
            m.running_mean.uniform_(-1, 1), m.running_var.uniform_(0.5, 2)  # type: ignore[union-attr]
        if isinstance(m, (nn.BatchNorm1d, nn.BatchNorm2d, nn.GroupNorm, nn.LayerNorm)) and m.weight is not None:
            nn.init.uniform_(m.weight, 0.5, 2), nn.init.uniform_(m.bias, -1, 1)
    subject = Classifier(module)
    subject.call.eval()
    tensors = {"image": torch.randn(ROWS, *shape), "label": torch.arange(ROWS) % CLASSES}
    return subject, Batch(tuple(f"r{i}" for i in range(ROWS)), tensors)


def named(subject: Classifier) -> dict[str, Tensor]:
    return dict(subject.module.named_parameters())


def in_a_loop(subject: Classifier, batch: Batch) -> dict[str, Tensor]:
    found = []
    for i in range(len(batch)):
        like = subject.likelihood(batch.rows(i, i + 1))
        found.append(torch.autograd.grad((like.nll_B / like.n_B).sum(), list(named(subject).values())))
    return dict(zip(named(subject), map(torch.stack, zip(*found, strict=True)), strict=True))


def close(found: dict[str, Tensor] | None, expected: dict[str, Tensor]) -> None:
    assert found is not None and list(found) == list(expected)
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-6, msg=name)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("name", MODELS)
def test_each_known_layer_gives_what_a_loop_gives(name: str, layout: Any) -> None:
    subject, batch = made(*MODELS[name])
    if batch["image"].ndim == 4:
        batch = Batch(batch.ids, {**batch.tensors, "image": batch["image"].contiguous(memory_format=layout)})
    close(by_layers(subject, batch, named(subject)), in_a_loop(subject, batch))
    close(of_function(subject, batch, named(subject)), in_a_loop(subject, batch))


def test_both_ways_of_a_convolution_are_tested() -> None:
    assert 4 * 5 < 5 * 5 < FEW_PLACES <= 9 * 9


def test_the_subject_is_left_as_it_was() -> None:
    subject, batch = made(*MODELS["residual"])
    subject.module.head.bias.requires_grad_(False)
    by_layers(subject, batch, {"body.0.conv.weight": named(subject)["body.0.conv.weight"]})
    assert [n for n, p in named(subject).items() if not p.requires_grad] == ["head.bias"]
    assert all(p.grad is None for p in named(subject).values())
    assert not any(m._forward_hooks for m in subject.call.modules())
    with torch.no_grad():
        close(by_layers(subject, batch, named(subject)), per_sample(subject, batch, named(subject)))


def test_half_the_rows_are_half_of_what_all_give() -> None:
    subject, batch = made(*MODELS["batch norm"])
    whole, half = (by_layers(subject, b, named(subject)) for b in (batch, batch.rows(2, 4)))
    assert whole is not None and half is not None
    close(half, {name: value[2:4] for name, value in whole.items()})


def test_a_layer_that_is_not_reached_has_a_gradient_of_zero() -> None:
    subject, batch = made(lambda: Tail(nn.Identity(), width=2), (2, 6))
    subject.module.spare = nn.Linear(2, 2)
    found = by_layers(subject, batch, named(subject))
    assert found is not None and found["spare.weight"].shape == (ROWS, 2, 2) and not found["spare.weight"].any()


def test_a_weight_of_no_known_layer_is_left_to_the_other_way() -> None:
    subject, batch = made(Own, (2, 6))
    assert by_layers(subject, batch, named(subject)) is None
    close(per_sample(subject, batch, named(subject)), in_a_loop(subject, batch))


def test_what_went_in_and_was_changed_since_is_not_multiplied() -> None:
    subject, batch = made(Overwrites, (2, 6))
    assert by_layers(subject, batch, named(subject)) is None


def test_layers_that_a_rule_does_not_describe() -> None:
    for layer in (nn.Conv2d(2, 4, 3, padding=1, padding_mode="reflect"), nn.Conv2d(2, 4, 3, padding="same")):
        subject, batch = made(lambda layer=layer: Tail(layer, nn.ReLU(), width=4), (2, 6, 6))  # type: ignore[misc]
        assert by_layers(subject, batch, named(subject)) is None
        close(per_sample(subject, batch, named(subject)), in_a_loop(subject, batch))
    subject, batch = made(*MODELS["batch norm"])
    assert by_layers(subject, batch, named(subject)) is not None
    subject.call.train()
    assert by_layers(subject, batch, named(subject)) is None, "statistics of the batch tie its rows together"


def test_a_weight_that_is_used_outside_its_layer_is_noticed() -> None:
    subject, batch = made(Beside, (2, 6))
    assert by_layers(subject, batch, named(subject)) is not None
    for _ in range(2):
        close(per_sample(subject, batch, named(subject)), in_a_loop(subject, batch))


def test_a_layer_that_is_called_by_keyword_is_left_to_the_other_way() -> None:
    class Keyword(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(12, CLASSES)

        def forward(self, image: Tensor) -> Tensor:
            return self.head(input=image.flatten(1))

    subject, batch = made(Keyword, (2, 6))
    assert by_layers(subject, batch, named(subject)) is None
    close(per_sample(subject, batch, named(subject)), in_a_loop(subject, batch))


def test_a_model_that_was_held_against_the_other_way_is_not_again(monkeypatch: pytest.MonkeyPatch) -> None:
    subject, batch = made(*MODELS["batch norm"])
    asked = []
    monkeypatch.setattr(per_sample_module, "of_function", lambda s, b, p: asked.append(len(b)) or of_function(s, b, p))
    for _ in range(2):
        close(per_sample(subject, batch, named(subject)), in_a_loop(subject, batch))
    assert asked == [1], "one row, once"


def test_rows_that_see_each_other_are_noticed() -> None:
    subject, batch = made(Across, (2, 6))
    close(per_sample(subject, batch, named(subject)), in_a_loop(subject, batch))
