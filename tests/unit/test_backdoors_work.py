"""Each trigger plants something that a small network learns, while the clean rows stay as easy as they were."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from amends.core.context import Memory
from amends.core.spec import build_use
from amends.core.types import Sample
from amends.data.bundle import Bundle
from amends.data.poison import Poison
from amends.data.surrogate import logits
from amends.subjects.image_classifier import ImageClassifier

CRAFT: dict[str, Any] = {
    "surrogate": {"use": "image_classifier", "width": 4}, "fit": {"use": "train", "on": ["train"], "steps": 60, "batch": 30},
}  # fmt: skip


class Mosaics:
    """Three classes of 4 x 4 colour tiles under noise, 12 x 12 pixels."""

    def load(self, seed: int) -> Bundle:
        draws = np.random.default_rng(0)
        tiles = 0.45 + 0.1 * draws.normal(size=(3, 3, 4, 4))
        roles = {}
        for role, many in (("train", 300), ("test", 90)):
            noise = draws.normal(0, 0.12, (many, 3, 12, 12))
            pixels = [np.clip(np.kron(tiles[i % 3], np.ones((3, 3))) + noise[i], 0, 1) for i in range(many)]
            rows = [
                Sample(f"{role}-{i}", {"image": np.round(255 * x).astype(np.uint8), "label": i % 3})
                for i, x in enumerate(pixels)
            ]
            roles[role] = tuple(rows)
        return Bundle(roles, classes=("a", "b", "c"))


def right(subject: Any, rows: tuple[Sample, ...]) -> float:
    return float((logits(subject, rows).argmax(1) == [row.data["label"] for row in rows]).mean())


@pytest.mark.parametrize(
    ("trigger", "rate", "at_least"),
    [
        ({"use": "badnets", "size": 3}, 0.2, 0.85),
        ({"use": "blend"}, 0.2, 0.85),
        ({"use": "wanet", "strength": 2}, 0.2, 0.85),
        ({"use": "sunrise"}, 0.2, 0.85),
        ({"use": "trojan", "size": 3, "steps": 20, **CRAFT}, 0.2, 0.85),
        ({"use": "adaptive_blend"}, 0.2, 0.15),  # what hides also weakens: covers, pieces, a kept label
        ({"use": "wanet", "grid": 8, "strength": 2, "noise": True}, 0.1, 0.1),
        ({"use": "label_consistent", **CRAFT}, 0.9, 0.25),
        ({"use": "clean_label", **CRAFT}, 0.9, 0.25),
    ],
    ids=lambda value: value["use"] if isinstance(value, dict) else "",
)
def test_what_is_planted_is_learned(
    trigger: Any, rate: float, at_least: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AMENDS_CACHE", str(tmp_path))
    data = Poison(of=Mosaics(), trigger=build_use("triggers", trigger, "trigger"), rate=rate).load(0)
    subject = ImageClassifier(width=8).load(data, 0)
    optim = {"use": "sgd", "lr": 0.1, "momentum": 0.9, "schedule": "cosine"}
    stage = build_use("stages", {"use": "train", "on": ["train"], "steps": 80, "batch": 48, "optim": optim}, "stage")
    stage(subject, data, Memory())
    assert right(subject, data["test"]) > 0.9
    plain = tuple(Sample(row.id, {**row.data, "label": 0}) for row in data["test"] if row.data["label"])
    before, after = right(subject, plain), right(subject, data["triggered"])
    assert before < 0.15 and after - before >= at_least
