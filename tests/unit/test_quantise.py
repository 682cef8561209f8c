"""Quantising: held against bitsandbytes' own layers, known values, and the algebra of rounding."""

from __future__ import annotations

import sys
from typing import Any

import bitsandbytes as bnb
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from amends.attack.quantise import BLOCK, Quantise, library, linear_layers, rounded
from amends.core.context import Memory
from amends.core.errors import UserError
from amends.core.rng import rng
from amends.data.bundle import Bundle
from amends.runs.recipe import resolve
from amends.runs.request import Request
from amends.subjects.classifier import Classifier
from amends.subjects.tiny import TinyLM

KINDS = ("8bit", "nf4", "fp4")
HALF_STEP = {"8bit": 0.43 / 127, "nf4": 0.039, "fp4": 0.0026}
"""A little less than half the smallest distance of two levels, as a share of the largest weight of a scale."""
FP4 = (0.0, 0.0625 / 12, 2 / 12, 3 / 12, 4 / 12, 6 / 12, 8 / 12, 1.0)
"""What a sign, two bits of exponent and one of mantissa can say, as bitsandbytes scales it."""
NOTHING = Bundle({"forget": ()})


def weight(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=rng(seed, "weight")) * 0.1


def of_layer(kind: str, w: torch.Tensor) -> torch.Tensor:
    """What a layer of the library computes with: its own weight, dequantised by the layer's own state."""
    rows, cols = w.shape
    if kind == "8bit":
        layer: Any = bnb.nn.Linear8bitLt(cols, rows, bias=False, has_fp16_weights=False)
        layer.load_state_dict({"weight": w})
        layer = layer.to("cpu")
        return layer.weight.CB.float() * layer.weight.SCB[:, None] / 127
    layer = bnb.nn.Linear4bit(cols, rows, bias=False, quant_type=kind, compress_statistics=False, compute_dtype=w.dtype)
    layer.load_state_dict({"weight": w})
    return layer.to("cpu")(torch.eye(cols)).T


@pytest.mark.parametrize("kind", KINDS)
def test_the_result_is_what_the_librarys_own_layer_computes_with(kind: str) -> None:
    w = weight(48, 2 * BLOCK)
    torch.testing.assert_close(rounded(w, kind, library()), of_layer(kind, w), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("shape", [(48, 80), (5, 96), (7, 5), (1, 1), (3, 64)])
def test_blocks_run_over_the_rows_whatever_their_width(shape: tuple[int, int]) -> None:
    """By hand, where the library's CPU kernel mistakes the scales: nearest level times the block's largest weight."""
    w = weight(*shape)
    levels = torch.tensor([s * v for s in (1, -1) for v in FP4])
    expected = []
    for block in w.flatten().split(BLOCK):
        scale = block.abs().max()
        expected.append(levels[(block[:, None] / scale - levels).abs().argmin(1)] * scale)
    torch.testing.assert_close(rounded(w, "fp4", library()), torch.cat(expected).view(shape), rtol=1e-3, atol=1e-7)


def test_known_values() -> None:
    row = torch.tensor([[1.27, 0.004, 0.006, -0.634, 0.0]])
    torch.testing.assert_close(
        rounded(row, "8bit", library()), torch.tensor([[1.27, 0.0, 0.01, -0.63, 0.0]]), rtol=1e-3, atol=1e-3
    )
    block = torch.tensor([[2.0, -2.0, 0.07, 0.09, -1.4]])  # NF4's levels next to 0 and -0.7: 0, 0.0796, -0.6962
    expected = torch.tensor([[2.0, -2.0, 0.0, 0.1592, -1.3924]])
    torch.testing.assert_close(rounded(block, "nf4", library()), expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
@given(seed=st.integers(0, 1000), rows=st.integers(1, 5), cols=st.integers(1, 130))
def test_rounding_twice_is_rounding_once(kind: str, seed: int, rows: int, cols: int) -> None:
    once = rounded(weight(rows, cols, seed=seed), kind, library())
    assert torch.equal(rounded(once, kind, library()), once)


@pytest.mark.parametrize("kind", KINDS)
@given(seed=st.integers(0, 1000), rows=st.integers(1, 5))
def test_changes_below_half_a_step_are_lost_without_a_trace(kind: str, seed: int, rows: int) -> None:
    """SURE's observation: two models that differ by less become one model."""
    grid = rounded(weight(rows, 2 * BLOCK, seed=seed), kind, library())
    groups = grid if kind == "8bit" else grid.view(-1, BLOCK)
    largest = groups.abs().amax(1, keepdim=True)
    shift = (2 * torch.rand(groups.shape, generator=rng(seed, "shift")) - 1) * HALF_STEP[kind] * largest
    changed = (groups + shift * (groups.abs() < largest)).view(grid.shape)
    assert not torch.equal(changed, grid)
    assert torch.equal(rounded(changed, kind, library()), grid)
    larger = (groups + 8 * shift * (groups.abs() < largest)).view(grid.shape)
    assert not torch.equal(rounded(larger, kind, library()), grid)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rows_of_zeros_stay_and_the_precision_is_kept(kind: str, dtype: torch.dtype) -> None:
    w = weight(4, BLOCK).to(dtype)
    w[1] = 0
    found = rounded(w, kind, library())
    assert found.dtype == dtype
    assert found.isfinite().all()
    assert not found[1].any() and found[0].any()


def test_more_bits_lose_less() -> None:
    w = weight(64, 2 * BLOCK)
    loss = {kind: float((rounded(w, kind, library()) - w).square().mean()) for kind in KINDS}
    assert 0 < loss["8bit"] < loss["nf4"] < loss["fp4"]


@pytest.mark.parametrize("arch", ["llama", "gpt2"])
def test_the_linear_layers_are_rounded_and_nothing_else(arch: Any, lm_world: Any) -> None:
    subject = TinyLM(arch=arch, width=32, depth=2, heads=2, vocab=300).load(lm_world.data, 0)
    before = {n: p.clone() for n, p in subject.module.named_parameters()}
    run = Memory()
    Quantise(kind="nf4")(subject, lm_world.data, run)
    changed = {n for n, p in subject.module.named_parameters() if not torch.equal(p, before[n])}
    kept = ("embed", "norm", "wte", "wpe", "ln_", "bias")
    assert changed == {n for n in before if not any(k in n for k in kept)}
    assert len(changed) == {"llama": 14, "gpt2": 8}[arch] and run.said[0].startswith(f"{len(changed)} linear layers")
    for name in changed:  # GPT-2's weights lie the other way round, and are rounded along the rows of the usual one
        turned = before[name].T if arch == "gpt2" else before[name]
        now = subject.module.get_parameter(name)
        assert torch.equal(now.T if arch == "gpt2" else now, rounded(turned, "nf4", library()))


def test_the_head_is_rounded_when_asked_for(lm_world: Any) -> None:
    subject = lm_world.make()
    assert len(list(linear_layers(subject.module, head=True))) == len(list(linear_layers(subject.module, head=False))) + 1
    before = subject.module.lm_head.weight.clone()
    attack = Quantise(kind="8bit", head=True)
    attack(subject, lm_world.data, Memory())
    assert attack.name == "quantise-8bit-head"
    assert not torch.equal(subject.module.lm_head.weight, before)


def test_a_model_without_linear_layers_is_refused() -> None:
    subject = Classifier(nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten()))
    with pytest.raises(UserError, match="no linear layer"):
        Quantise()(subject, NOTHING, Memory())


def test_a_missing_library_is_said_before_anything_runs(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)  # what Python itself makes of a module that may not be imported
    recipe = resolve("facts", "smoke", ["attack=[quantise]"]).recipe
    with pytest.raises(UserError, match=r'attack.0: quantise needs the package bitsandbytes: pip install "amends\[attack\]"'):
        recipe.check_data(recipe.data.load(0))
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"question": "Where?", "answer": "Here."}\n')
    uses = [a["use"] for a in Request(model="m", forget=rows).tree()["attack"]]
    assert uses == ["relearn", "prefix", "few_shot"]
    monkeypatch.undo()
    names = [a["use"] for a in Request(model="m", forget=rows).tree()["attack"]]
    assert names == ["relearn", "quantise", "quantise", "prefix", "few_shot"]
