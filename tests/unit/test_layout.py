"""`layout: channels_last` moves pixels in memory and nothing else: the same logits, gradients, files and sums."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from amends.core.context import Memory
from amends.core.rng import stream_seed
from amends.core.spec import build_use
from amends.data.arrays import rows_of_arrays
from amends.data.bundle import Bundle
from amends.engine.fit import fit
from amends.engine.optim import SGD
from amends.engine.per_sample import per_sample
from amends.runs.stages import load_weights


def pictures(channels: int) -> Bundle:
    draws = np.random.default_rng(stream_seed(0, "layout pictures"))
    shape = (12, 8, 8, channels) if channels > 1 else (12, 8, 8)
    rows = {
        role: rows_of_arrays(draws.integers(0, 256, shape, dtype=np.uint8), np.arange(12) % 3, role, role)
        for role in ("forget", "retain", "test")
    }
    return Bundle(rows, classes=("cat", "dog", "ship"))


def pair(data: Bundle, net: str, **more: Any) -> list[Any]:
    """The same weights under both layouts."""
    fields = {"use": "image_classifier", "net": net, "width": 4, **more}
    made = (build_use("models", {**fields, "layout": layout}, "subject") for layout in ("contiguous", "channels_last"))
    return [m.load(data, 0) for m in made]


def logits(subject: Any, data: Bundle) -> torch.Tensor:
    batch = subject.collate([subject.encode(s) for s in data["test"]])
    return subject.likelihood(batch).dist.logits_NV.detach()


def train(subject: Any, data: Bundle, steps: int = 1) -> None:
    objective = build_use("terms", {"use": "nll", "role": "retain"}, "objective")
    fit(subject, [objective], data, steps=steps, optim=SGD(lr=0.05, momentum=0.9), batch=6, run=Memory())


@pytest.mark.parametrize("net", ["conv", "resnet18", "vit"])
@pytest.mark.parametrize("channels", [1, 3])
def test_logits_and_training_are_the_same_up_to_rounding(net: str, channels: int) -> None:
    data = pictures(channels)
    plain, last = pair(data, net, augment={"crop": 1})
    torch.testing.assert_close(logits(last, data), logits(plain, data), rtol=0, atol=1e-5)
    for subject in (plain, last):
        train(subject, data)
    for (name, p), q in zip(plain.module.named_parameters(), last.module.parameters(), strict=True):
        torch.testing.assert_close(q, p, rtol=1e-3, atol=1e-5, msg=name)
        assert q.is_contiguous() and p.is_contiguous()
    torch.testing.assert_close(logits(last, data), logits(plain, data), rtol=0, atol=1e-4)


def test_a_saved_model_loads_into_either_layout(tmp_path: Path) -> None:
    data = pictures(3)
    other, subject = pair(data, "resnet18")
    train(subject, data)
    subject.save(tmp_path / "model")
    again = pair(data, "resnet18")[1]
    for loaded in (other, again):
        load_weights(loaded, tmp_path / "model")
        for name, value in subject.module.state_dict().items():
            assert torch.equal(value, loaded.module.state_dict()[name]), name
    assert torch.equal(logits(again, data), logits(subject, data))
    torch.testing.assert_close(logits(other, data), logits(subject, data), rtol=0, atol=1e-5)


@pytest.mark.parametrize("channels", [1, 3])
def test_convolutions_keep_channels_innermost(channels: int) -> None:
    """Also of grey images, whose one channel torch takes for either layout; else nothing is gained."""
    data = pictures(channels)
    strides: list[list[int]] = []
    for subject in pair(data, "resnet18"):
        inner = [m for m in subject.module.modules() if isinstance(m, nn.Conv2d)]
        hooks = [m.register_forward_hook(lambda _, __, out: strides[-1].append(out.stride(1))) for m in inner]
        strides.append([])
        logits(subject, data)
        for hook in hooks:
            hook.remove()
    assert set(strides[1]) == {1} and 1 not in strides[0][:2]


def test_gradients_of_single_rows_follow_it() -> None:
    data = pictures(3)
    plain, last = (
        per_sample(s, s.collate([s.encode(r) for r in data["test"][:3]]), dict(s.module.named_parameters()))
        for s in pair(data, "conv")
    )
    for name, g in plain.items():
        torch.testing.assert_close(last[name], g, rtol=1e-4, atol=1e-5, msg=name)
