"""Terms that classifiers brought along: smoothed ascent by hand and by its identities, turns that alternate, soft KL."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from amends.core.context import Memory
from amends.core.errors import UserError
from amends.core.spec import Weighted, build_use
from amends.core.types import Batch, Likelihood, Sample
from amends.data.bundle import Bundle
from amends.engine.fit import fit
from amends.engine.optim import SGD
from amends.subjects.classifier import Classifier
from amends.subjects.distributions import Categorical
from amends.terms.ascent import Ascent
from amends.terms.during import During
from amends.terms.kl import KL
from amends.terms.nll import NLL
from amends.terms.ugradsl import UGradSL, apart

LOGITS = [[2.0, 0.0, -1.0], [0.5, 0.5, 0.0], [-3.0, 1.0, 4.0]]
TRUE = [0, 2, 1]


class Given:
    """A view of rows with the logits that a test chose; `near` are those of the other role."""

    def __init__(self, logits: Any, true: list[int], near: Any = None, only: slice = slice(None)) -> None:
        whole = torch.as_tensor(logits, dtype=torch.float64)
        self.near, self.own = near, (whole, true)
        logits_BK, target_B = whole[only], torch.tensor(true)[only]
        dist = Categorical(logits_BK, target_B, torch.arange(len(target_B)))
        self.policy = Likelihood(dist.nll(), torch.ones(len(target_B), dtype=torch.long), dist)
        self.reference = self.policy
        self.batch = Batch(tuple(f"row-{i}" for i in range(len(true)))[only], {})

    def beside(self, role: str) -> Given:
        return Given(*self.own) if role == "forget" else Given(self.near, [0] * len(self.near))


def test_ugradsl_is_minus_the_cross_entropy_to_the_smoothed_label() -> None:
    """Row 0 of LOGITS: l = (0.1698, 2.1698, 3.1698), K = 3, alpha = -0.3, so y = (1.2, -0.1, -0.1)."""
    total = UGradSL(alpha=-0.3)(Given(LOGITS, TRUE)).total_B[0].item()
    assert total == pytest.approx(-(1.2 * 0.169846 - 0.1 * 2.169846 - 0.1 * 3.169846), abs=1e-5) == pytest.approx(0.330154)
    for alpha in (-2.0, -0.2, 0.5):
        smooth_BK = (1 - alpha) * torch.eye(3, dtype=torch.float64)[TRUE] + alpha / 3
        expected = (smooth_BK * torch.log_softmax(torch.tensor(LOGITS, dtype=torch.float64), 1)).sum(1)
        torch.testing.assert_close(UGradSL(alpha=alpha)(Given(LOGITS, TRUE)).total_B, expected)


def test_ugradsl_ascends_on_the_true_class_and_descends_on_every_other() -> None:
    """-CE(y^-a) = -[1 + a (K - 1) / K] l_y + (a / K) sum over the wrong classes of l_k."""
    a, l_BK = 0.7, -torch.log_softmax(torch.tensor(LOGITS, dtype=torch.float64), 1)
    own_B = l_BK[range(3), TRUE]
    expected = -(1 + a * 2 / 3) * own_B + a / 3 * (l_BK.sum(1) - own_B)
    torch.testing.assert_close(UGradSL(alpha=-a)(Given(LOGITS, TRUE)).total_B, expected)


def test_without_smoothing_it_is_ascent_and_with_a_cap_ascents_too() -> None:
    for cap in (None, 1.0):
        assert UGradSL(alpha=0, cap=cap)(Given(LOGITS, TRUE)).total_B.tolist() == pytest.approx(
            Ascent(cap=cap)(Given(LOGITS, TRUE)).total_B.tolist()
        )


def test_adaptive_rates_count_the_retain_rows_that_lie_close() -> None:
    """Predictions nearly one-hot: equal ones are 0 apart, different ones 1/2."""
    sharp = (40 * torch.eye(3)).tolist()
    near = [sharp[0], sharp[0], sharp[1], sharp[2]]
    term = UGradSL(threshold=0.25)
    assert term.rates(Given(sharp, [0, 1, 2], near)).tolist() == pytest.approx([-2 / 3, -1 / 3, -1 / 3])
    assert UGradSL(threshold=0.25, divide="near").rates(Given(sharp, TRUE, near)).tolist() == pytest.approx(
        [-0.5, -0.25, -0.25]
    )
    assert UGradSL(threshold=0.25, invert=True).rates(Given(sharp, TRUE, near)).tolist() == pytest.approx(
        [-1 / 3, -2 / 3, -2 / 3]
    )
    assert UGradSL(threshold=0.25, sign="positive").rates(Given(sharp, TRUE, near)).tolist() == pytest.approx(
        [2 / 3, 1 / 3, 1 / 3]
    )
    assert UGradSL(threshold=0.75).rates(Given(sharp, TRUE, near)).tolist() == [-1, -1, -1], "never beyond one row of each"
    assert term.rates(Given(sharp, TRUE, near, only=slice(2, 3))).tolist() == pytest.approx([-1 / 3]), "a piece of the batch"


def test_distance_is_half_of_one_minus_the_cosine() -> None:
    a, b = torch.tensor([[3.0, 4.0]]), torch.tensor([[4.0, 3.0]])
    assert apart(a, b).item() == pytest.approx((1 - 24 / 25) / 2)


@pytest.mark.parametrize("distance", ["softmax", "features"])
def test_adaptive_rates_do_not_depend_on_how_the_batch_is_cut(classifier_world: Any, distance: Any) -> None:
    """The step's whole retain batch is looked at, whatever the pieces are."""
    moved = []
    for micro in (None, 2):
        subject = classifier_world.make()
        objective = [Weighted(term=UGradSL(threshold=0.3, distance=distance), weight=0.3), Weighted(term=NLL(), weight=0.7)]
        fit(subject, objective, classifier_world.data, steps=3, optim=SGD(lr=0.1), batch=6, micro=micro, run=Memory())
        moved.append(torch.cat([p.detach().flatten() for p in subject.module.parameters()]))
    torch.testing.assert_close(*moved, rtol=1e-4, atol=1e-6)


def test_adaptive_rates_look_at_a_role_that_nothing_is_trained_on(classifier_world: Any) -> None:
    run = Memory()
    objective = [Weighted(term=UGradSL(threshold=0.3))]
    fit(classifier_world.make(), objective, classifier_world.data, steps=1, optim=SGD(), batch=6, run=run)
    assert len(run.logged) == 1
    with pytest.raises(UserError, match="no role 'retian'"):
        wrong = [Weighted(term=UGradSL(threshold=0.3, near="retian"))]
        fit(classifier_world.make(), wrong, classifier_world.data, steps=1, optim=SGD(), batch=6, run=run)


class Normed(nn.Module):
    """A linear classifier behind a batch norm."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.head = nn.BatchNorm1d(64), nn.Linear(64, 4)

    def forward(self, image: Tensor) -> Tensor:
        return self.head(self.norm(image.flatten(1)))


def test_looking_beside_leaves_a_batch_norms_statistics_alone(classifier_world: Any) -> None:
    seen = []
    for threshold in (None, 0.3):
        torch.manual_seed(0)
        subject = Classifier(Normed())
        fit(subject, [Weighted(term=UGradSL(threshold=threshold))], classifier_world.data, steps=2, optim=SGD(lr=1e-9),
            batch=6, run=Memory())  # fmt: skip
        seen.append(subject.module.norm.running_mean.clone())
    assert torch.equal(*seen)


# ---------------------------------------------------------------------- taking turns


def taking_turns() -> list[Weighted]:
    return [
        Weighted(term=During(term=Ascent(), steps=((0, 1),))), Weighted(term=During(term=NLL(), steps=((1, 3),)))
    ]  # fmt: skip


def test_terms_that_take_turns_are_fits_that_follow_each_other(classifier_world: Any) -> None:
    """With plain gradient descent, which keeps nothing between steps, and batches of all rows."""
    alternating, apart_ = classifier_world.make(), classifier_world.make()
    run = Memory()
    fit(alternating, taking_turns(), classifier_world.data, steps=3, optim=SGD(lr=0.05), batch=12, run=run)
    for term, steps in ((Ascent(), 1), (NLL(), 2)):
        fit(apart_, [Weighted(term=term)], classifier_world.data, steps=steps, optim=SGD(lr=0.05), batch=12, run=Memory())
    for p, q in zip(alternating.module.parameters(), apart_.module.parameters(), strict=True):
        torch.testing.assert_close(p, q)
    shown = [line for line in run.logged if line["step"]]
    assert [line["0.during.forget.multiplier"] for line in shown] == [1, 0, 0]
    assert [line["1.during.retain"] == 0 for line in shown] == [True, False, False]


def test_a_role_at_rest_is_not_put_through_the_model(classifier_world: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    rows: list[str] = []
    plain = Classifier.likelihood
    monkeypatch.setattr(Classifier, "likelihood", lambda self, batch: (rows.extend(batch.ids), plain(self, batch))[1])
    objective = [Weighted(term=During(term=Ascent(), steps=((0, 1),))), Weighted(term=During(term=NLL(), steps=((1, 2),)))]
    fit(classifier_world.make(), objective, classifier_world.data, steps=2, optim=SGD(), batch=12, run=Memory())
    begun = rows.index("forget-000")
    assert begun < 12 and sum(name.startswith("retain") for name in rows) == 12


def test_turns_say_what_is_wrong_with_them() -> None:
    with pytest.raises(ValueError, match="holds no step"):
        During(term=NLL(), steps=((3, 3),))
    with pytest.raises(ValueError, match="multiplier of its own"):
        During(term=During(term=NLL()))
    with pytest.raises(UserError, match="beside `use: during`"):
        build_use("terms", {"use": "during", "term": {"use": "nll", "weight": 2}}, "objective.0")
    built = build_use("terms", {"use": "during", "term": {"use": "kl"}, "steps": [[0, 2]], "weight": -1}, "objective.0")
    assert built.weight == -1 and built.term.needs == KL().needs and built.term.first() == 1


# ---------------------------------------------------------------------- softened divergence


def test_a_softened_divergence_by_hand_and_its_limit() -> None:
    """T = 2 on logits (2, 0) against (0, 0): 4 KL((0.7311, 0.2689) || (0.5, 0.5)) = 4 * 0.110944."""
    view = Given([[0.0, 0.0]], [0])
    view.reference = Given([[2.0, 0.0]], [0]).policy
    p = 1 / (1 + math.exp(-1))
    by_hand = 4 * (p * math.log(2 * p) + (1 - p) * math.log(2 * (1 - p)))
    assert KL(temperature=2)(view).total_B.item() == pytest.approx(by_hand) == pytest.approx(0.443776, abs=1e-5)
    hot = KL(temperature=1e3)(view).total_B.item()
    assert hot == pytest.approx(((2.0 - 0.0) / 2) ** 2 / 2, rel=1e-3), "half the variance of the logits' difference"


def test_random_labels_are_cross_entropy_on_other_labels(classifier_world: Any) -> None:
    """`idk` on the alternatives has the gradient of plain training on rows that carry those labels."""
    from amends.terms.idk import Idk

    data = classifier_world.data
    relabelled = Bundle({"forget": tuple(data.alternatives[s.id] for s in data["forget"])})
    one, other = classifier_world.make(), classifier_world.make()
    fit(one, [Weighted(term=Idk())], data, steps=1, optim=SGD(lr=0.1), batch=12, run=Memory())
    fit(other, [Weighted(term=NLL(role="forget"))], relabelled, steps=1, optim=SGD(lr=0.1), batch=12, run=Memory())
    for p, q in zip(one.module.parameters(), other.module.parameters(), strict=True):
        torch.testing.assert_close(p, q)
    assert isinstance(data["forget"][0], Sample)
