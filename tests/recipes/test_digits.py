"""Every preset for classifiers on scikit-learn's digits, real images: one class is to go, and the order is the field's."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple

import pytest
import torch
from sklearn.datasets import load_digits

from amends.core.context import Memory
from amends.core.spec import build_use
from amends.core.types import Sample
from amends.data.bundle import Bundle
from amends.engine.optim import AdamW
from amends.engine.score import likelihoods
from amends.runs.methods import find_method, packaged_methods
from amends.subjects.distributions import classes
from amends.subjects.tiny import TinyClassifier
from amends.train.plain import Train
from amends.train.pruned import Pruned
from amends.unlearn.prune_first import PruneFirst

FORGOTTEN = 3
SETTINGS: dict[str, dict[str, Any]] = {
    "fine-tune": {"epochs": 4, "lr": 1e-2}, "l1-sparse": {"epochs": 4, "lr": 1e-2, "edits": [{"use": "prox_l1", "gamma": 0.3}]},
    "ascent": {"epochs": 4, "lr": 1e-2},
    "graddiff": {"epochs": 4, "lr": 4e-3}, "graddiff-kl": {"epochs": 4, "lr": 4e-3},
    "npo": {"epochs": 5, "lr": 3e-3}, "random-labels": {"epochs": 10, "lr": 1e-2},
    "salun": {"epochs": 10, "lr": 1e-2}, "salun-soft": {"epochs": 10, "lr": 1e-2}, "ugradsl": {"epochs": 8, "lr": 4e-3},
    "ugradsl-plus": {"epochs": 3, "lr": 4e-3}, "boundary-shrink": {"epochs": 4, "lr": 4e-3},
    "boundary-expand": {"epochs": 4, "lr": 4e-3}, "scrub": {"epochs": 3, "lr": 3e-3}, "bad-teacher": {"epochs": 10, "lr": 1e-2},
    "influence": {"alpha": 8.0}, "fisher": {},
}  # fmt: skip
"""Lengths and learning rates for a model of 3,000 weights; all else is the preset's."""


class Result(NamedTuple):
    """Unlearning accuracy, 1 minus accuracy on forget rows, and accuracy on retain and on test rows of other classes."""

    ua: float
    ra: float
    ta: float


@pytest.fixture(scope="module")
def data() -> Bundle:
    images, target = load_digits(return_X_y=True)
    rows = [
        Sample(f"digit-{i:04d}", {"image": torch.tensor(x, dtype=torch.float32).view(1, 8, 8) / 16, "label": int(y)})
        for i, (x, y) in enumerate(zip(images, target, strict=True))
    ]
    train, test = [r for i, r in enumerate(rows) if i % 3], rows[::3]
    return Bundle({
        "forget": tuple(r for r in train if r.data["label"] == FORGOTTEN),
        "retain": tuple(r for r in train if r.data["label"] != FORGOTTEN),
        "test": tuple(r for r in test if r.data["label"] != FORGOTTEN),
    })  # fmt: skip


def accuracy(subject: Any, data: Bundle, role: str) -> float:
    hits = 0
    for batch, like in likelihoods(subject, data[role]):
        hits += int((classes(like).logits_NV.argmax(1) == batch["label"]).sum())
    return hits / len(data[role])


def result(subject: Any, data: Bundle) -> Result:
    return Result(1 - accuracy(subject, data, "forget"), accuracy(subject, data, "retain"), accuracy(subject, data, "test"))


TRAIN = Train(on=("forget", "retain"), steps=900, batch=64, optim=AdamW(lr=1e-2, warmup=0.1, schedule="cosine"))


@pytest.fixture(scope="module")
def original(data: Bundle) -> Any:
    subject = TinyClassifier(classes=10, width=16).load(data, 0)
    TRAIN(subject, data, Memory())
    return subject, {k: v.clone() for k, v in subject.module.state_dict().items()}


def stage_of(name: str) -> Any:
    method, own = find_method(name, "classifier"), dict(SETTINGS[name])
    optim = {"use": "sgd", "momentum": 0.9, "lr": own.pop("lr")} if "lr" in own else None
    return build_use("stages", {**method.stage, **own, **({"optim": optim, "batch": 32} if optim else {})}, name)


@pytest.fixture(scope="module")
def results(original: Any, data: Bundle) -> dict[str, Result]:
    """Each method from the original's weights."""
    subject, weights = original
    found = {"original": result(subject, data)}
    for name in SETTINGS:
        subject.module.load_state_dict(weights)
        outcome = stage_of(name)(subject, data, Memory())
        assert outcome.stopped is None and outcome.steps > 0
        found[name] = result(subject, data)
    subject.module.load_state_dict(weights)
    return found


def test_every_preset_for_classifiers_is_looked_at() -> None:
    assert set(SETTINGS) == set(packaged_methods("classifier"))


def test_the_original_knows_its_digits(results: dict[str, Result]) -> None:
    assert results["original"].ua < 0.03 and results["original"].ta > 0.93


def test_fine_tuning_forgets_little_and_l1_sparse_more_at_the_same_cost(results: dict[str, Result], data: Bundle) -> None:
    tuned, sparse = results["fine-tune"], results["l1-sparse"]
    assert tuned.ua < 0.3 and tuned.ra > 0.97
    assert sparse.ua > tuned.ua + 0.3 and sparse.ra > 0.95
    assert stage_of("fine-tune").num_steps(data) == stage_of("l1-sparse").num_steps(data)


def test_ascent_wrecks(results: dict[str, Result]) -> None:
    assert results["ascent"].ua > 0.95 and results["ascent"].ra < 0.6


@pytest.mark.parametrize("name", ["random-labels", "salun", "salun-soft", "scrub", "ugradsl", "ugradsl-plus", "bad-teacher"])
def test_methods_with_a_retain_half_raise_ua_and_keep_ra(results: dict[str, Result], name: str) -> None:
    assert results[name].ua > 0.7 and results[name].ra > 0.9, results[name]


@pytest.mark.parametrize("name", ["boundary-shrink", "boundary-expand", "influence", "graddiff", "npo"])
def test_the_others_forget_something(results: dict[str, Result], name: str) -> None:
    assert results[name].ua > results["original"].ua + 0.1, results[name]


def test_pruned_first_the_same_methods_run_and_the_zeros_stay(data: Bundle) -> None:
    subject = TinyClassifier(classes=10, width=16).load(data, 0)
    Pruned(train=replace(TRAIN, steps=300), sparsity=0.8, rewind=30)(subject, data, Memory())
    assert accuracy(subject, data, "test") > 0.85
    zeros = subject.module[3].weight == 0
    PruneFirst(then=stage_of("salun"))(subject, data, run := Memory())
    assert torch.equal(subject.module[3].weight == 0, zeros) and run.logged[0]["sparsity"] == pytest.approx(0.8, abs=1e-3)
    assert result(subject, data).ua > 0.7
