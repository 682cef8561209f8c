"""Other labels as alternatives: drawn at random, or found by one adversarial step."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from amends.augment.boundary_shrink import BoundaryShrink
from amends.augment.relabelled import Relabelled
from amends.core.context import Memory
from amends.core.errors import UserError
from amends.core.spec import Weighted
from amends.core.types import Sample
from amends.data.bundle import Bundle
from amends.engine.optim import SGD
from amends.subjects.classifier import Classifier
from amends.terms.idk import Idk
from amends.terms.nll import NLL
from amends.unlearn.gradient import Gradient


def labels(data: Bundle) -> list[tuple[int, int]]:
    return [(s.data["label"], data.alternatives[s.id].data["label"]) for s in data["forget"]]


def test_other_labels_are_never_the_rows_own_and_come_evenly(classifier_world: Any) -> None:
    drawn = labels(Relabelled(times=50)(None, classifier_world.data, Memory()))
    assert len(drawn) == 600 and all(own != other for own, other in drawn)
    counts = Counter(drawn)
    assert len(counts) == 12 and all(25 < n < 80 for n in counts.values()), "50 expected of each pair"
    anything = Counter(labels(Relabelled(times=50, labels="any")(None, classifier_world.data, Memory())))
    assert len(anything) == 16 and all(17 < n < 65 for n in anything.values())


def test_labels_follow_the_seed_and_the_row_and_nothing_else(classifier_world: Any) -> None:
    data = classifier_world.data
    first = labels(Relabelled()(None, data, Memory(seed=0)))
    assert first == labels(Relabelled()(None, data, Memory(seed=0))) != labels(Relabelled()(None, data, Memory(seed=1)))
    turned = Relabelled()(None, data.with_role("forget", data["forget"][::-1]), Memory(seed=0))
    assert labels(turned) == first[::-1]


def test_a_class_that_is_wholly_forgotten_is_a_class(classifier_world: Any) -> None:
    """The labels are those of all roles, so retain rows get their class drawn and forget rows are not left without one."""
    data = classifier_world.data
    split = Bundle({
        "forget": tuple(s for s in data["forget"] if s.data["label"] == 0),
        "retain": tuple(s for s in data["retain"] if s.data["label"] != 0),
    })  # fmt: skip
    assert {other for _, other in labels(Relabelled(times=30)(None, split, Memory()))} == {1, 2, 3}
    assert {other for _, other in labels(Relabelled(times=60, classes=6)(None, split, Memory()))} == {1, 2, 3, 4, 5}
    only = Bundle({"forget": split["forget"]})
    with pytest.raises(UserError, match="has the only class there is"):
        Relabelled()(None, only, Memory())


def test_rows_without_a_label_are_named(lm_world: Any) -> None:
    for augment in (Relabelled(), BoundaryShrink()):
        with pytest.raises(UserError, match="row forget-000 of 'forget' has no label"):
            augment.objective_on(lm_world.data)


def test_random_labels_unlearn_through_the_gradient_stage(classifier_world: Any) -> None:
    subject, plain = classifier_world.make(), Bundle(classifier_world.data.roles)
    stage = Gradient(
        objective=(Weighted(term=Idk()), Weighted(term=NLL())), augment=(Relabelled(),), steps=3, optim=SGD(lr=0.1), batch=6
    )
    stage.objective_on(plain)
    assert stage(subject, plain, Memory()).steps == 3


# ---------------------------------------------------------------------- boundary shrink


class Linear2(nn.Module):
    """Logits (x, y, -x) of an image of two pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]]))

    def forward(self, image: Tensor) -> Tensor:
        return image.flatten(1) @ self.w.T


def rows(*points: tuple[float, float]) -> Bundle:
    return Bundle({"forget": tuple(
        Sample(f"r{i}", {"image": torch.tensor(p).view(1, 1, 2), "label": 0}) for i, p in enumerate(points)
    )})  # fmt: skip


def test_the_nearest_class_by_hand() -> None:
    """Against class 0 the step lowers x and raises y: (0.5, 0.45) crosses to class 1; (0.9, 0.1) stays, runner-up 1."""
    found = BoundaryShrink(eps=0.1)(Classifier(Linear2()), rows((0.5, 0.45), (0.9, 0.1)), run := Memory())
    assert labels(found) == [(0, 1), (0, 1)] and run.said == [
        "one step of 0.1 takes 1 of 2 rows of 'forget' across a decision boundary"
    ]
    kept = BoundaryShrink(eps=0.1, unmoved="true_class")(Classifier(Linear2()), rows((0.5, 0.45), (0.9, 0.1)), Memory())
    assert labels(kept) == [(0, 1), (0, 0)]


def test_the_step_is_fgsms_rounded_and_clipped() -> None:
    shrink, image = BoundaryShrink(eps=0.1), torch.tensor([0.5, 0.95, 0.03])
    moved = shrink._stepped(image, torch.tensor([2.0, 1e-9, -3.0]))
    assert moved.tolist() == pytest.approx([round(0.6 * 255) / 255, 1.0, 0.0])
    free = BoundaryShrink(eps=0.1, low=None, high=None, levels=None)
    assert free._stepped(image, torch.tensor([2.0, 1e-9, -3.0])).tolist() == pytest.approx([0.6, 1.05, -0.07])


def test_images_beyond_the_range_are_an_error_with_the_remedy(classifier_world: Any) -> None:
    with pytest.raises(UserError, match="beyond `low` and `high`: set these to the range that images have, or to null"):
        BoundaryShrink()(classifier_world.make(), classifier_world.data, Memory())
    subject = classifier_world.make()
    before = [p.clone() for p in subject.module.parameters()]
    drawn = labels(BoundaryShrink(low=None, high=None, levels=None)(subject, classifier_world.data, Memory()))
    assert all(own != other for own, other in drawn) and all(p.grad is None for p in subject.module.parameters())
    assert all(torch.equal(p, q) for p, q in zip(subject.module.parameters(), before, strict=True))
