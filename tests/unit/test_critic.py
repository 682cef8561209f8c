"""Rows that teach a critic, and how good one is: held out by request, balanced by category, rates of the violated class."""

from __future__ import annotations

import json
import math
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from amends.core.errors import UserError
from amends.core.types import Sample
from amends.data.bundle import Bundle
from amends.data.critic_rows import CriticRows
from amends.metrics.confusion import column, rate_measurement
from amends.metrics.evaluation import Evaluation, Tokens
from amends.metrics.verdicts import Verdicts, best_threshold


def row(request: int, label: str, category: str = "length", n: int = 0) -> dict[str, str]:
    return {"request": f"r{request}", "constraint": f"c{n}", "category": category, "prompt": f"{request} {n}?", "label": label}


def written(tmp_path: Path, rows: list[dict[str, str]]) -> str:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    return str(path)


ROWS = [row(i, "yes" if (i + n) % 4 == 0 else "no", "length" if n < 6 else "format", n) for i in range(12) for n in range(8)]


def test_requests_are_held_out_whole_and_training_is_balanced_within_each_category(tmp_path: Path) -> None:
    data = CriticRows(file=written(tmp_path, ROWS), test=0.25).load(3)
    asked = {role: {s.data["request"] for s in rows} for role, rows in data.roles.items()}
    assert len(asked["test"]) == 3 and not asked["test"] & asked["train"]
    assert len(data["test"]) == 24  # as they are
    count = Counter((s.data["category"], s.data["answer"]) for s in data["train"])
    assert count["length", "yes"] == count["length", "no"] > 0 and count["format", "yes"] == count["format", "no"] > 0
    assert CriticRows(file=written(tmp_path, ROWS[::-1]), test=0.25).load(3)["train"][0].id in {s.id for s in data["train"]}
    few = Counter(s.data["answer"] for s in CriticRows(file=written(tmp_path, ROWS), limit=5).load(0)["train"])
    assert few == {"yes": 2, "no": 2}


def test_answers_that_code_repaired_teach_and_do_not_test(tmp_path: Path) -> None:
    mended = [{**r, "how": "repair", "prompt": f"mended {r['prompt']}"} for r in ROWS]
    data = CriticRows(file=written(tmp_path, [*ROWS, *mended]), test=0.25, balance=False).load(3)
    assert len(data["train"]) == 2 * 72 and len(data["test"]) == 24
    assert not [s for s in data["test"] if s.data["question"].startswith("mended")]


def test_a_row_that_stands_twice_is_one(tmp_path: Path) -> None:
    data = CriticRows(file=written(tmp_path, [*ROWS, *ROWS]), balance=False, test=0.5).load(0)
    assert sum(map(len, data.roles.values())) == len(ROWS)


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        ([row(0, "maybe")], "rows.jsonl:1: key 'label' must be yes or no, not 'maybe'"),
        ([{**row(0, "yes"), "prompt": ""}], "rows.jsonl:1: key 'prompt' must be a text"),
        ([row(i, "yes") for i in range(4)], "no row to train on is labelled"),
    ],
)
def test_bad_rows_name_file_line_and_key(tmp_path: Path, bad: list[dict[str, str]], said: str) -> None:
    with pytest.raises(UserError, match=said):
        CriticRows(file=written(tmp_path, bad)).load(0)


def test_rates_are_of_the_violated_class() -> None:
    counts = [[0.0] * 4 for _ in range(3)]
    for r, met, said in ((0, False, False), (0, False, True), (1, True, True), (2, True, False), (2, True, True)):
        counts[r][column(met, said)] += 1
    found = {what: rate_measurement("x", counts, what, version=1) for what in ("tpr", "tnr", "balanced")}
    assert found["tpr"].value == 0.5 and found["tnr"].value == pytest.approx(2 / 3)
    assert found["balanced"].value == pytest.approx((0.5 + 2 / 3) / 2) and found["balanced"].n == 5
    assert found["balanced"].low <= found["balanced"].value <= found["balanced"].high
    everything_met = [[0, 0, 3, 1]]
    assert math.isnan(rate_measurement("x", everything_met, "tpr", version=1).value)
    assert rate_measurement("x", everything_met, "tnr", version=1).value == 0.75


def test_a_model_says_what_is_likelier_as_its_first_word() -> None:
    rows = tuple(Sample(f"s{i}", {"question": "?", "answer": a, "request": f"r{i // 2}", "category": c})
                 for i, (a, c) in enumerate([("no", "a"), ("no", "a"), ("yes", "a"), ("yes", "b")]))  # fmt: skip
    evaluation = Evaluation(None, Bundle({"test": rows}))
    for sample, yes in zip(rows, (-2.0, -0.1, -0.3, -1.0), strict=True):
        evaluation._tokens[f"{sample.id}/yes"] = Tokens(np.array([yes, 0.0]))
        evaluation._tokens[f"{sample.id}/no"] = Tokens(np.array([-0.7, 0.0]))
    assert Verdicts(what="tpr").measure(evaluation).value == 0.5
    assert Verdicts(what="tnr").measure(evaluation).value == 0.5
    assert Verdicts().measure(evaluation).scores == {"s0": 1.0, "s1": 0.0, "s2": 1.0, "s3": 0.0}
    assert Verdicts(category="a", what="tnr").measure(evaluation).value == 1.0
    with pytest.raises(UserError, match="no row of category 'c'"):
        Verdicts(category="c").measure(evaluation)


def test_a_threshold_is_fitted_on_another_role_and_the_order_needs_none() -> None:
    """A critic that always leans to yes, and leans more where the constraint is met."""
    made = [("no", 0.51), ("yes", 0.58), ("no", 0.55), ("yes", 0.62), ("no", 0.59)]
    rows = {role: tuple(Sample(f"{role}{i}", {"question": "?", "answer": a, "request": f"{role}{i}", "category": "a"})
                        for i, (a, _) in enumerate(made)) for role in ("train", "test")}  # fmt: skip
    evaluation = Evaluation(None, Bundle(rows))
    for sample, (_, p) in zip((*rows["train"], *rows["test"]), (*made, *made), strict=True):
        evaluation._tokens[f"{sample.id}/yes"] = Tokens(np.array([math.log(p)]))
        evaluation._tokens[f"{sample.id}/no"] = Tokens(np.array([math.log(1 - p)]))
    assert Verdicts(what="tpr").measure(evaluation).value == 0.0 and Verdicts(what="tnr").measure(evaluation).value == 1.0
    fitted = Verdicts(fit="train").measure(evaluation)
    assert fitted.name == "verdict_balanced.test.fitted" and fitted.value == pytest.approx((2 / 3 + 1) / 2)
    threshold = Verdicts(fit="train", what="threshold").measure(evaluation)
    assert 0.55 < threshold.value < 0.58 and threshold.name == "verdict_threshold.test"
    with pytest.raises(UserError, match="name their role, such as fit: train"):
        Verdicts(what="threshold").roles()
    assert Verdicts(what="auc").measure(evaluation).value == pytest.approx(5 / 6)  # one of six pairs is the wrong way round
    assert best_threshold([0.4], [0.4]) == 0.5 and best_threshold([], [0.1]) == 0.5
