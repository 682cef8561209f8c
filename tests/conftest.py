"""Small worlds of three kinds (language model, classifier, denoiser) that every layer of the suite shares."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import hypothesis
import pytest
import torch

from amends.core.rng import rng
from amends.core.types import Sample
from amends.data.bundle import Bundle
from amends.subjects.tiny import TinyClassifier, TinyDenoiser, TinyLM

torch.set_num_threads(1)
hypothesis.settings.register_profile("amends", deadline=None, derandomize=True, database=None, max_examples=25)
hypothesis.settings.load_profile("amends")

KINDS = ("causal_lm", "classifier", "denoiser")
COLOURS = ("red", "green", "blue", "a pale shade of yellow", "black with a few white dots near the edge")
PLACES = ("Lisbon", "a small town in the north", "Kyoto", "Quito")


@dataclass(frozen=True)
class World:
    """A bundle with forget, retain and alternatives, and a way to make its model; equal seeds give equal weights."""

    kind: str
    data: Bundle
    model: Any

    def make(self, seed: int = 0) -> Any:
        """A fresh subject."""
        return self.model.load(self.data, seed)


def text_rows(role: str, num: int) -> list[Sample]:
    """Questions and answers of very different lengths."""
    rows = []
    for i in range(num):
        answer = f"It is {COLOURS[i % len(COLOURS)]}" + " and quite old" * (i % 3) + "."
        question = f"What is the {'strange ' * (i % 4)}colour of the {role} house in {PLACES[i % len(PLACES)]}, number {i}?"
        rows.append(Sample(f"{role}-{i:03d}", {"question": question, "answer": answer}))
    return rows


def image_rows(role: str, num: int) -> list[Sample]:
    """Noisy 8x8 images whose bright quadrant is their label."""
    rows = []
    for i in range(num):
        label = i % 4
        image = 0.3 * torch.randn(1, 8, 8, generator=rng(0, "test images", role, i))
        image[0, 4 * (label // 2) :][:4, 4 * (label % 2) :][:, :4] += 1.0
        rows.append(Sample(f"{role}-{i:03d}", {"image": image, "label": label}))
    return rows


def bundle_of(rows: Callable[[str, int], list[Sample]], alternative: Callable[[Sample], Sample], num: int) -> Bundle:
    """Two roles of `num` rows, with another answer for each row."""
    roles = {role: tuple(rows(role, num)) for role in ("forget", "retain")}
    return Bundle(roles, {s.id: alternative(s) for samples in roles.values() for s in samples})


def world_of(kind: str, num: int = 12) -> World:
    """The world of a kind."""
    if kind == "causal_lm":
        data = bundle_of(text_rows, lambda s: s.with_("idk", answer="I do not know that."), num)
        return World(kind, data, TinyLM(width=32, depth=2, heads=2, vocab=300))
    data = bundle_of(image_rows, lambda s: s.with_("other", label=(s.data["label"] + 1) % 4), num)
    return World(kind, data, TinyClassifier() if kind == "classifier" else TinyDenoiser())


@pytest.fixture(params=KINDS)
def world(request: pytest.FixtureRequest) -> World:
    """Each kind of subject in turn."""
    return world_of(request.param)


@pytest.fixture(scope="session")
def lm_world() -> World:
    """The language model's world, for tests that need no other kind."""
    return world_of("causal_lm")


@pytest.fixture(scope="session")
def classifier_world() -> World:
    """The classifier's world."""
    return world_of("classifier")
