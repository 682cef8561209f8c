"""Every peer's preset on a small model that knows its rows by heart: it forgets, and keeps more than ascent does."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from amends.core.context import Memory
from amends.core.spec import build_use
from amends.data.bundle import Bundle
from amends.data.facts import Facts
from amends.engine.optim import AdamW
from amends.engine.score import nll_by_id
from amends.runs.methods import find_method, packaged_methods
from amends.subjects.tiny import TinyLM
from amends.train.plain import Train

SETTINGS: dict[str, dict[str, Any]] = {
    "rmu": {"steps": 25, "lr": 3e-3}, "undial": {"steps": 12, "lr": 2e-3}, "wga": {"steps": 12, "lr": 2e-3},
    "satimp": {"steps": 15, "lr": 4e-3}, "ceu": {"steps": 12, "lr": 2e-3}, "altpo": {"steps": 10, "lr": 8e-4},
    "pdu": {"steps": 12, "lr": 2e-3}, "task-vector": {"steps": 10, "lr": 2e-4},
}  # fmt: skip
"""Steps and learning rates for a model of this size; all else is the preset's."""


@pytest.fixture(scope="module")
def data() -> Bundle:
    return Facts(authors=12, questions=4, forget=2, holdout=0).load(0)


@pytest.fixture(scope="module")
def original(data: Bundle) -> Any:
    """A model that knows every row, and its weights."""
    subject = TinyLM(width=32, depth=4, heads=2, vocab=400).load(data, 0)
    optim = AdamW(lr=1e-2, warmup=0.1, schedule="cosine")
    Train(on=("forget", "retain"), steps=140, batch=16, optim=optim)(subject, data, Memory())
    return subject, {k: v.clone() for k, v in subject.module.state_dict().items()}


def probability(subject: Any, data: Bundle, role: str) -> float:
    found = nll_by_id(subject, data[role]).values()
    return sum(math.exp(-nll / n) for nll, n in found) / len(found)


def unlearned(original: Any, data: Bundle, name: str, steps: int, lr: float) -> tuple[Any, float, float]:
    """The subject after a method, with its probability of the rows to forget and of those to keep."""
    subject, weights = original
    subject.module.load_state_dict(weights)
    stage = {**find_method(name).stage, "steps": steps, "batch": 8, "optim": {"use": "adamw", "lr": lr}}
    if name == "altpo":  # a model of this size follows no instruction
        shorter = {"request": "{question}", "num": 2, "max_new_tokens": 10, "temperature": 1.5}
        stage["augment"] = [{**stage["augment"][0], **shorter}]
    outcome = build_use("stages", stage, name)(subject, data, Memory())
    assert outcome.stopped is None and outcome.steps == steps
    return subject, probability(subject, data, "forget"), probability(subject, data, "retain")


@pytest.fixture(scope="module")
def ascent(original: Any, data: Bundle) -> float:
    """What plain ascent leaves of the rows to keep."""
    return unlearned(original, data, "ascent", 12, 2e-3)[2]


def test_every_peer_is_looked_at() -> None:
    assert set(SETTINGS) <= set(packaged_methods()) and len(SETTINGS) == 8


@pytest.mark.parametrize("name", SETTINGS)
def test_it_forgets_and_keeps_more_than_ascent(original: Any, data: Bundle, ascent: float, name: str) -> None:
    subject, weights = original
    subject.module.load_state_dict(weights)
    knew, kept = probability(subject, data, "forget"), probability(subject, data, "retain")
    assert min(knew, kept) > 0.5
    subject, forget, retain = unlearned(original, data, name, **SETTINGS[name])
    assert forget < 0.9 * knew
    assert retain > ascent + 0.2 * kept
    if name == "rmu":
        moved = {n for n, p in subject.module.named_parameters() if not torch.equal(p, weights[n])}
        assert moved == {f"model.layers.{i}.mlp.down_proj.weight" for i in (0, 1)}
