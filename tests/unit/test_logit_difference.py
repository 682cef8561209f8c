"""ULD: the combined prediction by hand, one set of weights for both paths, caches, folders, training, and bad inputs."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from uld_world import DEPTH, combined, family, target_of, tokens

from amends.subjects.contrast import log_difference, plausible
from amends.subjects.logit_difference import Assistant, LogitDifferenceConfig, LogitDifferenceForCausalLM

# ---------------------------------------------------------------------- the combined prediction


def test_the_difference_by_hand() -> None:
    """Kept are the words with half of the best one's probability: 0.5 and 0.3, 80 % of the target's."""
    target, assistant = torch.tensor([0.5, 0.3, 0.15, 0.05]).log(), torch.tensor([0.8, 0.1, 0.05, 0.05]).log()
    raw = [0.5 / 0.8, 0.3 / 0.1]
    want = torch.tensor([0.8 * raw[0] / sum(raw), 0.8 * raw[1] / sum(raw), 0.15, 0.05]).log()
    assert torch.allclose(log_difference(target, assistant, 1.0, 0.5), want, atol=1e-6)
    raw = [0.5 / 0.8**0.5, 0.3 / 0.1**0.5]
    assert log_difference(target, assistant, 0.5, 0.5)[1].exp() == pytest.approx(0.8 * raw[1] / sum(raw), rel=1e-5)


def test_the_released_codes_difference_by_hand() -> None:
    """Raw logits inside, the target's outside: only proportions inside are the other's, and a constant moves the whole of S."""
    target, assistant = torch.tensor([0.5, 0.3, 0.15, 0.05]).log(), torch.tensor([0.8, 0.1, 0.05, 0.05]).log()
    for constant in (0.0, 2.0):
        raw = [0.5 / 0.8 * math.exp(-constant), 0.3 / 0.1 * math.exp(-constant), 0.15, 0.05]
        want = torch.tensor([r / sum(raw) for r in raw])
        found = log_difference(target, assistant + constant, 1.0, 0.5, "logits").exp()
        assert torch.allclose(found, want, atol=1e-6)
    ours = log_difference(target, assistant, 1.0, 0.5).exp()
    assert float(found[0] / found[1]) == pytest.approx(float(ours[0] / ours[1]), rel=1e-5)


def test_what_is_subtracted_makes_no_difference_without_a_filter() -> None:
    target, assistant = torch.randn(2, 50, 40, generator=torch.Generator().manual_seed(1)) * 3
    both = [log_difference(target, assistant, 0.75, 0.0, kind) for kind in ("log_probs", "logits")]
    assert torch.allclose(both[0], both[1], atol=1e-5)


def test_the_filter_by_hand() -> None:
    log_p = torch.tensor([0.5, 0.2, 0.1, 0.1, 0.05, 0.05]).log()
    assert plausible(log_p, 0.3).tolist() == [True, True, False, False, False, False]  # within a factor 0.3: 0.5, 0.2
    steep = torch.tensor([0.98, 0.01, 0.004, 0.003, 0.002, 0.001]).log()
    assert plausible(steep, 0.5).tolist() == [True, True, True, False, False, False]  # the three best of six
    assert plausible(log_p, 0.0).all()


@pytest.mark.parametrize("rate", [0.0, 1e-9, 0.01, 0.2, 0.9])
def test_weight_zero_is_the_target_and_every_prediction_sums_to_one(rate: float) -> None:
    target, assistant = torch.randn(2, 50, 40, generator=torch.Generator().manual_seed(1)) * 3
    assert torch.allclose(log_difference(target, assistant, 0.0, rate), target.log_softmax(-1), atol=1e-5)
    for weight in (0.75, 2.0):
        assert torch.allclose(log_difference(target, assistant, weight, rate).exp().sum(-1), torch.ones(50), atol=1e-5)


def test_without_a_filter_it_is_the_normalised_difference() -> None:
    target, assistant = torch.randn(2, 50, 40, generator=torch.Generator().manual_seed(1)) * 3
    want = (target.log_softmax(-1) - 0.75 * assistant.log_softmax(-1)).log_softmax(-1)
    for rate in (0.0, 1e-12):
        assert torch.allclose(log_difference(target, assistant, 0.75, rate), want, atol=1e-5)


def test_a_constant_added_to_either_models_logits_changes_nothing() -> None:
    """Subtracting raw logits inside the filter and nothing outside fails here."""
    target, assistant = torch.randn(2, 50, 40, generator=torch.Generator().manual_seed(2), dtype=torch.float64) * 3
    before = log_difference(target, assistant, 0.75, 0.1)
    shift = torch.linspace(-20, 20, 50, dtype=torch.float64)[:, None]
    assert torch.allclose(log_difference(target, assistant + shift, 0.75, 0.1), before, atol=1e-9)
    assert torch.allclose(log_difference(target - shift, assistant, 0.75, 0.1), before, atol=1e-9)


def test_the_best_word_is_a_plausible_one_even_when_all_scores_are_negative() -> None:
    """The arg-max of scores times a 0/1 mask picks a filtered word in every one of these positions."""
    generator = torch.Generator().manual_seed(5)
    target = torch.randn(300, 40, generator=generator) * 4
    assistant = torch.randn(300, 40, generator=generator) * 0.01
    kept = plausible(target.log_softmax(-1), 0.1)
    scores = target.log_softmax(-1)  # without an assistant to speak of, all are negative
    assert ((scores * kept).argmax(-1) != scores.argmax(-1)).all()
    for weight in (0.0, 0.75, 3.0):
        best = log_difference(target, torch.randn(300, 40, generator=generator) * 4, weight, 0.1).argmax(-1)
        assert kept.gather(-1, best[:, None]).all()
    assert torch.equal(log_difference(target, assistant, 0.75, 0.1).argmax(-1), scores.argmax(-1))


def test_gradients_reach_both_models_and_are_finite() -> None:
    both = torch.randn(2, 20, 30, generator=torch.Generator().manual_seed(6)).mul_(5).requires_grad_(True)
    log_difference(both[0], both[1], 0.75, 0.2)[:, 3].sum().backward()
    assert both.grad is not None
    assert torch.isfinite(both.grad).all()
    assert all(float(g.abs().sum()) > 0 for g in both.grad)


# ---------------------------------------------------------------------- one set of weights, each block as often as needed


@family
def test_the_model_is_its_target_and_its_assistant_combined(family: str) -> None:
    target = target_of(family)
    ids = tokens()
    before = target(ids).logits
    where = {p.data_ptr() for p in target.parameters()}
    num = sum(p.numel() for p in target.parameters())
    model = combined(target)
    adapters = {n: p for n, p in model.named_parameters() if ".lora_" in n}
    assert {p.data_ptr() for n, p in model.named_parameters() if n not in adapters} == where
    assert sum(p.numel() for p in model.parameters()) == num + sum(p.numel() for p in adapters.values())
    assert torch.equal(model.target(ids).logits, before)
    assistant = model.assistant(input_ids=ids).logits
    assert not torch.allclose(assistant, before, atol=1e-2)
    assert torch.equal(model(ids).logits, log_difference(before, assistant, 0.75, 0.01))
    assert torch.equal(model.target(ids).logits, before)  # adapters are off again
    model.config.subtract = "logits"
    assert torch.equal(model(ids).logits, log_difference(before, assistant, 0.75, 0.01, "logits"))


@family
def test_the_assistant_is_the_first_blocks_the_norm_and_the_head(family: str) -> None:
    """With fresh adapters, which change nothing, it is the target cut behind block K; adapters sit on shared..K-1 alone."""
    target = target_of(family)
    config = LogitDifferenceConfig(target_config=target.config, blocks=3, shared=1, rank=4)
    model = LogitDifferenceForCausalLM(config, target).eval()
    short = target_of(family)
    stack = short.transformer if family.startswith("gpt2") else short.model
    key = "h" if family.startswith("gpt2") else "layers"
    setattr(stack, key, getattr(stack, key)[:3])
    short.config.num_hidden_layers = 3
    assert torch.allclose(model.assistant(input_ids=tokens()).logits, short(tokens()).logits, atol=1e-5)
    held = {int(n.split(f".{key}.")[1].split(".")[0]) for n, _ in model.named_parameters() if ".lora_" in n}
    assert held == {1, 2}


def calls_of(model: Any, work: Any) -> list[int]:
    """How often each block of the target runs in a piece of work."""
    counts = [0] * DEPTH

    def count(at: int) -> Any:
        return lambda *_: counts.__setitem__(at, counts[at] + 1)

    hooks = [b.register_forward_hook(count(i)) for i, b in enumerate(model.target.model.layers)]
    work()
    for hook in hooks:
        hook.remove()
    return counts


@pytest.mark.parametrize(("shared", "want"), [(0, [2, 2, 2, 1, 1]), (1, [1, 2, 2, 1, 1]), (2, [1, 1, 2, 1, 1])])
def test_shared_blocks_run_once_and_training_runs_the_assistants_alone(shared: int, want: list[int]) -> None:
    model = combined(target_of("llama, tied"), shared=shared)
    assert calls_of(model, lambda: model(tokens())) == want
    assert calls_of(model, lambda: Assistant(model)(input_ids=tokens())) == [1, 1, 1, 0, 0]
    options = {"max_new_tokens": 2, "min_new_tokens": 2, "do_sample": False}
    assert calls_of(model, lambda: model.generate(tokens(), **options)) == [2 * n for n in want]


@family
@pytest.mark.parametrize("sample", [False, True])
def test_generation_with_a_cache_is_generation_without_one(family: str, sample: bool) -> None:
    """Also for rows of different lengths, padded on the left, and behind Gemma's sliding window of 6."""
    model = combined(target_of(family))
    ids, mask = tokens(3, 9), torch.ones(3, 9, dtype=torch.long)
    mask[0, :5], mask[1, :2] = 0, 0
    options: dict[str, Any] = {"max_new_tokens": 10, "min_new_tokens": 10, "do_sample": sample}
    made = []
    for use_cache in (True, False):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(7)
            made.append(model.generate(ids.where(mask == 1, 1), attention_mask=mask, use_cache=use_cache, **options))
    assert torch.equal(*made)
    if not sample:
        alone = model.generate(ids[:1, 5:], **options)
        assert torch.equal(alone[0, 4:], made[0][0, 9:])


def test_beams_reorder_the_assistants_cache_too() -> None:
    model = combined(target_of("llama, tied"))
    options: dict[str, Any] = {"max_new_tokens": 8, "num_beams": 3, "do_sample": False}
    assert torch.equal(model.generate(tokens(), **options), model.generate(tokens(), use_cache=False, **options))


def test_a_loss_comes_with_labels() -> None:
    model, ids = combined(target_of("llama, tied")), tokens()
    out = model(ids, labels=ids)
    by_hand = -out.logits[:, :-1].gather(-1, ids[:, 1:, None]).mean()
    assert float(out.loss.detach()) == pytest.approx(float(by_hand.detach()), rel=1e-5)
