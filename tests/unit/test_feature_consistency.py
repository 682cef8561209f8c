"""Feature consistency: its transformation against turns and shifts that are known, and its distances by hand."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from audit_world import SIDE, eight_bit, floats, noise_rows
from torch import nn

from amends.audit.feature_consistency import FeatureConsistency, transformed
from amends.core.context import Memory
from amends.core.rng import rng
from amends.core.types import Sample
from amends.data.bundle import Bundle
from amends.subjects.classifier import Classifier

IMAGE = torch.rand(2, 3, 8, 8, generator=rng(0, "image"))


def at(turn: float, across: float = 0.0, down: float = 0.0) -> torch.Tensor:
    return torch.tensor([[turn, across, down]] * 2)


def close(found: torch.Tensor, wanted: torch.Tensor) -> None:
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=0)


def reader(side: int = SIDE) -> Classifier:
    """A model whose last layer reads the pixels."""
    return Classifier(nn.Sequential(nn.Flatten(), nn.Linear(side * side, 3)).eval())


def test_turns_and_shifts_are_those_of_the_grid() -> None:
    close(transformed(IMAGE, at(0.0)), IMAGE)
    close(transformed(IMAGE, at(math.pi / 2)), torch.rot90(IMAGE, -1, (2, 3)))  # clockwise: y grows downwards
    close(transformed(IMAGE, at(2 * math.pi)), IMAGE)
    shifted = torch.zeros_like(IMAGE)
    shifted[:, :, 1:, 2:] = IMAGE[:, :, :-1, :-2]
    close(transformed(IMAGE, at(0.0, 2 / 8, 1 / 8)), shifted)


def test_an_oblong_image_is_turned_not_sheared() -> None:
    oblong = IMAGE[:, :, :4]
    close(transformed(oblong, at(math.pi)), oblong.flip(2, 3))
    middle = transformed(oblong, at(math.pi / 2))[:, :, :, 2:6]
    close(middle, torch.rot90(oblong[:, :, :, 2:6], -1, (2, 3)))


def test_it_is_shifted_after_it_is_turned() -> None:
    turned = transformed(IMAGE, at(math.pi / 2))
    close(transformed(IMAGE, at(math.pi / 2, 1 / 8)), transformed(turned, at(0.0, 1 / 8)))


def test_rows_that_no_turn_moves_are_all_alike() -> None:
    black = tuple(Sample(f"r{i}", {"image": torch.zeros(1, SIDE, SIDE), "label": i}) for i in range(3))
    for end in ("large", "small"):
        found = FeatureConsistency(suspicious=end).scores(reader(), Bundle({"train": black}), Memory())  # type: ignore[arg-type]
        assert set(found.score.values()) == {0.5}


def test_distances_by_hand() -> None:
    """A flat image loses what a shift brings in from outside; a black one loses nothing: distances d, 0, shares of d/2."""
    flat = (1.0, 0.5, 0.0)
    rows = tuple(Sample(f"r{i}", {"image": torch.full((1, SIDE, SIDE), v), "label": i}) for i, v in enumerate(flat))
    auditor = FeatureConsistency(draws=400, rate=0.34)
    found = auditor.scores(reader(), Bundle({"train": rows}), Memory())
    assert found.score["r2"] == 0.0 and found.flagged == {"r0"}
    t = [s / (1 - s) for s in found.score.values()]
    assert t[0] / t[1] == pytest.approx(4.0, rel=0.15)  # squares, up to what was drawn
    assert sum(t) == pytest.approx(3.0)  # t is over the mean
    small = FeatureConsistency(draws=400, rate=0.34, suspicious="small").scores(reader(), Bundle({"train": rows}), Memory())
    assert small.score == pytest.approx({row: 1 - s for row, s in found.score.items()}) and small.flagged == {"r2"}


def test_what_is_drawn_keeps_its_bounds_and_rests_on_the_id() -> None:
    subject = reader()
    batch = subject.collate([subject.encode(row) for row in noise_rows(50, "pictures")])
    drawn = FeatureConsistency(degrees=90, shift=0.1, draws=20).drawn(batch, Memory())
    most = drawn.abs().amax((0, 1))
    assert drawn.shape == (20, 50, 3) and most[0] <= math.pi / 2 + 1e-6 and most[0] > 1.5
    assert most[1:].max() <= 0.1 + 1e-6 and most[1:].min() > 0.095
    part: Any = FeatureConsistency(degrees=90, shift=0.1, draws=20).drawn(batch.rows(7, 9), Memory())
    assert torch.equal(part, drawn[:, 7:9])


def test_eight_bit_pictures_are_the_same_to_it() -> None:
    whole = tuple(map(eight_bit, noise_rows(9, "pictures")))
    subject = reader()
    found = FeatureConsistency().scores(subject, Bundle({"train": whole}), Memory())
    assert found == FeatureConsistency().scores(subject, Bundle({"train": tuple(map(floats, whole))}), Memory())
