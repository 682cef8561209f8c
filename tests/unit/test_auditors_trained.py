"""Auditors that train a model of their own: anti-backdoor learning and its term, and the frequency detector."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from audit_world import SIDE, bundle, eight_bit, floats, noise_rows, rows_of
from scipy.fft import dctn
from torch import nn

from amends.audit import perturbations
from amends.audit.abl import ABL, fresh
from amends.audit.frequency import Frequency, Spectrum, cosines
from amends.core.context import Memory
from amends.core.errors import UserError
from amends.core.rng import rng
from amends.core.types import Sample
from amends.data.bundle import Bundle
from amends.engine.view import RoleView
from amends.subjects.classifier import Classifier
from amends.terms.lga import LGA
from amends.terms.nll import NLL


def linear() -> Classifier:
    """Three classes, linear in 16 pixels, with known weights."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(SIDE * SIDE, 3))
    with torch.no_grad():
        for p in net.parameters():
            p.copy_(torch.randn(p.shape, generator=rng(0, "linear", p.ndim)))
    return Classifier(net.eval())


def value_and_gradient(term: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """What a term makes of ten rows, and the gradient of its mean."""
    subject = linear()
    batch = subject.collate([subject.encode(row) for row in noise_rows(10, "pictures")])
    found = term(RoleView(subject, batch, len(batch), None, None))
    found.value.backward()
    return found.total_B.detach(), torch.cat([p.grad.flatten() for p in subject.module.parameters()])


def losses() -> torch.Tensor:
    return value_and_gradient(NLL(per="row"))[0]


# ---------------------------------------------------------------------- local gradient ascent


def test_rows_above_gamma_descend_and_rows_below_ascend() -> None:
    loss_B = losses()
    gamma = float(loss_B.median()) + 1e-3
    found = value_and_gradient(LGA(gamma=gamma))[0]
    assert found.tolist() == pytest.approx([v if v > gamma else -v for v in loss_B.tolist()])
    assert 0 < (found < 0).sum() < len(found)
    flooded = value_and_gradient(LGA(gamma=gamma, form="flooding"))[0]
    assert flooded.tolist() == pytest.approx([abs(v - gamma) + gamma for v in loss_B.tolist()])


def test_the_sign_of_the_batch_sends_all_rows_one_way() -> None:
    loss_B, plain = value_and_gradient(NLL(per="row"))
    mean = float(loss_B.mean())
    for gamma, way in ((mean - 0.1, 1), (mean + 0.1, -1)):
        found_B, gradient = value_and_gradient(LGA(gamma=gamma, sign="batch"))
        assert found_B.tolist() == pytest.approx([way * v for v in loss_B.tolist()])
        torch.testing.assert_close(gradient, way * plain)
        flooded_B = value_and_gradient(LGA(gamma=gamma, sign="batch", form="flooding"))[0]
        assert float(flooded_B.mean()) == pytest.approx(abs(mean - gamma) + gamma)


@pytest.mark.parametrize("sign", ["row", "batch"])
def test_both_forms_have_one_gradient(sign: Any) -> None:
    gamma = float(losses().median()) + 1e-3
    forms: tuple[Any, ...] = ("lga", "flooding")
    one, two = (value_and_gradient(LGA(gamma=gamma, sign=sign, form=form))[1] for form in forms)
    torch.testing.assert_close(one, two)


def test_the_limits_of_gamma_are_training_and_ascent() -> None:
    plain = value_and_gradient(NLL(per="row"))[1]
    torch.testing.assert_close(value_and_gradient(LGA(gamma=0.0))[1], plain)
    torch.testing.assert_close(value_and_gradient(LGA(gamma=1e6))[1], -plain)


# ---------------------------------------------------------------------- anti-backdoor learning


def auroc(score: Any, bad: set[str]) -> float:
    high, low = ([s for row, s in score.items() if (row in bad) is wanted] for wanted in (True, False))
    return float(np.mean([(a > b) + 0.5 * (a == b) for a in high for b in low]))


@pytest.mark.parametrize("sign", ["row", "batch"])
def test_rows_with_a_trigger_are_learned_first(sign: Any) -> None:
    """Labels of noise have nothing to be learned from but the trigger."""
    rows = noise_rows(120, "pictures", bad=12)
    bad, subject, run = {row.id for row in rows[:12]}, linear(), Memory()
    before = [p.clone() for p in subject.module.parameters()]
    found = ABL(epochs=8, batch=20, rate=0.1, sign=sign).scores(subject, Bundle({"train": rows}), run)
    assert auroc(found.score, bad) > 0.95 and len(found.flagged) == 12 and len(found.flagged & bad) >= 7
    assert all(torch.equal(p, q) for p, q in zip(subject.module.parameters(), before, strict=True))
    assert len(run.logged) == 8 * 6 and "0.lga.audited" in run.logged[0]
    assert found.note.endswith("of the rows have a loss below gamma")


def test_the_audited_weights_do_not_count_only_their_shape() -> None:
    data, one, other = Bundle({"train": noise_rows(12, "pictures")}), linear(), linear()
    with torch.no_grad():
        other.module[1].weight.zero_()
        other.module[1].weight.requires_grad_(False)
    auditor = ABL(epochs=2, batch=6)
    assert auditor.scores(one, data, Memory()) == auditor.scores(other, data, Memory())
    assert auditor.scores(one, data, Memory(seed=1)).score != auditor.scores(one, data, Memory()).score
    assert not other.module[1].weight.requires_grad and all(p.requires_grad for p in fresh(other, 0).module.parameters())


def test_one_class_alone_is_refused() -> None:
    with pytest.raises(UserError, match="abl: all rows of 'train' have one label"):
        ABL().check(bundle(rows_of([[0.1], [0.2]])), None)


class Killed(Memory):
    """A run that ends at its sixth step."""

    def log(self, **values: Any) -> None:
        if values.get("step") == 6:
            raise KeyboardInterrupt
        super().log(**values)


@pytest.mark.parametrize("auditor", [ABL(epochs=4, batch=4), Frequency(epochs=4, batch=8, width=2)], ids=("abl", "frequency"))
def test_an_interrupted_audit_goes_on_where_it_was(auditor: Any, tmp_path: Path) -> None:
    auditor = replace(auditor, checkpoint_every=2)
    data = Bundle({"train": noise_rows(16, "pictures")})
    with pytest.raises(KeyboardInterrupt):
        auditor.scores(linear(), data, Killed(folder=tmp_path))
    again = Memory(folder=tmp_path)
    found = auditor.scores(linear(), data, again)
    assert "resumed at step 4" in again.said
    assert found == auditor.scores(linear(), data, Memory())


# ---------------------------------------------------------------------- the frequency detector


def test_the_transform_is_the_orthonormal_cosine_transform() -> None:
    image = torch.rand(2, 3, 6, 8, generator=rng(0, "image"))
    mine = cosines(6) @ image @ cosines(8).T
    assert np.allclose(mine.numpy(), dctn(image.numpy(), type=2, norm="ortho", axes=(2, 3)), atol=1e-5)
    torch.testing.assert_close(cosines(8) @ cosines(8).T, torch.eye(8), atol=1e-6, rtol=0)
    flat = Spectrum(nn.Identity(), image).spectrum(torch.full((1, 3, 6, 8), 0.5)).exp() - 1e-3
    assert flat[0, 0, 0, 0].item() == pytest.approx(0.5 * 48**0.5, rel=1e-4) and flat.flatten()[1:48].max() < 1e-5


def test_what_the_network_reads_is_standardised_for_the_rows_it_learns_from() -> None:
    images = torch.rand(50, 1, 6, 6, generator=rng(0, "images"))
    seen = Spectrum(nn.Identity(), images)(images)
    assert seen.mean(0).abs().max() < 1e-4 and (seen.std(0) - 1).abs().max() < 1e-4


@pytest.mark.parametrize("name", perturbations.KINDS)
def test_a_perturbation_changes_a_picture_and_keeps_it_one(name: str) -> None:
    image, other = (0.2 + 0.6 * torch.rand(3, 8, 12, generator=rng(0, "image", i)) for i in range(2))
    before = image.clone()
    for i in range(20):
        found = perturbations.KINDS[name](image, other, rng(0, "drawn", i))
        assert found.shape == image.shape and not torch.equal(found, image) and torch.equal(image, before)
        pasted = name in ("square", "speckled")
        assert not pasted or (found != image).any(0).sum() <= 4  # a square of at most 2 x 2
        clamped = perturbations.perturbed(image, other, rng(0, "drawn", i))
        assert clamped.min() >= 0 and clamped.max() <= 1


def smooth_rows(many: int, name: str, bad: int = 0) -> tuple[Sample, ...]:
    """Gradients of grey, 8 x 8; the first `bad` have a checker of 3 x 3 in a corner."""
    found = []
    for i in range(many):
        a, b, c = torch.rand(3, generator=rng(0, name, i)).tolist()
        y, x = torch.meshgrid(torch.linspace(-0.5, 0.5, 8), torch.linspace(-0.5, 0.5, 8), indexing="ij")
        image = (0.5 + 0.2 * (a - 0.5) + 0.5 * (b - 0.5) * y + 0.5 * (c - 0.5) * x)[None]
        if i < bad:
            image[0, 5:, 5:] = torch.arange(9.0).remainder(2).reshape(3, 3)
        found.append(Sample(f"{name}-{i:03d}", {"image": image, "label": 0}))
    return tuple(found)


def test_tampering_is_found_without_labels_or_a_model() -> None:
    rows, clean = smooth_rows(60, "smooth", bad=12), smooth_rows(120, "known")
    bad, auditor = {row.id for row in rows[:12]}, Frequency(clean="known", width=4)
    found = auditor.scores(None, Bundle({"train": rows, "known": clean}), Memory())
    assert auroc(found.score, bad) > 0.95 and bad <= found.flagged and len(found.flagged - bad) <= 5
    assert found.note.startswith("of 12 rows kept back it passes 1")
    bare = tuple(Sample(row.id, {"image": row.data["image"]}) for row in rows)
    assert auditor.scores(None, Bundle({"train": bare, "known": clean[::-1]}), Memory()) == found


def test_eight_bit_pictures_are_the_same_to_it() -> None:
    whole, auditor = tuple(map(eight_bit, smooth_rows(20, "smooth"))), Frequency(epochs=1, width=2)
    found = auditor.scores(None, Bundle({"train": whole}), Memory())
    assert found == auditor.scores(None, Bundle({"train": tuple(map(floats, whole))}), Memory())


def test_what_the_frequency_detector_cannot_work_with() -> None:
    with pytest.raises(UserError, match="frequency: role 'train' has 4 rows, and it learns from 10 at least"):
        Frequency().check(Bundle({"train": smooth_rows(4, "smooth")}), None)
    with pytest.raises(UserError, match=r"frequency: images of 'train' are 12 x 1 pixels"):
        Frequency().check(bundle(rows_of(np.zeros((10, 12)))), None)
    with pytest.raises(UserError, match="frequency: row text-0 of 'train' has no image"):
        Frequency().check(Bundle({"train": (Sample("text-0", {"text": "words"}),)}), None)
