"""Metrics that compare two groups or two models: oracles, published values, floors, orientation, coverage."""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence

import numpy as np
import pytest
from scipy import stats
from scipy.special import comb
from sklearn.metrics import roc_auc_score

from amends.core.errors import UserError
from amends.core.types import Sample
from amends.data.bundle import Bundle
from amends.metrics.evaluation import Evaluation, Tokens
from amends.metrics.forget_quality import ForgetDistance, ForgetQuality, compare, p_value
from amends.metrics.mia import Mia, auc


def model(log_ratios: Sequence[float], order: Sequence[int] | None = None) -> Evaluation:
    """A model whose rows have these log truth ratios, with rows in the order given."""
    rows = [
        Sample(f"r{i}", {"question": "q", "answer": "a", "paraphrased_answer": "p", "perturbed_answer": ["x"]})
        for i in (order if order is not None else range(len(log_ratios)))
    ]
    tokens = {f"r{i}/paraphrased-answer": Tokens(np.array([-2.0])) for i in range(len(log_ratios))}
    tokens |= {f"r{i}/perturbed-0": Tokens(np.array([-2.0 + v])) for i, v in enumerate(log_ratios)}
    return Evaluation(None, Bundle({"forget": tuple(rows)}), _tokens=tokens)


class TestForgetQuality:
    def test_a_model_against_itself_is_perfect(self) -> None:
        one = model(np.random.default_rng(0).normal(size=30).tolist())
        quality, distance = ForgetQuality().measure(one, one), ForgetDistance().measure(one, one)
        assert (quality.value, quality.low, quality.high) == (1, 1, 1)
        assert (distance.value, distance.low, distance.high) == (0, 0, 0)

    def test_equals_scipy_on_the_ratios_themselves(self) -> None:
        draws = np.random.default_rng(1)
        mine, other = draws.normal(size=50), draws.normal(0.4, size=50)
        oracle = stats.ks_2samp(np.exp(mine), np.exp(other), method="exact")
        quality = ForgetQuality().measure(model(mine.tolist()), model(other.tolist()))
        distance = ForgetDistance().measure(model(mine.tolist()), model(other.tolist()))
        assert quality.value == pytest.approx(oracle.pvalue) and distance.value == pytest.approx(oracle.statistic)
        assert quality.low <= quality.value <= quality.high and distance.low <= distance.value <= distance.high
        assert (quality.better, distance.better) == ("higher", "lower")

    @pytest.mark.parametrize("n, floor", [(40, 1.86e-23), (200, 1.94e-119), (400, 1.06e-239)])
    def test_two_samples_that_do_not_overlap_reach_the_floor(self, n: int, floor: float) -> None:
        found = ForgetQuality().measure(model(np.arange(n) / n + 5.0), model(np.arange(n) / n))
        assert found.value == pytest.approx(2 / comb(2 * n, n, exact=True), rel=1e-9)
        assert found.value == pytest.approx(floor, rel=5e-3)
        assert "no overlap" in found.note

    @pytest.mark.parametrize(
        "distance, by_n",
        [
            (0.10, {40: 0.99, 200: 0.27, 300: 0.10, 400: 0.037}),
            (0.15, {40: 0.77, 200: 0.022, 300: 2.3e-3, 400: 2.4e-4}),
            (0.20, {40: 0.41, 200: 6.5e-4, 300: 1.2e-5, 400: 2.1e-7}),
            (0.25, {40: 0.17, 200: 6.7e-6, 300: 1.2e-8, 400: 2.2e-11}),
            (0.30, {40: 0.054, 200: 2.4e-8, 300: 2.6e-12, 400: 2.8e-16}),
            (0.50, {40: 6.6e-5, 200: 4.4e-23, 300: 1.9e-34, 400: 8.2e-46}),
        ],
    )
    def test_the_p_value_depends_on_the_rows_as_much_as_on_the_distance(self, distance: float, by_n: dict[int, float]) -> None:
        for n, p in by_n.items():
            assert p_value(distance, n) == pytest.approx(p, rel=0.055)

    @pytest.mark.parametrize("n, shift", [(40, 0.0), (40, 0.5), (200, 0.5)])
    def test_the_interval_of_the_distance_covers_the_truth(self, n: int, shift: float) -> None:
        truth = 2 * stats.norm.cdf(shift / 2) - 1
        draws = np.random.default_rng(n)
        covered = 0
        for _ in range(60):
            shared = draws.normal(size=n)  # the same rows under two models: correlated values
            found = compare(0.8 * shared + 0.6 * draws.normal(size=n), shift + 0.8 * shared + 0.6 * draws.normal(size=n))
            covered += found.low <= truth <= found.high
        assert covered >= 54  # the percentile interval of D covers 0 and about 15 and 30 of the 60

    def test_more_rows_narrow_it(self) -> None:
        draws = np.random.default_rng(3)
        few, many = (compare(draws.normal(size=n), draws.normal(1, size=n)) for n in (40, 400))
        assert many.high - many.low < 0.5 * (few.high - few.low)

    def test_rows_are_paired_by_id_and_their_order_does_not_matter(self) -> None:
        draws = np.random.default_rng(4)
        mine, other = draws.normal(size=25).tolist(), draws.normal(size=25).tolist()
        plain = ForgetDistance().measure(model(mine), model(other))
        moved = ForgetDistance().measure(model(mine, order=range(24, -1, -1)), model(other))
        assert moved.value == plain.value and moved.scores == plain.scores
        assert moved.low == pytest.approx(plain.low, abs=0.03) and moved.high == pytest.approx(plain.high, abs=0.03)

    @pytest.mark.parametrize("metric", [ForgetQuality(), ForgetDistance()])
    def test_without_another_model_it_says_what_is_missing(self, metric: ForgetQuality | ForgetDistance) -> None:
        assert metric.needs_reference
        with pytest.raises(UserError, match=f"{metric.name} compares with another model"):
            metric.measure(model([0.0, 1.0]), None)


def groups(seen: Sequence[Tokens], unseen: Sequence[Tokens], answer: str = "some words") -> Evaluation:
    """Members and holdout with these tables."""
    tables = {**{f"f{i}": t for i, t in enumerate(seen)}, **{f"h{i}": t for i, t in enumerate(unseen)}}
    rows = {i: Sample(i, {"question": "q", "answer": answer}) for i in tables}
    roles = {name: tuple(s for i, s in rows.items() if i[0] == name[0]) for name in ("forget", "holdout")}
    return Evaluation(None, Bundle(roles), _tokens=tables)


def normal(rng: np.random.Generator, shift: float, count: int) -> list[Tokens]:
    """Rows of nine tokens whose log-probabilities scatter around -3 + shift."""
    return [Tokens(-np.abs(rng.normal(3 - shift, 1, 9)), None, np.full(9, -3.0), np.full(9, 1.5)) for _ in range(count)]


ATTACKS = ("loss", "zlib", "min_k", "min_k_plus_plus")


class TestMia:
    @pytest.mark.parametrize("attack", ATTACKS)
    def test_one_means_still_a_member_half_means_no_difference_zero_over_forgotten(self, attack: str) -> None:
        rng = np.random.default_rng(0)
        for shift, low, high in ((2.0, 0.95, 1.0), (0.0, 0.35, 0.65), (-2.0, 0.0, 0.05)):
            found = Mia(attack=attack).measure(groups(normal(rng, shift, 60), normal(rng, 0, 60)), None)
            assert low <= found.value <= high and found.low <= found.value <= found.high
        assert (found.name, found.better, found.n) == (f"mia.{attack}", "closer", 120)

    def test_min_k_takes_the_lowest_two_of_five_without_the_closing_token(self) -> None:
        row = Tokens(np.array([-1.0, -5.0, -2.0, -4.0, -3.0, -90.0]))
        found = Mia(attack="min_k").measure(groups([row], [row]), None)
        assert found.scores == {"f0": 4.5, "h0": 4.5} and found.value == 0.5
        assert Mia(attack="min_k", k=0.1).measure(groups([row], [row]), None).scores["f0"] == 5.0  # at least one

    def test_min_k_plus_plus_on_three_tokens_of_three_words_by_hand(self) -> None:
        p_TV = np.array([[0.7, 0.2, 0.1], [0.4, 0.4, 0.2], [0.1, 0.8, 0.1], [0.98, 0.01, 0.01]])
        right = [1, 0, 2, 0]  # the last is the closing token
        mean = [sum(p * math.log(p) for p in row) for row in p_TV]
        std = [math.sqrt(sum(p * math.log(p) ** 2 for p in row) - m * m) for row, m in zip(p_TV, mean, strict=True)]
        logp = [math.log(row[i]) for row, i in zip(p_TV, right, strict=True)]
        z = sorted((logp[t] - mean[t]) / std[t] for t in range(3))
        row = Tokens(np.array(logp), None, np.array(mean), np.array(std))
        found = Mia(attack="min_k_plus_plus", k=0.7).measure(groups([row], [row]), None)
        assert found.scores["f0"] == pytest.approx(-(z[0] + z[1]) / 2)

    def test_zlib_divides_by_compressed_bytes(self) -> None:
        row = Tokens(np.array([-2.0, -4.0]))
        found = Mia(attack="zlib").measure(groups([row], [row], answer="na" * 50), None)
        assert found.scores["f0"] == pytest.approx(3.0 / len(zlib.compress(b"na" * 50)))

    @pytest.mark.parametrize("seed", range(3))
    def test_the_vectorised_auc_is_scikit_learns_ties_included(self, seed: int) -> None:
        rng = np.random.default_rng(seed)
        seen, unseen = rng.integers(0, 6, (4, 13)).astype(float), rng.integers(0, 6, (4, 9)).astype(float)
        labels = [0] * 13 + [1] * 9
        oracle = [roc_auc_score(labels, np.concatenate(pair)) for pair in zip(seen, unseen, strict=True)]
        assert auc(seen, unseen) == pytest.approx(oracle)

    def test_a_model_without_a_distribution_over_tokens_is_refused(self) -> None:
        row = Tokens(np.array([-2.0, -4.0]))
        with pytest.raises(UserError, match="role 'forget', row f0: min_k_plus_plus needs"):
            Mia(attack="min_k_plus_plus").measure(groups([row], [row]), None)

    def test_a_missing_holdout_is_named(self) -> None:
        evaluation = Evaluation(None, Bundle({"forget": (Sample("a", {"text": "t"}),)}), _tokens={"a": Tokens(np.zeros(2))})
        with pytest.raises(UserError, match="holdout"):
            Mia().measure(evaluation, None)

    def test_k_is_a_share(self) -> None:
        for k in (0.0, 1.1):
            with pytest.raises(ValueError, match="k"):
                Mia(k=k)
