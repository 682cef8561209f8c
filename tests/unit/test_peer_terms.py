"""The peers' equations by hand, with their limits, and every defect of released code that this library must not have."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from amends.core.errors import UserError
from amends.core.protocols import Need
from amends.core.types import Batch, Hidden, Likelihood, Mean
from amends.subjects.distributions import Categorical, Gaussian, classes, row_sums
from amends.terms.ascent import Ascent
from amends.terms.ceu import CEU
from amends.terms.embed_diff import EmbedDiff
from amends.terms.kl import KL
from amends.terms.logit_flattening import LogitFlattening
from amends.terms.npo import NPO
from amends.terms.rmu import RMU, unit
from amends.terms.satimp import SatImp
from amends.terms.simnpo import SimNPO
from amends.terms.undial import UNDIAL
from amends.terms.wga import WGA

ROW_N = torch.tensor([0, 0, 0, 1])
TRUE_N = torch.tensor([2, 0, 1, 2])
LOGITS = ((0.3, -2.0, 1.0), (4.0, 4.0, 0.0), (0.0, 0.1, 0.2), (-1.0, 0.5, 3.0))
START = ((1.0, 0.0, 0.5), (0.0, 2.0, 1.0), (-1.0, 0.0, 1.0), (2.0, -0.5, 0.0))


@dataclass(frozen=True)
class Seen:
    """A view of two rows, of three and one terms, whose predictions or activations are simply given."""

    policy: Any = None
    reference: Any = None
    inside: Hidden | None = None
    start: Hidden | None = None

    @property
    def batch(self) -> Batch:
        return Batch(("a", "b"), {})

    def hidden(self, at: float) -> Hidden:
        assert self.inside is not None
        return self.inside

    def reference_hidden(self, at: float) -> Hidden:
        assert self.start is not None, "the term did not say that it needs the start model"
        return self.start


def like(logits: Any, row_N: Tensor = ROW_N, true_N: Tensor = TRUE_N) -> Likelihood:
    logits_NV = logits if isinstance(logits, Tensor) else torch.tensor(logits, dtype=torch.float64)
    dist = Categorical(logits_NV, true_N, row_N)
    n_B = torch.bincount(row_N)
    return Likelihood(row_sums(dist.nll(), row_N, len(n_B)), n_B, dist)


def leaf(logits: Any = LOGITS) -> Tensor:
    return torch.tensor(logits, dtype=torch.float64, requires_grad=True)


def totals(mean: Mean) -> list[float]:
    return mean.total_B.tolist()


def grad(term: Any, logits: Tensor, reference: Likelihood | None = None, **rows: Any) -> Tensor:
    """d(sum of totals)/d(logits)."""
    return torch.autograd.grad(term(Seen(like(logits, **rows), reference)).total_B.sum(), logits)[0]


def single(p: float) -> Tensor:
    """One row of one token with probability p, as two logits."""
    return torch.tensor([[torch.logit(torch.tensor(p, dtype=torch.float64)), 0.0]], dtype=torch.float64, requires_grad=True)


ONE = {"row_N": torch.tensor([0]), "true_N": torch.tensor([0])}

# ---------------------------------------------------------------------- a prediction over classes


def test_classes_gives_the_prediction_in_float32_or_wider() -> None:
    assert classes(like(torch.tensor(LOGITS, dtype=torch.bfloat16))).logits_NV.dtype is torch.float32
    assert classes(like(LOGITS)).logits_NV.dtype is torch.float64


ON_LOGITS = [NPO(inside="logits"), SimNPO(inside="logits")]


@pytest.mark.parametrize("term", [UNDIAL(), CEU(), LogitFlattening(), *ON_LOGITS], ids=repr)
def test_a_model_without_words_or_classes_is_refused_in_one_sentence(term: Any) -> None:
    dist = Gaussian(torch.zeros(2, 3), torch.ones(2, 3), torch.ones(2))
    denoised = Likelihood(dist.nll(), torch.ones(2), dist)
    assert Need.CLASSES in term.needs
    with pytest.raises(UserError, match="this model gives a Gaussian: use a term on likelihoods alone"):
        term(Seen(denoised, denoised))


# ---------------------------------------------------------------------- WGA and SatImp


def test_wga_by_hand() -> None:
    """p = softmax; -sum over the row of p^beta * -log p."""
    p_N = torch.softmax(torch.tensor(LOGITS, dtype=torch.float64), 1)[torch.arange(4), TRUE_N]
    each = p_N.pow(0.7) * p_N.log()
    mean = WGA(beta=0.7)(Seen(like(LOGITS)))
    assert totals(mean) == pytest.approx([float(each[:3].sum()), float(each[3])], rel=1e-12)
    assert mean.count_B.tolist() == [3, 1]
    assert float(WGA(beta=0.7, per="row")(Seen(like(LOGITS))).value) == pytest.approx(float(each[:3].mean() + each[3]) / 2)


@pytest.mark.parametrize("term", [WGA(beta=0), SatImp(saturation=0, importance=0)], ids=repr)
def test_without_weights_it_is_ascent(term: Any) -> None:
    assert totals(term(Seen(like(LOGITS)))) == pytest.approx(totals(Ascent()(Seen(like(LOGITS)))), rel=1e-12)
    torch.testing.assert_close(grad(term, leaf()), grad(Ascent(), leaf()))


def test_the_weight_of_wga_is_held_constant() -> None:
    """The gradient is ascent's at each token times p^beta, and nothing of the weight's own slope."""
    weight_N = torch.softmax(torch.tensor(LOGITS, dtype=torch.float64), 1)[torch.arange(4), TRUE_N].pow(1.5)
    torch.testing.assert_close(grad(WGA(beta=1.5), leaf()), weight_N[:, None] * grad(Ascent(), leaf()))


def test_the_weight_of_satimp_is_held_constant() -> None:
    p_N = torch.softmax(torch.tensor(LOGITS, dtype=torch.float64), 1)[torch.arange(4), TRUE_N]
    weight_N = p_N.pow(5) * (1 - p_N)
    torch.testing.assert_close(grad(SatImp(), leaf()), weight_N[:, None] * grad(Ascent(), leaf()))


def test_satimp_without_importance_is_wga() -> None:
    assert totals(SatImp(saturation=2, importance=0)(Seen(like(LOGITS)))) == totals(WGA(beta=2)(Seen(like(LOGITS))))


@pytest.mark.parametrize("term", [WGA(), SatImp()], ids=repr)
def test_a_token_that_is_forgotten_or_certain_has_a_finite_push(term: Any) -> None:
    gone, sure = torch.tensor([[-200.0, 0.0]], requires_grad=True), torch.tensor([[200.0, 0.0]], requires_grad=True)
    assert float(grad(term, gone, **ONE).abs().max()) == 0
    assert grad(term, sure, **ONE).isfinite().all()


@pytest.mark.parametrize("p", [1e-3, 1e-5])
def test_simnpo_of_one_improbable_token_is_twice_wga(p: float) -> None:
    """Its weight is 2 p^beta / (1 + p^beta), WGA's p^beta: the ratio tends to 2 as p falls."""
    ratio = grad(SimNPO(beta=1.0), single(p), **ONE) / grad(WGA(beta=1.0), single(p), **ONE)
    assert ratio.flatten().tolist() == pytest.approx([2, 2], rel=2 * p)


def test_simnpo_of_one_certain_token_is_wga() -> None:
    ratio = grad(SimNPO(beta=1.0), single(1 - 1e-9), **ONE) / grad(WGA(beta=1.0), single(1 - 1e-9), **ONE)
    assert ratio.flatten().tolist() == pytest.approx([1, 1], rel=1e-6)


# ---------------------------------------------------------------------- NPO and SimNPO on raw logits, as released for MUSE


def test_npo_on_logits_by_hand() -> None:
    """The mean over words and positions of (2/b) ln(1 + e^(b d)), d a logit's change: ln 2 / b in one of four, else 0."""
    change = torch.tensor([[2 * math.log(2), 0.0], [0.0, 0.0]], dtype=torch.float64)
    rows = {"row_N": torch.tensor([0, 0]), "true_N": torch.tensor([0, 1])}
    mean = NPO(beta=0.5, inside="logits")(Seen(like(change, **rows), like(torch.zeros(2, 2, dtype=torch.float64), **rows)))
    assert totals(mean) == pytest.approx([4 * (math.log(3) + 3 * math.log(2)) / 4], rel=1e-12)
    assert mean.count_B.tolist() == [1]


def test_npo_on_logits_never_looks_at_the_true_words_and_pushes_all_alike_at_the_start() -> None:
    """A push that is the same for all logits leaves the softmax as it is."""
    term = NPO(inside="logits")
    push = grad(term, leaf(START), like(START))
    assert push[:3].flatten().tolist() == pytest.approx([1 / 9] * 9, rel=1e-12)  # three words, a row of three tokens
    assert push[3].tolist() == pytest.approx([1 / 3] * 3, rel=1e-12)
    others = (TRUE_N + 1) % 3
    here = grad(term, leaf(), like(START))
    assert torch.equal(here, grad(term, leaf(), like(START, true_N=others), true_N=others))


def test_simnpo_on_logits_by_hand() -> None:
    """(2/b) ln(1 + e^(b (z + delta) + gamma)), z = 0 and 1, delta = 1/2, gamma = 1/4, b = 2."""
    rows = {"row_N": torch.tensor([0]), "true_N": torch.tensor([0])}
    term = SimNPO(beta=2, delta=0.5, gamma=0.25, inside="logits")
    mean = term(Seen(like(torch.tensor([[0.0, 1.0]], dtype=torch.float64), **rows)))
    assert totals(mean) == pytest.approx([(math.log1p(math.exp(1.25)) + math.log1p(math.exp(3.25))) / 2], rel=1e-12)
    assert term.needs == {Need.CLASSES} and not SimNPO().needs


# ---------------------------------------------------------------------- UNDIAL


def test_undial_by_hand() -> None:
    target = torch.tensor(START, dtype=torch.float64)
    for n, true in enumerate(TRUE_N.tolist()):
        target[n, true] -= 2.5
    each = -(target.softmax(1) * torch.log_softmax(torch.tensor(LOGITS, dtype=torch.float64), 1)).sum(1)
    mean = UNDIAL(beta=2.5)(Seen(like(LOGITS), like(START)))
    assert totals(mean) == pytest.approx([float(each[:3].sum()), float(each[3])], rel=1e-12)
    assert mean.count_B.tolist() == [3, 1]


def test_undial_with_beta_zero_has_the_gradient_of_the_divergence_from_the_start() -> None:
    torch.testing.assert_close(grad(UNDIAL(beta=0), leaf(), like(START)), grad(KL(), leaf(), like(START)))


def test_undial_is_at_rest_where_the_model_is_the_lowered_start_model() -> None:
    there = leaf(START)
    with torch.no_grad():
        there[torch.arange(4), TRUE_N] -= 10
    assert float(grad(UNDIAL(beta=10), there, like(START)).abs().max()) < 1e-15


def test_undial_leaves_the_start_models_prediction_as_it_is() -> None:
    """It is shared with every other term of the role."""
    start = like(START)
    UNDIAL()(Seen(like(LOGITS), start))
    assert torch.equal(start.dist.logits_NV, torch.tensor(START, dtype=torch.float64))  # type: ignore[union-attr]


def test_undial_lowers_the_true_token_and_not_the_hundredth_from_the_end() -> None:
    """open-unlearning indexes with -100, the mark of what is not supervised: word V - 100 is lowered at prompt and padding."""
    start = torch.zeros(1, 128, dtype=torch.float64)
    rows = {"row_N": torch.tensor([0]), "true_N": torch.tensor([5])}
    mine = torch.zeros(1, 128, dtype=torch.float64, requires_grad=True)
    g = grad(UNDIAL(beta=10), mine, like(start, **rows), **rows)[0]
    assert float(g[5]) > 0 and (g[torch.arange(128) != 5] < 0).all()
    assert float(g[128 - 100]) == pytest.approx(float(g[0]))


# ---------------------------------------------------------------------- CE-U


def literal_ceu(logits_NV: Tensor, true_N: Tensor) -> Tensor:
    """As the paper writes it: cross-entropy to the own, constant prediction with the true token at minus infinity."""
    target = logits_NV.detach().clone()
    target[torch.arange(len(true_N)), true_N] = -torch.inf
    return torch.nn.functional.cross_entropy(logits_NV, target.softmax(1), reduction="none")


def test_ceu_has_the_gradient_of_the_paper() -> None:
    logits = leaf()
    expected = torch.autograd.grad(literal_ceu(logits, TRUE_N).sum(), logits)[0]
    torch.testing.assert_close(grad(CEU(), leaf()), expected, rtol=1e-10, atol=1e-12)


def test_ceu_is_the_papers_value_without_the_entropy_of_its_target() -> None:
    z = torch.tensor(LOGITS, dtype=torch.float64)
    p_N = z.softmax(1)[torch.arange(4), TRUE_N]
    rest = z.scatter(1, TRUE_N[:, None], -torch.inf).softmax(1)
    entropy_N = -(rest * rest.clamp_min(1e-300).log()).sum(1)
    got = torch.tensor(totals(CEU()(Seen(like(LOGITS)))), dtype=torch.float64)
    each = literal_ceu(z, TRUE_N) - entropy_N
    torch.testing.assert_close(got, torch.stack([each[:3].sum(), each[3]]))
    torch.testing.assert_close(got, torch.stack([-(1 - p_N[:3]).log().sum(), -(1 - p_N[3]).log()]))


def test_ceu_of_a_certain_token_is_finite_and_pushes_by_one() -> None:
    """-log(1 - p) of a likelihood would be infinite as soon as p rounds to 1."""
    sure = torch.tensor([[60.0, 0.0, 0.0]], requires_grad=True)
    assert CEU()(Seen(like(sure, **ONE))).total_B.isfinite().all()
    assert grad(CEU(), sure, **ONE)[0].tolist() == pytest.approx([1, -0.5, -0.5])


def test_ceu_is_nought_when_the_token_is_gone() -> None:
    assert totals(CEU()(Seen(like([[-60.0, 0.0, 1.0]], **ONE)))) == pytest.approx([0], abs=1e-12)


def test_ceu_leaves_the_first_tokens_of_each_row_alone_and_keeps_its_divisor() -> None:
    logits = leaf()
    g = grad(CEU(skip_first=1), logits)
    assert not g[[0, 3]].any(), "the first term of each row"
    torch.testing.assert_close(g[[1, 2]], grad(CEU(), leaf())[[1, 2]])
    assert CEU(skip_first=1)(Seen(like(LOGITS))).count_B.tolist() == [3, 1]


# ---------------------------------------------------------------------- logit flattening


def test_logit_flattening_by_hand() -> None:
    z = torch.tensor(LOGITS, dtype=torch.float64)
    each = (z.max(1).values - z.mean(1)) ** 2
    assert totals(LogitFlattening()(Seen(like(LOGITS)))) == pytest.approx([float(each[:3].sum()), float(each[3])])
    assert LogitFlattening()(Seen(like(LOGITS))).count_B.tolist() == [3, 1]


def test_logit_flattening_sees_no_constant_and_rests_at_the_uniform_prediction() -> None:
    moved = [[x + 7.5 for x in row] for row in LOGITS]
    term = LogitFlattening()
    assert totals(term(Seen(like(moved)))) == pytest.approx(totals(term(Seen(like(LOGITS)))))
    flat = leaf([[3.0] * 3] * 4)
    assert totals(term(Seen(like(flat)))) == [0, 0]
    assert not grad(term, flat).any()


SEEN = [UNDIAL(beta=2.0), CEU(), CEU(skip_first=1, per="row"), LogitFlattening(), *ON_LOGITS]


@pytest.mark.parametrize("term", SEEN, ids=repr)
def test_gradient_agrees_with_finite_differences(term: Any) -> None:
    def total(logits: Tensor) -> Tensor:
        return term(Seen(like(logits), like(START))).total_B.sum()

    apart = [[x + 0.01 * i * j for j, x in enumerate(row)] for i, row in enumerate(LOGITS)]  # no tie of two largest
    assert torch.autograd.gradcheck(total, (leaf(apart),), eps=1e-6, atol=1e-7, rtol=1e-5)


# ---------------------------------------------------------------------- RMU

WIDTH = 6
U = unit("gaussian", WIDTH, 0, "forget").double()


def hidden(states: Tensor, answer: list[bool] | None = None, row_N: Tensor = ROW_N) -> Hidden:
    return Hidden(states, row_N, None if answer is None else torch.tensor(answer))


def states(seed: int = 0) -> Tensor:
    return torch.randn(4, WIDTH, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_rmu_by_hand_each_row_being_divided_by_its_own_length() -> None:
    """open-unlearning divides [B] by [B, 1]: each row's sum by every row's length, so that long rows weigh more."""
    h = states()
    each = ((h - 6.5 * U) ** 2).sum(1) / WIDTH
    mean = RMU()(Seen(inside=hidden(h)))
    assert totals(mean) == pytest.approx([float(each[:3].mean()), float(each[3])], rel=1e-6)
    assert mean.count_B.tolist() == [1, 1]
    sums, lengths = torch.stack([each[:3].sum(), each[3]]), torch.tensor([[3.0], [1.0]])
    assert float(mean.value) != pytest.approx(float((sums / lengths).mean()), rel=1e-2)


def test_rmu_is_nought_at_its_target() -> None:
    assert totals(RMU(c=3)(Seen(inside=hidden((3 * U).expand(4, WIDTH))))) == pytest.approx([0, 0], abs=1e-12)


def test_relative_rmu_measures_its_target_by_the_start_models_activations() -> None:
    start = states(1)
    there = 5 * start.norm(dim=1, keepdim=True) * U
    term = RMU(c=5, relative=True)
    assert totals(term(Seen(inside=hidden(there), start=hidden(start)))) == pytest.approx([0, 0], abs=1e-9)
    assert totals(RMU(c=5)(Seen(inside=hidden(there))))[0] > 1
    assert term.needs == {Need.HIDDEN, Need.REFERENCE_HIDDEN} and RMU().needs == {Need.HIDDEN}


def test_rmu_on_the_answer_leaves_out_every_other_position() -> None:
    h = states()
    each = ((h - 6.5 * U) ** 2).sum(1) / WIDTH
    mean = RMU(tokens="answer")(Seen(inside=hidden(h, [False, True, True, True])))
    assert totals(mean) == pytest.approx([float(each[1:3].mean()), float(each[3])], rel=1e-6)


def test_the_direction_is_one_unit_vector_for_a_run_and_another_for_each_topic_and_seed() -> None:
    u = unit("gaussian", 4096, 0, "bio")
    assert float(u.norm()) == pytest.approx(1, rel=1e-5)
    assert torch.equal(u, unit("gaussian", 4096, 0, "bio"))
    for other in (unit("gaussian", 4096, 0, "cyber"), unit("gaussian", 4096, 1, "bio")):
        assert abs(float(u @ other)) < 0.1


def test_the_papers_positive_directions_nearly_agree_so_they_are_not_the_default() -> None:
    """Entries in [0, 1): the cosine of two topics is E[x]^2 / E[x^2] = 3/4, and sqrt(3)/2 with the all-ones direction."""
    one, other = unit("orthant", 4096, 0, "bio"), unit("orthant", 4096, 0, "cyber")
    assert (one >= 0).all()
    assert float(one @ other) == pytest.approx(0.75, abs=0.02)
    assert float(one.sum()) / 64 == pytest.approx(3**0.5 / 2, abs=0.02)
    assert RMU().direction == "gaussian"
    assert 0.4 < float((unit("gaussian", 4096, 0, "bio") < 0).float().mean()) < 0.6


def test_embed_diff_by_hand_and_at_rest_at_the_start_model() -> None:
    h, start = states(0).requires_grad_(), states(1)
    each = ((h - start) ** 2).detach().sum(1) / WIDTH
    mean = EmbedDiff()(Seen(inside=hidden(h), start=hidden(start)))
    assert totals(mean) == pytest.approx([float(each[:3].mean()), float(each[3])])
    at_rest = EmbedDiff()(Seen(inside=hidden(h), start=hidden(h.detach().clone()))).total_B
    assert at_rest.tolist() == [0, 0]
    assert not torch.autograd.grad(at_rest.sum(), h)[0].any()


@pytest.mark.parametrize("layer", [1.5, -0.1, "middle"])
def test_a_layer_is_an_index_or_a_share_of_the_depth(layer: Any) -> None:
    with pytest.raises(ValueError, match="layer"):
        RMU(layer=layer)
    assert RMU(layer=7).layer == 7 and isinstance(RMU(layer=7).layer, int)
    assert RMU(layer=0.5).layer == 0.5 and isinstance(RMU(layer=1.0).layer, float)
