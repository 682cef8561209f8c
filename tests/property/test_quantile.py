"""The threshold over 16-bit scores against an exact sort, whatever the scores are."""

from __future__ import annotations

import math

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given
from hypothesis.extra.numpy import arrays
from torch import Tensor

from amends.edits import quantile
from amends.edits.quantile import chosen, cut, finite, live, pack, tally

NUMBERS = st.one_of(
    st.just(0.0),
    st.sampled_from([1.0, -1.0, 2.0, 2.0**-100, 2.0**127, 2.0**-140]),
    st.floats(-(2.0**100), 2.0**100, width=32),
)
SCORES = st.lists(
    st.integers(1, 60).flatmap(lambda n: arrays("float32", n, elements=NUMBERS)), min_size=1, max_size=4
).map(lambda found: {f"w{i}": torch.from_numpy(a.copy()) for i, a in enumerate(found)})  # fmt: skip
KEEP = st.floats(0.001, 1.0)


def mask(scores: dict[str, Tensor], keep: float, rank: str = "global") -> dict[str, Tensor]:
    return dict(chosen({n: pack(s) for n, s in scores.items()}, keep, rank))  # type: ignore[arg-type]


def together(tensors: dict[str, Tensor]) -> Tensor:
    return torch.cat([t.reshape(-1) for t in tensors.values()])


@given(SCORES, KEEP)
def test_exactly_the_wanted_number_is_chosen(scores: dict[str, Tensor], keep: float) -> None:
    kept, total = together(mask(scores, keep)), together(scores)
    assert len(kept) == len(total)
    assert int(kept.sum()) == round(keep * len(total))


@given(SCORES, KEEP)
def test_nothing_is_chosen_before_something_that_is_clearly_larger(scores: dict[str, Tensor], keep: float) -> None:
    """An exact sort agrees, up to scores that differ by less than 0.4 per cent."""
    kept, sizes = together(mask(scores, keep)), together(scores).abs().double()
    if kept.any() and not kept.all():
        assert sizes[kept].min() * (1 + 2**-8) + 2**-133 >= sizes[~kept].max()


@given(SCORES, KEEP)
def test_zeros_are_frozen_first(scores: dict[str, Tensor], keep: float) -> None:
    kept, sizes = together(mask(scores, keep)), together(scores).abs()
    if (kept & (sizes == 0)).any():
        assert kept[sizes > 0].all()


@given(SCORES, KEEP)
def test_the_sign_and_the_order_of_tensors_do_not_change_what_is_clearly_larger(scores: dict[str, Tensor], keep: float) -> None:
    assert all(
        torch.equal(a, b) for a, b in zip(mask(scores, keep).values(), mask({n: -s for n, s in scores.items()}, keep).values())
    )
    at = cut(sum(tally(pack(s)) for s in scores.values()), keep)
    turned = mask(dict(reversed(scores.items())), keep)
    for name, kept in mask(scores, keep).items():
        clear = pack(scores[name]) != at.code
        assert torch.equal(kept[clear], turned[name][clear])


@given(SCORES, KEEP)
def test_ranked_within_tensors_each_tensor_keeps_its_own_share(scores: dict[str, Tensor], keep: float) -> None:
    ranked = mask(scores, keep, "tensor")
    for name, score in scores.items():
        assert int(ranked[name].sum()) == round(keep * len(score))
        assert torch.equal(ranked[name], mask({name: score}, keep)[name])


@given(st.integers(1, 500), KEEP)
def test_of_equal_scores_the_chosen_lie_evenly(num: int, keep: float) -> None:
    """Frozen weights of one score are not all in the last layers."""
    kept = mask({"a": torch.full((num,), 0.25), "b": torch.full((num,), -0.25)}, keep)
    for part in kept.values():
        assert abs(int(part.sum()) - keep * num) <= 1.5
    so_far = together(kept).cumsum(0)
    assert (so_far - keep * torch.arange(1, 2 * num + 1)).abs().max() <= 1.5


@given(SCORES)
def test_codes_have_the_order_of_the_sizes(scores: dict[str, Tensor]) -> None:
    sizes = together(scores).abs()
    in_order = pack(sizes)[sizes.argsort()]
    assert (in_order.int().diff() >= 0).all()
    assert torch.equal(live(pack(sizes)), sizes > 0)
    assert finite(pack(sizes))


@pytest.mark.parametrize("bad", [math.inf, -math.inf, math.nan])
def test_what_is_not_finite_is_seen(bad: float) -> None:
    assert not finite(pack(torch.tensor([1.0, bad])))


def test_one_weight_and_the_ends_of_the_range() -> None:
    assert mask({"w": torch.tensor([0.0])}, 1.0)["w"].tolist() == [True]
    assert mask({"w": torch.tensor([5.0])}, 0.4)["w"].tolist() == [False]
    assert mask({"w": torch.tensor([1.0, 2.0])}, 0.5)["w"].tolist() == [False, True]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_scores_of_any_precision_are_ranked(dtype: torch.dtype) -> None:
    assert mask({"w": torch.tensor([[0.5, -4.0], [0.0, 1.0]], dtype=dtype)}, 0.5)["w"].tolist() == [False, True, False, True]


def test_many_scores_of_very_different_sizes_agree_with_the_sort_but_for_a_few_near_the_threshold() -> None:
    """More than one piece long; log-normal over some twenty powers of ten."""
    generator = torch.Generator().manual_seed(0)
    score = torch.randn(2 * quantile._PIECE + 7, generator=generator).mul(5).exp()
    score[: len(score) // 50] = 0
    kept = mask({"a": score[:1000], "b": score[1000:]}, 0.95)
    both = together(kept)
    assert abs(int(both.sum()) / len(score) - 0.95) < 1e-6
    exact = torch.zeros_like(both)
    exact[score.argsort(descending=True)[: round(0.95 * len(score))]] = True
    assert int((exact != both).sum()) < 1e-4 * len(score)
