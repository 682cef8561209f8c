"""Auditors by their formulas on features made by hand, in invariances and limits, and on rows where nothing is wrong."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from sklearn.decomposition import FastICA
from torch import nn

from amends.audit.activation_clustering import ActivationClustering, halves, reduced
from amends.audit.random_scores import RandomScores
from amends.audit.rows import blind
from amends.audit.spc import SPC
from amends.audit.spectral_signatures import SpectralSignatures, signature
from amends.core import catalog
from amends.core.context import Memory
from amends.core.errors import UserError
from amends.core.protocols import Auditor
from amends.core.rng import rng
from amends.core.spec import build_use
from amends.core.types import Sample, Scores
from amends.data.bundle import Bundle
from amends.engine import score as scoring
from amends.engine.features import features
from amends.metrics.flags import flag_measurements
from amends.subjects.classifier import Classifier
from amends.subjects.image_classifier import ImageClassifier

NAMES = [entry.name for entry in catalog.list_kind("auditors")]
SETTINGS: dict[str, dict[str, Any]] = {"spectral_signatures": {"rate": 0.1}, "mspc": {"rounds": 1, "passes": 2}}
"""What has no default, or would take long with it."""
VARIANTS: list[dict[str, Any]] = [
    *({"use": name, **SETTINGS.get(name, {})} for name in NAMES),
    {"use": "spectral_signatures", "rate": 0.05, "within": "all"},
    {"use": "activation_clustering", "reduce": "pca", "components": 3},
    {"use": "activation_clustering", "layer": 0},
    {"use": "mspc", "batch": 40, "fit_rows": 80, "rounds": 2, "passes": 3, "divergence": "jsd"},
]


def reader(pixels: int, classes: int = 2) -> Classifier:
    """A classifier whose last layer reads the pixels themselves."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(pixels, classes, bias=False))
    weight = torch.randn(classes, pixels, generator=rng(0, "reader"))
    with torch.no_grad():
        net[1].weight.copy_(weight)
    return Classifier(net.eval())


def rows_of(points_NC: Any, label: int = 0, name: str = "row") -> list[Sample]:
    """Each point as an image of one row of pixels."""
    points = np.asarray(points_NC, dtype=np.float32)
    return [Sample(f"{name}-{label}-{i:03d}", {"image": p.reshape(1, 1, -1), "label": label}) for i, p in enumerate(points)]


def bundle(*rows: Sample) -> Bundle:
    return Bundle({"train": rows}, classes=("a", "b"))


def drawn(name: str, rows: int, columns: int) -> np.ndarray:
    return torch.randn(rows, columns, generator=rng(0, name)).double().numpy()


def auroc(found: Scores, bad: set[str]) -> float:
    return flag_measurements(found, {row: row in bad for row in found.score})[0].value


# ---------------------------------------------------------------------- the contract


def test_the_catalog_was_enumerated() -> None:
    assert {"spectral_signatures", "activation_clustering", "spc", "mspc", "random_scores"} <= set(NAMES)


@pytest.fixture(scope="module")
def planted() -> tuple[Classifier, Bundle, set[str]]:
    """A small net on noise of three classes; a tenth of class 0 has a white corner."""
    rows = []
    for i in range(120):
        image = 0.5 * torch.rand(1, 8, 8, generator=rng(0, "noise", i))
        bad = i % 3 == 0 and i < 12
        image[0, 6:, 6:] = 1.0 if bad else image[0, 6:, 6:]
        truth = {"poisoned": True, "clean_label": 1} if bad else {}
        rows.append(Sample(f"row-{i:03d}", {"image": image, "label": i % 3, **truth}))
    data = Bundle({"train": tuple(rows), "triggered": tuple(rows[:1])}, classes=("a", "b", "c"))
    return ImageClassifier(width=2).load(data, 0), data, {r.id for r in rows if r.data.get("poisoned")}


@pytest.mark.parametrize("values", VARIANTS, ids=str)
def test_every_auditor_scores_every_row_whatever_their_order_and_batches(
    values: dict[str, Any], planted: tuple[Classifier, Bundle, set[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    subject, data, _ = planted
    auditor = build_use("auditors", values, "audit")
    assert isinstance(auditor, Auditor)
    assert catalog.normal(auditor.name) == catalog.normal(values["use"]) and auditor.role == "train"
    auditor.check(data, None)
    auditor.check(data, subject)
    before = {name: value.clone() for name, value in subject.module.state_dict().items()}
    subject.call.train()
    found = auditor.scores(subject, data, Memory(seed=3))
    assert list(found.score) == [row.id for row in data["train"]]
    assert all(0 <= s <= 1 for s in found.score.values()) and found.flagged <= found.score.keys()
    assert subject.call.training
    assert all(torch.equal(before[name], value) for name, value in subject.module.state_dict().items())
    assert auditor.scores(subject, data, Memory(seed=3)) == found
    turned = auditor.scores(subject, Bundle({"train": data["train"][::-1]}, classes=data.classes), Memory(seed=3))
    assert turned.score == found.score and turned.flagged == found.flagged
    monkeypatch.setattr(scoring, "CPU_TOKENS", 7)
    small = auditor.scores(subject, data, Memory(seed=3))
    assert small.score == pytest.approx(found.score, abs=1e-5) and small.flagged == found.flagged


@pytest.mark.parametrize("name", NAMES)
def test_every_auditor_says_what_it_cannot_audit(name: str) -> None:
    auditor = build_use("auditors", {"use": name, **SETTINGS.get(name, {})}, "audit")
    with pytest.raises(UserError, match="no role 'train'"):
        auditor.check(Bundle({"test": ()}), None)
    with pytest.raises(UserError, match=rf"{name}: role 'train' is empty"):
        auditor.check(Bundle({"train": ()}), None)
    if name != "random_scores":
        asked = Bundle({"train": (Sample("asked", {"question": "Who?", "answer": "She."}),)})
        with pytest.raises(UserError, match=rf"{name}: row asked of 'train' has no label"):
            auditor.check(asked, None)
        with pytest.raises(UserError, match=rf"{name}: the model tells no class"):
            auditor.check(bundle(*rows_of([[0.0]])), object())  # no classifier


def test_a_model_without_a_known_last_layer_is_refused_before_any_work() -> None:
    bare = Classifier(nn.Flatten().eval())
    bare.module.weight = nn.Parameter(torch.zeros(1))  # a module without weights has no device
    with pytest.raises(UserError, match="no linear layer with 2 outputs"):
        ActivationClustering().check(bundle(*rows_of([[0.0, 1.0]])), bare)


def test_no_auditor_sees_what_is_known_of_the_rows(planted: tuple[Classifier, Bundle, set[str]]) -> None:
    hidden = blind(planted[1])
    assert not any(key in row.data for rows in hidden.roles.values() for row in rows for key in ("poisoned", "clean_label"))
    assert "triggered" not in hidden and [r.id for r in hidden["train"]] == [r.id for r in planted[1]["train"]]
    assert any("poisoned" in row.data for row in planted[1]["train"])


def test_features_are_what_the_last_layer_reads_in_the_order_asked_for() -> None:
    rows = rows_of([[1.0, 2.0], [3.0, 4.0]])[::-1]
    found = features(reader(2), rows)
    assert [v.tolist() for v in found.values()] == [[3.0, 4.0], [1.0, 2.0]] and list(found) == [r.id for r in rows]


# ---------------------------------------------------------------------- spectral signatures


def test_the_signature_is_the_squared_projection_on_the_widest_direction() -> None:
    """Centred on 0, wider along the first axis: tau = (9, 9, 0, 0), mean 4.5, so t = 2 and a score of 2/3."""
    points = [[3, 0], [-3, 0], [0, 1], [0, -1]]
    assert signature(np.array(points, float)).tolist() == pytest.approx([9, 9, 0, 0])
    found = SpectralSignatures(rate=1 / 3).scores(reader(2), bundle(*rows_of(np.array(points) + 7.0)), Memory())
    assert list(found.score.values()) == pytest.approx([2 / 3, 2 / 3, 0, 0], abs=1e-6)
    assert found.flagged == {"row-0-000", "row-0-001"}  # 1.5 x 1/3 of four rows


def test_rows_along_a_planted_direction_get_the_highest_scores() -> None:
    points = drawn("spectral", 200, 8)
    points[:16] += 12 * np.eye(8)[3]
    own, others = rows_of(points), rows_of(drawn("others", 200, 8), 1)
    bad = {row.id for row in own[:16]}
    found = SpectralSignatures(rate=0.08).scores(reader(8), bundle(*own, *others), Memory())
    in_class = {row.id: found.score[row.id] for row in own}
    assert set(sorted(in_class, key=lambda row: -in_class[row])[:16]) == bad
    assert auroc(found, bad) > 0.99
    assert bad <= found.flagged and len(found.flagged) == 2 * 24
    together = SpectralSignatures(rate=0.04, within="all").scores(reader(8), bundle(*own, *others), Memory())
    assert together.score == found.score and len(together.flagged) == 24 and len(together.flagged & bad) >= 14


def test_nothing_is_found_where_half_of_a_class_is_poisoned() -> None:
    """Both halves are equally far from the mean: the theory's limit."""
    assert signature(np.array([[1.0, 0], [1, 0], [-1, 0], [-1, 0]])).tolist() == pytest.approx([1, 1, 1, 1])


# ---------------------------------------------------------------------- activation clustering


def test_the_smaller_cluster_is_flagged_and_the_lean_is_by_the_distances() -> None:
    """Six points around 0 and two at 10 on a line: centres 0 and 10; a point at 1 leans 1/10 to the small cluster."""
    lean_N, apart = halves(np.array([[-1.0], [-1], [0], [0], [1], [1], [10], [10]]), 0)
    assert lean_N.tolist() == pytest.approx([1 / 12, 1 / 12, 0, 0, 0.1, 0.1, 1, 1])
    own = [(2 * 1 + 2 * 2) / 5, (2 * 1 + 2 * 1) / 5, (2 * 2 + 2 * 1) / 5]  # mean distance inside, for -1, 0 and 1
    silhouette = (2 * sum(1 - a / b for a, b in zip(own, (11, 10, 9))) + 2 * 1) / 8
    assert apart == pytest.approx(silhouette)
    points = [[-1.0], [-1], [0], [0], [1], [1], [10], [10]]
    found = ActivationClustering(reduce="pca").scores(reader(1), bundle(*rows_of(points)), Memory())
    assert found.flagged == {"row-0-006", "row-0-007"}
    assert list(found.score.values()) == pytest.approx((silhouette * lean_N).tolist(), abs=1e-6)
    assert found.note == f"flagged in class a (silhouette {silhouette:.2f})"


@pytest.mark.parametrize("values", [{"size": 0.2}, {"silhouette": 0.99}])
def test_a_cluster_that_is_large_or_touches_the_other_is_not_flagged(values: dict[str, float]) -> None:
    points = [[-1.0], [-1], [0], [0], [1], [1], [10], [10]]
    found = ActivationClustering(**values).scores(reader(1), bundle(*rows_of(points)), Memory())  # type: ignore[arg-type]
    assert not found.flagged and max(found.score.values()) > 0.8
    assert found.note == "no class has a small cluster that stands apart"


def test_few_rows_and_rows_of_one_kind_have_no_cluster() -> None:
    found = ActivationClustering().scores(reader(1), bundle(*rows_of([[1.0], [2], [3]]), *rows_of([[1.0]] * 9, 1)), Memory())
    assert set(found.score.values()) == {0.0} and not found.flagged


def test_whitened_components_have_the_distances_of_the_papers_independent_components() -> None:
    values = torch.rand(200, 5, generator=rng(0, "uniform")).double().numpy() ** 3
    mixed = values @ drawn("mixing", 5, 5)
    mine = reduced(mixed - mixed.mean(0), 5, whiten=True)
    theirs = FastICA(5, whiten="unit-variance", random_state=0, max_iter=2000).fit_transform(mixed)

    def distances(points: np.ndarray) -> np.ndarray:
        return np.linalg.norm(points[:, None] - points[None], axis=2)

    assert np.allclose(distances(mine), distances(theirs), rtol=1e-6)
    assert mine.var(0) == pytest.approx(np.ones(5))
    assert distances(reduced(mixed - mixed.mean(0), 5, whiten=False)) == pytest.approx(distances(mixed))


def test_as_many_components_as_the_features_have() -> None:
    flat = np.outer(np.arange(6.0) - 2.5, [1.0, 2.0, 3.0])
    assert reduced(flat, 10, whiten=True).shape == (6, 1) and reduced(np.zeros((6, 3)), 10, whiten=True).shape == (6, 0)


# ---------------------------------------------------------------------- scaled prediction consistency


def above_half() -> Classifier:
    """Class 1 where the one pixel is above 0.55."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(1, 2))
    with torch.no_grad():
        net[1].weight.copy_(torch.tensor([[0.0], [1.0]]))
        net[1].bias.copy_(torch.tensor([0.55, 0.0]))
    return Classifier(net.eval())


def test_consistency_is_the_share_of_brighter_copies_that_keep_the_class() -> None:
    """0.1 stays below under 3 and 5 (0.3, 0.5) and not under 7, 9, 11; 0.2 under none; 0.8 and 0 keep theirs."""
    found = SPC().scores(above_half(), bundle(*rows_of([[0.1], [0.2], [0.8], [0.0]])), Memory())
    assert list(found.score.values()) == pytest.approx([2 / 5, 0, 1, 1])
    assert found.flagged == {"row-0-002", "row-0-003"}
    assert found.note == "scaling by 3 changes 75% of the pixels"
    half = SPC(scales=(5, 7)).scores(above_half(), bundle(*rows_of([[0.1]])), Memory())
    assert half.score == {"row-0-000": 0.5} and not half.flagged  # a majority is more than half


def test_scaling_by_one_always_agrees_and_black_and_white_pixels_tell_nothing() -> None:
    one = SPC(scales=(1,)).scores(above_half(), bundle(*rows_of([[0.3], [0.7]])), Memory())
    assert set(one.score.values()) == {1.0}
    saturated = SPC().scores(above_half(), bundle(*rows_of([[0.0], [1.0]])), Memory())
    assert set(saturated.score.values()) == {1.0} and saturated.note == "scaling by 3 changes 0% of the pixels"


def test_all_scalings_of_a_batch_take_one_forward() -> None:
    subject = above_half()
    calls: list[int] = []
    subject.call.register_forward_hook(lambda _, inputs, __: calls.append(len(inputs[0])))
    SPC(scales=(2, 3, 4)).scores(subject, bundle(*rows_of([[0.1]] * 6)), Memory())
    assert calls == [6 * 4]


# ---------------------------------------------------------------------- controls


def test_random_scores_find_nothing() -> None:
    rows = rows_of(np.zeros((4000, 1)))
    bad = {row.id for row in rows[:400]}
    found = RandomScores(rate=0.1).scores(None, bundle(*rows), Memory())
    value, *_, flagged = flag_measurements(found, {row: row in bad for row in found.score})
    assert abs(value.value - 0.5) < 0.03 and value.low < 0.5 < value.high
    assert len(found.flagged) == 400 and flagged.value == 0.1
    assert RandomScores().scores(None, bundle(*rows), Memory(seed=1)).score != found.score


@pytest.fixture(scope="module")
def clean() -> tuple[Any, Bundle]:
    """Real digits with nothing wrong, and a net that learned them."""
    data = build_use("data", {"use": "labelled", "of": {"use": "digits"}, "by": "audit", "limit": {"train": 500}}, "d").load(0)
    subject = ImageClassifier(width=8).load(data, 0)
    sgd = {"use": "sgd", "lr": 0.1, "momentum": 0.9, "schedule": "cosine"}
    build_use("stages", {"use": "train", "on": ["train"], "steps": 80, "batch": 64, "optim": sgd}, "s")(subject, data, Memory())
    return subject, data


FALSE_ALARMS: list[tuple[dict[str, Any], float, float]] = [
    ({"use": "spectral_signatures", "rate": 0.1}, 0.14, 0.16),
    ({"use": "spectral_signatures", "rate": 0.01, "within": "all"}, 0.014, 0.016),
    ({"use": "activation_clustering"}, 0.0, 0.2),
    ({"use": "activation_clustering", "reduce": "pca"}, 0.0, 0.2),
    ({"use": "spc"}, 0.5, 0.95),
    ({"use": "mspc", "passes": 2, "batch": 50}, 0.5, 0.95),
    ({"use": "random_scores"}, 0.1, 0.1),
]
"""The share of clean digits that is flagged, at least and at most. Spectral signatures flag 1.5 x rate by their rule, whatever
is there; on pixels that are nearly black or white SPC and MSPC flag most, and their notes should warn."""


@pytest.mark.parametrize(("values", "low", "high"), FALSE_ALARMS, ids=str)
def test_how_many_rows_of_a_clean_set_are_flagged(
    values: dict[str, Any], low: float, high: float, clean: tuple[Any, Bundle]
) -> None:
    found = build_use("auditors", values, "audit").scores(*clean, Memory())
    assert low <= len(found.flagged) / len(found.score) <= high
    assert [m.name for m in flag_measurements(found, {})] == ["flagged"]


def test_scores_outside_their_range_are_a_defect() -> None:
    with pytest.raises(ValueError, match=r"must lie in 0\.\.1.*a: 1\.5"):
        Scores({"a": 1.5}, frozenset())
    with pytest.raises(ValueError, match="a flag has none"):
        Scores({"a": 0.5}, frozenset({"b"}))
