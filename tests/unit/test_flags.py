"""AUROC, TPR and FPR of an auditor's flags: values by hand, intervals in their limits, and what is not known."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from amends.core.rng import stream_seed
from amends.core.types import Scores
from amends.metrics.flags import NAMES, auroc_interval, flag_measurements

FOUND = Scores({"a": 0.9, "b": 0.4, "c": 0.4, "d": 0.1}, frozenset({"a", "c"}), "a note")
BAD = {"a": True, "b": True, "c": False, "d": False}


LABELS = {"a": 1, "b": 1, "c": 1, "d": 0}


def test_the_five_numbers_by_hand() -> None:
    """Of four pairs of a bad and a good row three are in order and one is a tie: 3.5 / 4; in class 1 one of each: 1.5 / 2."""
    found = {m.name: m for m in flag_measurements(FOUND, BAD, LABELS)}
    assert list(found) == list(NAMES)
    values = {"auroc": 0.875, "auroc_within": 0.75, "tpr": 0.5, "fpr": 0.5, "flagged": 0.5}
    assert {name: m.value for name, m in found.items()} == values and found["auroc_within"].n == 3
    assert (found["tpr"].n, found["fpr"].n, found["flagged"].n) == (2, 2, 4)
    assert found["flagged"].note == "a note" and found["auroc"].scores == FOUND.score
    assert all(m.low <= m.value <= m.high and m.better == NAMES[m.name] for m in found.values())


@pytest.mark.parametrize("bad", [{}, dict.fromkeys(BAD, False), dict.fromkeys(BAD, True)])
def test_without_rows_of_both_kinds_only_the_flags_are_counted(bad: dict[str, bool]) -> None:
    assert [m.name for m in flag_measurements(FOUND, bad)] == ["flagged"]


def test_a_detector_that_knows_the_attacked_class_and_nothing_more_is_guessing_within_it() -> None:
    found = Scores({"a": 1.0, "b": 1.0, "c": 1.0, "d": 0.0, "e": 0.0}, frozenset("abc"))
    bad = {"a": True, "b": False, "c": False, "d": False, "e": False}
    measured = {m.name: m.value for m in flag_measurements(found, bad, {"a": 7, "b": 7, "c": 7, "d": 1, "e": 2})}
    assert measured["auroc"] == 0.75 and measured["auroc_within"] == 0.5


@pytest.mark.parametrize("labels", [None, {"a": 1, "b": 1, "c": 0, "d": 0}])
def test_without_labels_or_good_rows_in_the_attacked_class_nothing_is_said_within_it(labels: dict[str, int] | None) -> None:
    assert "auroc_within" not in {m.name for m in flag_measurements(FOUND, BAD, labels)}


def test_with_one_row_of_each_kind_the_interval_is_wilsons() -> None:
    wilson = stats.binomtest(1, 1).proportion_ci(method="wilson")
    assert auroc_interval(1.0, 1, 1) == pytest.approx((wilson.low, 1.0))
    assert auroc_interval(0.0, 1, 1) == pytest.approx((0.0, 1 - wilson.low))


@pytest.mark.parametrize("value", [0.0, 0.2, 0.5, 0.875, 1.0])
def test_the_interval_holds_the_value_is_symmetric_and_shrinks(value: float) -> None:
    low, high = auroc_interval(value, 30, 200)
    assert 0 <= low <= value <= high <= 1 and low < high
    assert auroc_interval(1 - value, 30, 200) == pytest.approx((1 - high, 1 - low), abs=1e-6)
    wide = auroc_interval(value, 8, 200)
    assert wide[1] - wide[0] > high - low


def test_the_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    draws = np.random.default_rng(stream_seed(0, "coverage"))
    truth = float(stats.norm.cdf(1 / 2**0.5))  # two normals, one apart
    hits = 0
    for _ in range(300):
        bad, good = draws.normal(1, 1, 25), draws.normal(0, 1, 60)
        low, high = auroc_interval(float((bad[:, None] > good).mean()), 25, 60)
        hits += low <= truth <= high
    assert 0.9 <= hits / 300 <= 0.99
