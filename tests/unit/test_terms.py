"""Every term's equation, worked by hand on rows of known likelihood, with its limits and its gradient."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from amends.core.protocols import Need
from amends.core.types import Batch, Likelihood, Mean
from amends.subjects.distributions import Categorical, Gaussian
from amends.terms.ascent import Ascent
from amends.terms.dpo import DPO
from amends.terms.idk import Idk
from amends.terms.kl import KL
from amends.terms.nll import NLL
from amends.terms.npo import NPO
from amends.terms.simnpo import SimNPO

NLL_B = (2.0, 6.0, 30.0)
REF_B = (1.0, 6.0, 10.0)
N_B = (2, 3, 40)


@dataclass(frozen=True)
class Given:
    """A view of rows whose likelihoods are simply given."""

    policy: Likelihood
    reference: Any = None
    alternative: Any = None

    @property
    def batch(self) -> Batch:
        return Batch(tuple("abc"), {})


def like(nll: Any, n: Any = N_B) -> Likelihood:
    nll_B = nll if isinstance(nll, Tensor) else torch.tensor(nll, dtype=torch.float64)
    return Likelihood(nll_B, torch.tensor(n))


def leaf(nll: Any = NLL_B) -> Tensor:
    return torch.tensor(nll, dtype=torch.float64, requires_grad=True)


def totals(mean: Mean) -> list[float]:
    return mean.total_B.tolist()


def grad(term: Any, nll_B: Tensor, reference: Likelihood | None = None, n: Any = N_B) -> Tensor:
    """d(sum of totals)/d(nll of each row)."""
    total = term(Given(like(nll_B, n), reference)).total_B.sum()
    return torch.autograd.grad(total, nll_B)[0]


# ---------------------------------------------------------------------- cross-entropy and ascent


def test_nll_over_tokens_divides_all_nats_by_all_tokens() -> None:
    mean = NLL()(Given(like(NLL_B)))
    assert totals(mean) == [2, 6, 30]
    assert mean.count_B.tolist() == [2, 3, 40]
    assert float(mean.value) == pytest.approx(38 / 45)


def test_nll_over_rows_counts_each_rows_own_mean_once() -> None:
    mean = NLL(per="row")(Given(like(NLL_B)))
    assert totals(mean) == [1, 2, 0.75]
    assert float(mean.value) == pytest.approx(3.75 / 3)


@pytest.mark.parametrize("per", ["token", "row"])
def test_ascent_without_cap_is_minus_nll(per: str) -> None:
    view = Given(like(NLL_B))
    assert totals(Ascent(per=per)(view)) == [-x for x in totals(NLL(per=per)(view))]
    assert Ascent(per=per)(view).count_B.tolist() == NLL(per=per)(view).count_B.tolist()


def test_the_cap_of_ascent_leaves_rows_above_it_alone_and_keeps_the_divisor() -> None:
    nll_B = leaf()  # mean nats a token: 1, 2, 0.75
    mean = Ascent(cap=1.5)(Given(like(nll_B)))
    assert totals(mean) == [-2, 0, -30]
    assert mean.count_B.tolist() == [2, 3, 40]
    assert torch.autograd.grad(mean.total_B.sum(), nll_B)[0].tolist() == [-1, 0, -1]


def test_the_cap_of_ascent_also_leaves_an_impossible_row_alone() -> None:
    mean = Ascent(cap=5.0)(Given(like((2.0, math.inf, 30.0))))
    assert totals(mean) == [-2, 0, -30]


def test_idk_is_the_cross_entropy_of_the_alternative_over_its_own_tokens() -> None:
    view = Given(like(NLL_B), alternative=Given(like((4.0, 5.0, 6.0), (4, 4, 2))))
    assert totals(Idk()(view)) == [4, 5, 6]
    assert Idk()(view).count_B.tolist() == [4, 4, 2]
    assert totals(Idk(per="row")(view)) == [1, 1.25, 3]


# ---------------------------------------------------------------------- NPO


def test_npo_by_hand() -> None:
    """(2/beta) ln(1 + (p/p_ref)^beta), p/p_ref = exp(ref_nll - nll) = e^-1, 1, e^-20."""
    beta = 0.5
    expected = [2 / beta * math.log1p(math.exp(beta * d)) for d in (-1, 0, -20)]
    mean = NPO(beta=beta)(Given(like(NLL_B), like(REF_B)))
    assert totals(mean) == pytest.approx(expected, rel=1e-12)
    assert mean.count_B.tolist() == [1, 1, 1]


def test_npo_asks_for_the_start_models_prediction_only_where_it_looks_at_it() -> None:
    assert NPO().needs == NPO(inside="mean").needs == {Need.REFERENCE}
    assert NPO(inside="logits").needs == {Need.REFERENCE_DIST, Need.CLASSES}


@pytest.mark.parametrize("inside", ["sum", "mean"])
def test_npo_at_the_reference_is_two_over_beta_ln_two(inside: str) -> None:
    mean = NPO(beta=0.1, inside=inside)(Given(like(NLL_B), like(NLL_B)))
    assert totals(mean) == pytest.approx([20 * math.log(2)] * 3, rel=1e-12)
    assert totals(mean)[0] == pytest.approx(13.8629, abs=1e-4)


def test_npo_gradient_at_the_reference_is_ascent_in_its_sum_form() -> None:
    """d/d(log p) = +1 for every row, whatever its length: descending it lowers the SUMMED log-likelihood."""
    nll_B = leaf()
    assert grad(NPO(beta=0.1), nll_B, like(NLL_B)).tolist() == pytest.approx([-1, -1, -1], rel=1e-12)


def test_npo_weight_falls_from_one_to_zero_as_a_row_is_forgotten() -> None:
    """The gradient weight is 2 p^beta / (p^beta + p_ref^beta)."""
    beta, nll_B = 0.1, leaf((1.0, 31.0, 401.0))
    weights = -grad(NPO(beta=beta), nll_B, like((1.0, 1.0, 1.0)))
    expected = [2 * math.exp(-beta * d) / (math.exp(-beta * d) + 1) for d in (0, 30, 400)]
    assert weights.tolist() == pytest.approx(expected, rel=1e-9)
    assert weights[2] < 1e-15


def test_npo_for_small_beta_is_ascent_everywhere() -> None:
    """Value: (2/beta) ln 2 - (nll - ref) as beta -> 0; gradient: -1."""
    beta, nll_B = 1e-7, leaf()
    assert grad(NPO(beta=beta), nll_B, like(REF_B)).tolist() == pytest.approx([-1, -1, -1], abs=1e-5)
    shifted = NPO(beta=beta)(Given(like(NLL_B), like(REF_B))).total_B - 2 / beta * math.log(2)
    assert shifted.tolist() == pytest.approx([-1, 0, -20], abs=1e-4)


def test_npo_with_the_mean_inside_divides_the_ratio_by_each_rows_tokens() -> None:
    beta = 0.5
    mean = NPO(beta=beta, inside="mean")(Given(like(NLL_B), like(REF_B)))
    expected = [2 / beta * math.log1p(math.exp(beta * d)) for d in (-1 / 2, 0, -20 / 40)]
    assert totals(mean) == pytest.approx(expected, rel=1e-12)


def test_npo_and_simnpo_are_bounded_below_where_ascent_is_not() -> None:
    hopeless = like((1e4, 1e6, 1e8))
    for term in (NPO(), NPO(inside="mean"), SimNPO(), SimNPO(delta=1.0)):
        total_B = term(Given(hopeless, like(REF_B))).total_B
        assert bool((total_B >= 0).all()) and bool(total_B.isfinite().all())
    assert float(NPO()(Given(hopeless, like(REF_B))).value) == pytest.approx(0, abs=1e-12)
    assert float(Ascent()(Given(hopeless)).value) < -1e4


# ---------------------------------------------------------------------- SimNPO


def test_simnpo_by_hand() -> None:
    """(2/beta) ln(1 + exp(-beta (nll/n - delta))) with nll/n = 1, 2, 0.75."""
    beta, delta = 2.5, 0.5
    expected = [2 / beta * math.log1p(math.exp(-beta * (m - delta))) for m in (1, 2, 0.75)]
    assert totals(SimNPO(beta=beta, delta=delta)(Given(like(NLL_B)))) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("beta", [0.1, 2.5, 4.5])
def test_simnpo_weight(beta: float) -> None:
    """2 p^b / (1 + p^b) / |y| with p = exp(-nll/|y|): short and easy answers are pushed harder."""
    nll_B = leaf()
    p = [math.exp(-m) for m in (1, 2, 0.75)]
    expected = [2 * q**beta / (1 + q**beta) / n for q, n in zip(p, N_B, strict=True)]
    assert (-grad(SimNPO(beta=beta), nll_B)).tolist() == pytest.approx(expected, rel=1e-12)


def test_simnpo_for_small_beta_is_length_normalised_ascent() -> None:
    weights = -grad(SimNPO(beta=1e-7), leaf())
    assert weights.tolist() == pytest.approx([1 / n for n in N_B], rel=1e-6)


def test_simnpo_margin_is_the_papers_gamma_over_beta() -> None:
    """-(2/b) log sigma(-(b/|y|) log p - gamma) with gamma = beta * delta."""
    beta, gamma = 4.5, 0.9
    argument = beta * torch.tensor([1, 2, 0.75], dtype=torch.float64) - gamma
    expected = -2 / beta * torch.nn.functional.logsigmoid(argument)
    for margin in ({"delta": gamma / beta}, {"gamma": gamma}, {"delta": gamma / beta / 2, "gamma": gamma / 2}):
        mean = SimNPO(beta=beta, **margin)(Given(like(NLL_B)))
        assert totals(mean) == pytest.approx(expected.tolist(), rel=1e-12)


# ---------------------------------------------------------------------- DPO


def with_refusal(policy: Any = NLL_B, refusal: Any = (7.0, 8.0, 9.0)) -> Given:
    return Given(like(policy), like(REF_B), Given(like(refusal, (4, 4, 4)), like((9.0, 8.0, 5.0), (4, 4, 4))))


def test_dpo_by_hand() -> None:
    """The refusal's gain in nats: 2, 0, -4; the answer's: -1, 0, -20."""
    beta = 0.3
    margins = [2 - -1, 0 - 0, -4 - -20]
    expected = [2 / beta * math.log1p(math.exp(-beta * m)) for m in margins]
    assert totals(DPO(beta=beta)(with_refusal())) == pytest.approx(expected, rel=1e-12)


def test_dpo_at_the_reference_is_two_over_beta_ln_two() -> None:
    view = Given(like(REF_B), like(REF_B), Given(like((9.0, 8.0, 5.0)), like((9.0, 8.0, 5.0))))
    assert totals(DPO(beta=0.1)(view)) == pytest.approx([13.862943611198906] * 3, rel=1e-12)
    assert totals(DPO(beta=0.1, scale="one")(view)) == pytest.approx([math.log(2)] * 3, rel=1e-12)


def test_dpo_with_scale_one_is_beta_over_two_times_the_other() -> None:
    beta = 0.1
    ours, tofus = DPO(beta=beta)(with_refusal()), DPO(beta=beta, scale="one")(with_refusal())
    assert totals(tofus) == pytest.approx([beta / 2 * x for x in totals(ours)], rel=1e-12)


def test_dpo_gradient_at_the_reference_pushes_answer_down_and_refusal_up_by_one() -> None:
    answer_B, refusal_B = leaf(REF_B), leaf((9.0, 8.0, 5.0))
    view = Given(like(answer_B), like(REF_B), Given(like(refusal_B), like((9.0, 8.0, 5.0))))
    down, up = torch.autograd.grad(DPO()(view).total_B.sum(), (answer_B, refusal_B))
    assert down.tolist() == pytest.approx([-1, -1, -1])
    assert up.tolist() == pytest.approx([1, 1, 1])


# ---------------------------------------------------------------------- KL


def categorical(logits: Tensor) -> Likelihood:
    """Two rows: terms 0 and 1 belong to row 0, term 2 to row 1."""
    return Likelihood(
        torch.zeros(2), torch.tensor([2, 1]), Categorical(logits, torch.zeros(3, dtype=torch.long), torch.tensor([0, 0, 1]))
    )


def test_kl_by_hand_goes_from_the_reference_to_the_policy() -> None:
    """p = (3/4, 1/4), q = (1/2, 1/2): KL(p||q) = ln 2 - H(p); term 1 agrees, so row 0 has the sum of one and nought."""
    start, mine = torch.log(torch.tensor([[3.0, 1], [1, 1], [1, 3]])), torch.zeros(3, 2)
    expected = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)
    mean = KL()(Given(categorical(mine), categorical(start)))
    assert totals(mean) == pytest.approx([expected, expected], rel=1e-5)
    assert mean.count_B.tolist() == [2, 1]
    backwards = KL()(Given(categorical(start), categorical(mine)))
    assert totals(backwards)[0] == pytest.approx(0.5 * math.log(2 / 3) + 0.5 * math.log(2), rel=1e-5)


def test_kl_is_zero_with_zero_gradient_at_the_reference() -> None:
    logits = torch.tensor([[0.3, -2.0, 1.0], [4.0, 4.0, 0.0], [0.0, 0.1, 0.2]], dtype=torch.float64, requires_grad=True)
    total = KL()(Given(categorical(logits), categorical(logits.detach().clone()))).total_B.sum()
    assert float(total.detach()) == pytest.approx(0, abs=1e-12)
    assert torch.autograd.grad(total, logits)[0].abs().max() < 1e-7


def test_kl_of_gaussians_is_half_the_weighted_mean_squared_distance() -> None:
    def at(mean: float) -> Likelihood:
        dist = Gaussian(torch.full((2, 1, 3, 3), mean), torch.zeros(2, 1, 3, 3), torch.tensor([2.0, 4.0]))
        return Likelihood(torch.zeros(2), torch.ones(2), dist)

    assert totals(KL()(Given(at(0.5), at(2.0)))) == pytest.approx([2.25, 4.5])
    assert totals(KL()(Given(at(2.0), at(2.0)))) == [0, 0]


# ---------------------------------------------------------------------- gradients

SCALAR_TERMS = [
    NLL(), NLL(per="row"), Ascent(), Ascent(cap=1.5), NPO(), NPO(beta=0.7, inside="mean"), SimNPO(),
    SimNPO(beta=2.5, delta=0.5), SimNPO(gamma=0.9), DPO(beta=0.3), DPO(beta=0.3, scale="one"),
]  # fmt: skip


@pytest.mark.parametrize("term", SCALAR_TERMS, ids=repr)
def test_gradient_agrees_with_finite_differences(term: Any) -> None:
    def total(nll_B: Tensor) -> Tensor:
        other = Given(like((7.0, 8.0, 9.0)), like((9.0, 8.0, 5.0)))
        return term(Given(like(nll_B), like(REF_B), other)).total_B.sum()

    assert torch.autograd.gradcheck(total, (leaf(),), eps=1e-6, atol=1e-7, rtol=1e-5)


def test_kl_gradient_agrees_with_finite_differences() -> None:
    start = categorical(torch.tensor([[0.3, -2.0, 1.0], [4.0, 4.0, 0.0], [0.0, 0.1, 0.2]], dtype=torch.float64))

    def total(logits: Tensor) -> Tensor:
        return KL()(Given(categorical(logits), start)).total_B.sum()

    logits = torch.tensor([[1.0, 0.0, 0.5], [0.0, 2.0, 1.0], [-1.0, 0.0, 1.0]], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(total, (logits,), eps=1e-6, atol=1e-7, rtol=1e-5)
