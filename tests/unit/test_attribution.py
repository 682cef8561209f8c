"""Attributions by their formulas: by hand on a model of two weights, against plain autograd, in limits and invariances."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from amends.attribution.gradients import gradients, in_batches, mean_square, parts, rows_of
from amends.attribution.magnitude import Magnitude
from amends.attribution.random import Random
from amends.attribution.saliency import Saliency
from amends.attribution.wagle import Wagle
from amends.attribution.wanda import Wanda
from amends.core import catalog
from amends.core.context import Memory
from amends.core.errors import UserError
from amends.core.protocols import Attribution, Start
from amends.core.types import Sample
from amends.data.bundle import Bundle
from amends.subjects.classifier import Classifier
from amends.subjects.tiny import TinyLM

NAMES = [entry.name for entry in catalog.list_kind("attributions")]
OF_CLASSIFIERS = {"synflow"}
"""They need images and a prediction over classes."""


def params_of(subject: Any) -> dict[str, Tensor]:
    return dict(subject.module.named_parameters())


def start_of(world: Any, seed: int = 0) -> Start:
    return Start(world.make(seed), world.data, Memory())


def scored(attribution: Any, start: Start) -> dict[str, Tensor]:
    """Every score, kept: a yielded tensor may be written over later."""
    return {name: score.clone() for name, score in attribution.scores(params_of(start.subject), start)}


def plain_gradient(start: Start, role: str, rows: Any = None) -> dict[str, Tensor]:
    """Of the mean over all terms, row by row, without any of the library's batching."""
    subject = start.subject
    samples = list(start.data[role]) if rows is None else rows
    batches = [b.take([i]) for b in in_batches(start, samples, 8, role) for i in range(len(b))]
    total, count = sum(subject.likelihood(b).nll_B.sum() for b in batches), sum(int(subject.count(b).sum()) for b in batches)
    found = torch.autograd.grad(total / count, list(params_of(subject).values()))
    return dict(zip(params_of(subject), found, strict=True))


# ---------------------------------------------------------------------- two weights, by hand


class Two(nn.Module):
    """Logits (a x, b x) of a one-pixel image x."""

    def __init__(self, a: float, b: float) -> None:
        super().__init__()
        self.a, self.b = nn.Parameter(torch.tensor([a])), nn.Parameter(torch.tensor([b]))

    def forward(self, image: Tensor) -> Tensor:
        x = image.reshape(-1)
        return torch.stack([self.a * x, self.b * x], 1)


def image(role: str, x: float, label: int, number: int = 0) -> Sample:
    return Sample(f"{role}-{number}", {"image": torch.full((1, 1, 1), x), "label": label})


def two(forget: list[Sample], retain: list[Sample], **alternatives: Sample) -> Start:
    data = Bundle({"forget": tuple(forget), "retain": tuple(retain)}, alternatives)
    return Start(Classifier(Two(1.0, 1.0)), data, Memory())


@pytest.mark.parametrize("passes", [1, 2])
def test_the_score_of_two_weights_is_the_papers_formula(passes: int) -> None:
    """With a = b both classes have p = 1/2. d l / d a = x (p_0 - [label 0]), d l / d b = x (p_1 - [label 1]).

    Forget x = 2, label 0: g_f = (-1, 1). Retain x = 1, label 1: g_r = (0.5, -0.5). gamma 0.25: S_a = -1 (1 - 2) = 1,
    S_b = 1 (1 + 2) = 3.
    """
    start = two([image("forget", 2.0, 0)], [image("retain", 1.0, 1)])
    found = scored(Wagle(gamma=0.25, passes=passes), start)  # type: ignore[arg-type]
    assert (found["a"].item(), found["b"].item()) == (1.0, 3.0)


def test_on_the_alternative_the_forget_gradient_is_that_of_the_other_label() -> None:
    """g_f = (1, -1), so S_a = 1 (1 - 2) and S_b = -1 (1 + 2): on these two labels the sizes are the same, so x is 4 there."""
    start = two([image("forget", 2.0, 0)], [image("retain", 1.0, 1)], **{"forget-0": image("other", 4.0, 1)})
    found = scored(Wagle(gamma=0.25, on="alternative", passes=1), start)
    assert (found["a"].item(), found["b"].item()) == (2.0, 6.0)


def test_the_fisher_constant_is_the_mean_of_squares_and_not_the_square_of_the_sum() -> None:
    """Two batches of one row: g = (0.5, -0.5) and (-1.5, 1.5), so the mean of squares is (0.25 + 2.25) / 2 = 1.25.

    Squares of the sum, which is what a counter reset inside the loop leaves, would be 1; of the mean, 0.25.
    """
    start = two([image("forget", 2.0, 0)] * 2, [image("retain", 1.0, 1), image("retain", 3.0, 0, 1)])
    batches = in_batches(start, rows_of(start, "retain", None), 1, "retain")
    assert mean_square(start, batches, params_of(start.subject)) == pytest.approx(1.25)
    mean_gradient = -0.5  # of weight a; S_a = g_f (1 - mean / 1.25) = -1 (1 + 0.4)
    found = scored(Wagle(gamma="fisher", batch=1, passes=1), start)
    assert found["a"].item() == pytest.approx(abs(-1 * (1 - mean_gradient / 1.25)))


def test_a_sum_over_batches_is_the_mean_with_gamma_divided_by_their_number() -> None:
    """As far as g_r is concerned; g_f is as many times larger, which leaves the order as it is."""
    retain = [image("retain", 1.0 + i, i % 2, i) for i in range(4)]
    start = two([image("forget", 2.0 + i, 0, i) for i in range(4)], retain)
    summed = scored(Wagle(gamma=0.5, sums="sum", batch=1, passes=1), start)
    mean = scored(Wagle(gamma=0.5 / 4, batch=1, passes=1), start)
    for name in ("a", "b"):
        torch.testing.assert_close(summed[name], 4 * mean[name])


def test_a_retain_loss_without_gradient_gives_no_fisher_constant() -> None:
    start = two([image("forget", 2.0, 0)], [image("retain", 0.0, 1)])
    with pytest.raises(UserError, match="the loss of 'retain' has no gradient, so the Fisher gamma is 0: give a number"):
        scored(Wagle(gamma="fisher"), start)


# ---------------------------------------------------------------------- on every kind of subject


@pytest.mark.parametrize("name", NAMES)
def test_an_attribution_is_one_and_scores_every_weight_once_or_says_which(world: Any, name: str) -> None:
    attribution = catalog.find("attributions", name, "by").load()()
    assert isinstance(attribution, Attribution)
    start = start_of(world)
    if name in OF_CLASSIFIERS and world.kind != "classifier":
        with pytest.raises(UserError, match="has no images|over words or classes"):
            scored(attribution, start)
        return
    params, found = params_of(start.subject), scored(attribution, start)
    assert list(found) == [n for n in params if n in found]
    assert set(found) == set(params) if name != "wanda" else set(found) < set(params)
    for n, score in found.items():
        assert score.shape == params[n].shape
        assert score.isfinite().all() and (score >= 0).all()
    again = scored(attribution, start_of(world))
    assert all(torch.equal(found[n], again[n]) for n in found)


def test_every_attribution_was_found() -> None:
    assert NAMES == ["magnitude", "random", "saliency", "synflow", "wagle", "wanda"]


@pytest.mark.parametrize("name", NAMES)
def test_scoring_leaves_the_subject_as_it_was(world: Any, name: str) -> None:
    """Weights, their identity and order, gradients, flags and modes; in training, dropout and statistics stay out."""
    if name in OF_CLASSIFIERS and world.kind != "classifier":
        return
    start = start_of(world)
    module = start.subject.module
    start.subject.call.train()
    frozen = next(iter(params_of(start.subject)))
    params_of(start.subject)[frozen].requires_grad_(False)
    for p in module.parameters():
        p.grad = torch.ones_like(p) if p.requires_grad else None
    before = [(n, p, p.detach().clone(), p.grad, p.requires_grad) for n, p in module.named_parameters()]
    sparse = [m.sparse for m in module.modules() if isinstance(m, nn.Embedding)]
    scored(catalog.find("attributions", name, "by").load()(), start)
    after = [(n, p, p.grad, p.requires_grad) for n, p in module.named_parameters()]
    assert len(before) == len(after)
    for (n, p, value, gradient, required), (m, q, now, flag) in zip(before, after, strict=True):
        assert (n, required) == (m, flag) and p is q and gradient is now
        assert torch.equal(p, value)
    assert [m.sparse for m in module.modules() if isinstance(m, nn.Embedding)] == sparse
    assert start.subject.call.training
    assert not any(m._forward_pre_hooks or m._forward_hooks for m in module.modules())


@pytest.mark.parametrize(("passes", "near"), [(1, 1e-3), (2, 6e-3)])
def test_wagle_is_its_formula_over_plain_gradients(world: Any, passes: int, near: float) -> None:
    """A weight that is used twice (embedding and output head) has one gradient, of both uses."""
    start, gamma = start_of(world), 0.02
    of_forget, of_retain = plain_gradient(start, "forget"), plain_gradient(start, "retain")
    found = scored(Wagle(gamma=gamma, passes=passes, batch=5), start)  # type: ignore[arg-type]
    if world.kind == "denoiser":  # noise is drawn by batch
        assert set(found) == set(of_forget)
        return
    for name, p in params_of(start.subject).items():
        expected = (of_forget[name] * (p.detach() - of_retain[name] / gamma)).abs()
        torch.testing.assert_close(found[name], expected, rtol=near, atol=1e-7)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("arch", ["llama", "gpt2"])
def test_gradients_are_those_of_autograd(lm_world: Any, arch: str, tied: bool) -> None:
    subject = TinyLM(width=32, depth=2, heads=2, vocab=300, arch=arch).load(lm_world.data, 0)  # type: ignore[arg-type]
    if not tied:
        head = subject.module.get_output_embeddings()
        head.weight = nn.Parameter(head.weight.detach() * 1.5)
    start = Start(subject, lm_world.data, Memory())
    expected = plain_gradient(start, "forget")
    for part in (params_of(subject), *parts(params_of(subject), 2)):
        found = gradients(start, in_batches(start, lm_world.data["forget"], 5, "forget"), part)
        assert list(found) == list(part)
        for name, gradient in found.items():
            torch.testing.assert_close(gradient, expected[name], rtol=1e-3, atol=1e-6)


def test_the_fisher_constant_squares_the_whole_gradient_of_a_tied_weight(lm_world: Any) -> None:
    """And not the gradients of its two uses apart."""
    start = start_of(lm_world)
    batches = in_batches(start, lm_world.data["retain"], 4, "retain")
    params = params_of(start.subject)
    squares = 0.0
    for batch in batches:
        like = start.subject.likelihood(batch)
        found = torch.autograd.grad(like.nll_B.sum() / like.n_B.sum(), list(params.values()))
        squares += sum(float(g.double().square().sum()) for g in found) / len(batches)
    assert len(batches) == 3
    assert mean_square(start, batches, params) == pytest.approx(squares / sum(p.numel() for p in params.values()), rel=1e-4)


@pytest.mark.parametrize("batch", [1, 3, 12])
def test_batch_size_and_padding_do_not_matter(lm_world: Any, batch: int) -> None:
    one, other = (scored(Wagle(gamma=0.02, batch=b, passes=1), start_of(lm_world)) for b in (5, batch))
    for name in one:
        torch.testing.assert_close(one[name], other[name], rtol=2e-3, atol=1e-7)


@pytest.mark.parametrize("sums", ["mean", "sum"])
def test_how_many_rows_go_through_the_model_at_once_does_not_matter(lm_world: Any, sums: Any) -> None:
    """One at a time by default, so that no more than one row's activations are held."""
    start = start_of(lm_world)
    seen: list[int] = []
    start.subject.module.register_forward_hook(
        lambda _, args, kwargs, __: seen.append(len(kwargs["input_ids"])), with_kwargs=True
    )
    wagle = {"gamma": 0.02, "batch": 6, "sums": sums, "passes": 1}
    one, whole = (scored(Wagle(**wagle, **micro), start) for micro in ({}, {"micro": 6}))
    assert set(seen[: seen.index(6)]) == {1} and sum(seen) == 2 * seen.index(6)
    for name in one:
        torch.testing.assert_close(one[name], whole[name], rtol=2e-3, atol=1e-7)


def test_the_two_passes_hold_half_of_the_weights_each(lm_world: Any) -> None:
    params = params_of(TinyLM(width=16, depth=6, heads=2, vocab=300).load(lm_world.data, 0))
    lower, upper = parts(params, 2)
    assert [*lower, *upper] == list(params)
    sizes = [sum(p.numel() for p in part.values()) for part in (lower, upper)]
    assert min(sizes) > 0.4 * sum(sizes)
    assert parts({"w": torch.zeros(3)}, 2) == [{"w": pytest.approx(torch.zeros(3))}]


def test_the_upper_part_is_scored_without_a_backward_pass_through_the_lower(lm_world: Any) -> None:
    start = start_of(lm_world)
    seen: list[bool] = []
    hook = start.subject.module.model.layers[0].register_forward_hook(lambda _, __, out: seen.append(out.requires_grad))
    upper = {n: p for n, p in params_of(start.subject).items() if "layers.1." in n}
    gradients(start, in_batches(start, lm_world.data["forget"], 6, "forget"), upper)
    hook.remove()
    assert seen and not any(seen)


def test_a_large_gamma_leaves_snip(lm_world: Any) -> None:
    snip, wagle = scored(Saliency(), start_of(lm_world)), scored(Wagle(gamma=1e30, passes=1), start_of(lm_world))
    plain = scored(Saliency(score="gradient"), start_of(lm_world))
    for name, p in params_of(start_of(lm_world).subject).items():
        torch.testing.assert_close(wagle[name], snip[name])
        torch.testing.assert_close(snip[name], plain[name] * p.detach().abs())


def test_a_small_gamma_leaves_the_product_of_the_two_gradients(lm_world: Any) -> None:
    start = start_of(lm_world)
    of_forget, of_retain = plain_gradient(start, "forget"), plain_gradient(start, "retain")
    found = scored(Wagle(gamma=1e-12, passes=1), start)
    for name, score in found.items():
        torch.testing.assert_close(score * 1e-12, (of_forget[name] * of_retain[name]).abs(), rtol=1e-3, atol=1e-7)


def test_gradients_of_a_bf16_model_are_added_up_in_float32(classifier_world: Any) -> None:
    """256 batches of one row that all have the gradient g: bfloat16 stops growing where g is less than half a step."""
    rows = [replace(classifier_world.data["forget"][0], id=f"row-{i}") for i in range(600)]
    subject = classifier_world.make()
    start = Start(subject, Bundle({"forget": tuple(rows)}), Memory())
    once = gradients(start, in_batches(start, rows[:1], 1, "forget"), params_of(subject))
    many = gradients(start, in_batches(start, rows, 1, "forget"), params_of(subject), "sum")
    for name, gradient in many.items():
        assert gradient.dtype is torch.float32
        torch.testing.assert_close(gradient, 600 * once[name], rtol=1e-4, atol=1e-6)
    subject.module.to(torch.bfloat16)
    rows16 = [Sample(s.id, {**s.data, "image": s.data["image"]}) for s in rows]
    batches = [replace(b, tensors={k: v.bfloat16() if k == "image" else v for k, v in b.tensors.items()})
               for b in in_batches(start, rows16, 1, "forget")]  # fmt: skip
    half = gradients(start, batches, params_of(subject), "sum")
    single = gradients(start, batches[:1], params_of(subject), "sum")
    for name, gradient in half.items():
        assert gradient.dtype is torch.float32
        torch.testing.assert_close(gradient, 600 * single[name], rtol=1e-4, atol=1e-6)


# ---------------------------------------------------------------------- rows


def test_as_many_retain_rows_as_forget_rows_are_used(lm_world: Any) -> None:
    """Spread evenly over the role; `rows` limits both."""
    data = lm_world.data.with_role("forget", lm_world.data["forget"][:4])
    by_default = Wagle(gamma=0.02, passes=1)
    every_third = Bundle({"forget": data["forget"], "retain": data["retain"][::3]})
    start = start_of(lm_world)
    one, other = (scored(by_default, replace(start, data=d)) for d in (data, every_third))
    assert all(torch.equal(one[n], other[n]) for n in one)
    two_rows = Bundle({"forget": data["forget"][::2], "retain": data["retain"][::6]})
    limited = scored(Wagle(gamma=0.02, passes=1, rows=2), replace(start, data=data))
    assert all(torch.equal(limited[n], s) for n, s in scored(by_default, replace(start, data=two_rows)).items())


def test_missing_alternatives_and_roles_are_named(lm_world: Any) -> None:
    start = replace(start_of(lm_world), data=Bundle(lm_world.data.roles))
    with pytest.raises(UserError, match="role 'forget': 12 row.s. have no alternative answer .forget-000, ....*refusals"):
        scored(Wagle(on="alternative"), start)
    with pytest.raises(UserError, match="data has no role 'kept'"):
        scored(Wagle(retain="kept"), start)
    with pytest.raises(UserError, match="role 'retain' is empty"):
        scored(Wagle(), replace(start, data=lm_world.data.with_role("retain", ())))


def test_the_alternative_changes_the_score(lm_world: Any) -> None:
    start = start_of(lm_world)
    others = [lm_world.data.alternatives[s.id] for s in lm_world.data["forget"]]
    expected = plain_gradient(start, "forget", others)
    for name, score in scored(Saliency(score="gradient", on="alternative"), start).items():
        torch.testing.assert_close(score, expected[name].abs(), rtol=1e-3, atol=1e-6)


# ---------------------------------------------------------------------- the baselines


def test_magnitude_is_the_size_of_the_weights(world: Any) -> None:
    start = start_of(world)
    assert all(torch.equal(s, params_of(start.subject)[n].abs()) for n, s in scored(Magnitude(), start).items())


def test_random_scores_depend_on_seed_and_name_alone() -> None:
    params = {"a": torch.zeros(1000), "b": torch.zeros(1000)}
    one, same, other = (dict(Random().scores(params, Start(None, Bundle({}), Memory(seed=s)))) for s in (0, 0, 1))
    assert torch.equal(one["a"], same["a"])
    assert not torch.equal(one["a"], other["a"]) and not torch.equal(one["a"], one["b"])
    assert one["a"].min() > 0 and one["a"].max() <= 1
    assert one["a"].mean().item() == pytest.approx(0.5, abs=0.05)


def test_wanda_is_weight_times_the_norm_of_its_input_without_padding(lm_world: Any) -> None:
    """One row at a time has no padding: the squares of a layer's inputs add up over rows."""
    start = start_of(lm_world)
    layer = start.subject.module.model.layers[1].mlp.down_proj
    inputs: list[Tensor] = []
    hook = layer.register_forward_pre_hook(lambda _, args: inputs.append(args[0].detach().reshape(-1, args[0].shape[-1])))
    for sample in lm_world.data["forget"]:
        with torch.no_grad():
            start.subject.likelihood(start.subject.collate([start.subject.encode(sample)]))
    hook.remove()
    norms = torch.cat(inputs).norm(dim=0)
    found = scored(Wanda(), start)
    torch.testing.assert_close(
        found["model.layers.1.mlp.down_proj.weight"], layer.weight.detach().abs() * norms, rtol=1e-4, atol=1e-6
    )
    assert not any("embed" in n or "norm" in n for n in found)
    assert len(found) == 2 * 7
    for size in (1, 12):
        other = scored(Wanda(batch=size), start_of(lm_world))
        assert all(torch.allclose(found[n], other[n], rtol=1e-4) for n in found)


def test_wanda_says_when_there_is_no_linear_layer() -> None:
    with pytest.raises(UserError, match="wanda: none of the weights to score is a linear layer's inside a block"):
        scored(Wanda(), two([image("forget", 1.0, 0)], [image("retain", 1.0, 0)]))


def test_scores_need_no_more_than_a_part_at_a_time(lm_world: Any) -> None:
    """What was yielded is not held on to: its memory goes when the caller lets go of it."""
    import weakref

    start = start_of(lm_world)
    alive = []
    for _, score in Wagle().scores(params_of(start.subject), start):
        alive.append(weakref.ref(score))
        del score
        assert sum(r() is not None for r in alive) <= 1
    assert math.isclose(len(alive), len(params_of(start.subject)))
