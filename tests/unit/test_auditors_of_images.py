"""SPC's options, STRIP and cognitive distillation: by hand, in limits, and on a model whose backdoor is known."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from audit_world import SIDE, Backdoored, above, bundle, eight_bit, floats, noise_rows, rows_of
from scipy.special import ndtr
from torch import nn

from amends.audit.cognitive_distillation import CognitiveDistillation, masked, variation
from amends.audit.images import below, lowest
from amends.audit.spc import SPC
from amends.audit.strip import Strip, entropy
from amends.core.context import Memory
from amends.core.errors import UserError
from amends.core.spec import build_use
from amends.core.types import Sample
from amends.data.bundle import Bundle
from amends.subjects.classifier import Classifier

READERS: list[Any] = [
    SPC(scales="mspc", noise=0.02),  # type: ignore[arg-type]
    Strip(overlays=5),
    CognitiveDistillation(steps=4),
]
ids = [auditor.name for auditor in READERS]


def auroc(score: dict[str, float], bad: set[str]) -> float:
    high, low = ([s for row, s in score.items() if (row in bad) is wanted] for wanted in (True, False))
    return float(np.mean([(a > b) + 0.5 * (a == b) for a in high for b in low]))


# ---------------------------------------------------------------------- all three


@pytest.mark.parametrize("auditor", READERS, ids=ids)
def test_eight_bit_pixels_are_the_same_pictures(auditor: Any) -> None:
    whole = tuple(map(eight_bit, noise_rows(12, "pictures")))
    subject = Classifier(Backdoored().eval())
    found = auditor.scores(subject, Bundle({"train": whole}), Memory())
    assert auditor.scores(subject, Bundle({"train": tuple(map(floats, whole))}), Memory()) == found


@pytest.mark.parametrize("auditor", READERS, ids=ids)
def test_what_is_drawn_for_a_row_rests_on_the_seed_and_its_id_alone(auditor: Any) -> None:
    subject, rows, clean = Classifier(Backdoored().eval()), noise_rows(12, "pictures"), noise_rows(5, "clean")
    auditor = build_use("auditors", {"use": auditor.name, "clean": "clean", **SMALL[auditor.name]}, "audit")

    def scored(rows: tuple[Sample, ...], seed: int = 0) -> dict[str, float]:
        return dict(auditor.scores(subject, Bundle({"train": rows, "clean": clean}), Memory(seed=seed)).score)

    whole, part = scored(rows), scored(rows[3:6][::-1])
    assert part == pytest.approx({row: whole[row] for row in part}, abs=1e-5)
    assert scored(rows, seed=1) != whole


SMALL: dict[str, dict[str, Any]] = {
    "spc": {"noise": 0.2}, "strip": {"overlays": 5}, "cognitive_distillation": {"steps": 4},
}  # fmt: skip


@pytest.mark.parametrize("auditor", READERS, ids=ids)
def test_clean_rows_that_are_none_are_refused(auditor: Any) -> None:
    name, rows = auditor.name, noise_rows(4, "pictures")
    asks = build_use("auditors", {"use": name, "clean": "known"}, "audit")
    with pytest.raises(UserError, match="no role 'known'"):
        asks.check(Bundle({"train": rows}), None)
    with pytest.raises(UserError, match=rf"{name}: clean: role 'known' has 1 row\(s\)"):
        asks.check(Bundle({"train": rows, "known": noise_rows(1, "clean")}), None)
    with pytest.raises(UserError, match=rf"{name}: clean: row pictures-003 of 'known' stands in 'train'"):
        asks.check(Bundle({"train": rows, "known": (*noise_rows(1, "clean"), rows[3])}), None)
    texts = tuple(Sample(f"text-{i}", {"text": "words", "label": 0}) for i in range(2))
    with pytest.raises(UserError, match=rf"{name}: row text-0 of 'known' has no image"):
        asks.check(Bundle({"train": rows, "known": texts}), None)
    with pytest.raises(UserError, match=rf"{name}: row text-0 of 'train' has no image"):
        auditor.check(Bundle({"train": texts}), None)
    asks.check(Bundle({"train": rows, "known": noise_rows(2, "clean")}), None)


@pytest.mark.parametrize("auditor", READERS, ids=ids)
def test_no_gradient_is_left_in_the_model_and_gradients_may_be_off(auditor: Any) -> None:
    module = Backdoored().eval()
    data = Bundle({"train": noise_rows(4, "pictures")})
    found = auditor.scores(Classifier(module), data, Memory())
    assert module.weight.grad is None and module.weight.requires_grad
    module.requires_grad_(False)
    with torch.no_grad():
        assert auditor.scores(Classifier(module), data, Memory()) == found


def test_the_rules_by_hand() -> None:
    assert below([1.0, 2.0, 3.0], 1.0) == pytest.approx(1.0)
    assert lowest({"a": 3, "b": 1, "c": 2}, 0.0) == frozenset() and len(lowest({"a": 3, "b": 1, "c": 2}, 1.0)) == 3


# ---------------------------------------------------------------------- scaled prediction consistency


def test_sets_of_scalings_have_names() -> None:
    assert SPC(scales="paper") == SPC()  # type: ignore[arg-type]
    assert SPC(scales="released").scales == tuple(range(1, 12))  # type: ignore[arg-type]
    assert SPC(scales="mspc").scales == tuple(range(2, 13))  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"audit\.scales: .*there are paper, released, mspc"):
        build_use("auditors", {"use": "spc", "scales": "papers"}, "audit")


def test_a_scaling_by_one_lifts_every_score() -> None:
    """Of a score of a over 2..11 released code makes (10 a + 1) / 11."""
    rows = bundle(rows_of([[0.1], [0.2], [0.8]]))
    with_one = SPC(scales="released").scores(above(), rows, Memory()).score  # type: ignore[arg-type]
    without = SPC(scales=tuple(range(2, 12))).scores(above(), rows, Memory()).score
    assert with_one == pytest.approx({row: (10 * s + 1) / 11 for row, s in without.items()})


class Viewed(nn.Module):
    """Takes its feature maps apart by `view`, or by what works in any order of memory."""

    def __init__(self, *, by_view: bool) -> None:
        super().__init__()
        self.conv, self.head, self.by_view = nn.Conv2d(3, 4, 3, padding=1), nn.Linear(4 * 36, 3), by_view

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """[B, 3, 6, 6] -> [B, 3]."""
        maps = self.conv(image).relu()
        return self.head(maps.view(len(image), -1) if self.by_view else maps.flatten(1))


def test_bf16_says_the_same_except_in_near_ties() -> None:
    torch.manual_seed(0)
    subject = Classifier(Viewed(by_view=False).eval())
    images = torch.rand(60, 3, 6, 6)
    rows = bundle(tuple(Sample(f"r{i:02d}", {"image": image, "label": 0}) for i, image in enumerate(images)))
    weight = subject.module.conv.weight
    before, layout = weight.clone(), weight.stride()
    exact, fast = (SPC(precision=p).scores(subject, rows, Memory()).score for p in ("fp32", "bf16"))
    apart = [row for row in exact if exact[row] != fast[row]]
    top = subject.module(torch.cat([(images * n).clamp(0, 1) for n in (1, *SPC().scales)])).topk(2).values.detach()
    gap = (top[:, 0] - top[:, 1]).view(-1, len(images)).min(0).values / top.abs().max()
    assert len(set(exact.values())) > 1 and all(gap[int(row[1:])] < 2**-6 for row in apart)
    assert weight.dtype == torch.float32 and weight.stride() == layout and torch.equal(weight, before)


def test_a_model_that_views_its_maps_is_told_to_use_fp32() -> None:
    subject = Classifier(Viewed(by_view=True).eval())
    rows = bundle((Sample("r", {"image": torch.rand(3, 6, 6), "label": 0}),))
    SPC().scores(subject, rows, Memory())
    with pytest.raises(UserError, match="use fp32"):
        SPC(precision="bf16").scores(subject, rows, Memory())


def test_noise_comes_before_the_scaling() -> None:
    """.18 x 3 is below .55 unless more than .01/3 of noise was added, a sixth of .02."""
    data = bundle(rows_of([[0.18]] * 400))
    kept = SPC(scales=(3,), noise=0.02).scores(above(), data, Memory()).score
    assert np.mean(list(kept.values())) == pytest.approx(1 / 6, abs=0.06)
    assert set(SPC(scales=(3,)).scores(above(), data, Memory()).score.values()) == {1.0}


def test_clean_rows_standardise_each_class() -> None:
    """Clean: 2/5 and 0 for the class of dark images, mean .2 and deviation .2 sqrt 2; none for that of bright ones."""
    data = bundle(rows_of([[0.1], [0.2], [0.8]]), known=rows_of([[0.1], [0.2]], name="known"))
    found = SPC(clean="known", deviations=0.5).scores(above(), data, Memory())
    z = [0.5**0.5, -(0.5**0.5), 0.8 / 0.08**0.5]
    assert list(found.score.values()) == pytest.approx([float(ndtr(v)) for v in z])
    assert found.flagged == {"row-0-000", "row-0-002"}
    assert found.note.endswith("1 class(es) have fewer than 2 clean rows and are measured by all")


def test_clean_rows_that_all_agree_leave_no_deviation() -> None:
    data = bundle(rows_of([[0.1], [0.2], [0.5]]), known=rows_of([[0.1]] * 3, name="known"))
    found = SPC(clean="known").scores(above(), data, Memory())
    assert list(found.score.values()) == [0.5, 0.0, 0.0] and not found.flagged


# ---------------------------------------------------------------------- STRIP


def binary(x: float) -> float:
    """The entropy of a coin whose sides have logits 0 and x, in bits."""
    p = 1 / (1 + math.exp(-x))
    return -(p * math.log2(p) + (1 - p) * math.log2(1 - p))


@pytest.mark.parametrize(("blend", "seen"), [("sum", 0.9), ("mean", 0.45)])
def test_entropy_is_that_of_the_blend(blend: Any, seen: float) -> None:
    """Of two rows each is laid over the other, always."""
    found = Strip(blend=blend, overlays=3, rate=0.5).scores(above(0.6, 5.0), bundle(rows_of([[0.2], [0.7]])), Memory())
    assert list(found.score.values()) == pytest.approx([1 - binary(5 * (seen - 0.6))] * 2, abs=1e-6)
    assert len(found.flagged) == 1


def test_a_sum_is_cut_off_at_white() -> None:
    found = Strip(overlays=2).scores(above(0.6), bundle(rows_of([[0.8], [0.9]])), Memory())
    assert list(found.score.values()) == pytest.approx([1 - binary(0.4)] * 2, abs=1e-6)


def test_the_limits_of_entropy() -> None:
    rows = bundle(rows_of([[0.2], [0.7], [0.4]]))
    assert set(Strip(overlays=4).scores(above(0.0, 0.0), rows, Memory()).score.values()) == {0.0}
    assert set(Strip(overlays=4).scores(above(0.1, 1e4), rows, Memory()).score.values()) == {1.0}
    assert entropy(torch.zeros(1, 7)).item() == pytest.approx(1.0)
    p = torch.tensor([0.5, 0.25, 0.25], dtype=torch.float64)
    assert entropy(p.log()[None]).item() == pytest.approx(1.5 / math.log2(3))


def test_no_row_is_laid_over_itself_and_the_others_come_alike() -> None:
    drawn = Strip(overlays=6000).drawn("row", 2, 4, Memory())
    assert np.bincount(drawn, minlength=4).tolist() == pytest.approx([2000, 2000, 0, 2000], abs=150)
    assert set(Strip(overlays=400).drawn("row", None, 3, Memory())) == {0, 1, 2}
    with pytest.raises(UserError, match="strip: role 'train' has one row"):
        Strip().check(bundle(rows_of([[0.1]])), None)
    one = Classifier(nn.Sequential(nn.Flatten(), nn.Linear(1, 1)).eval())
    with pytest.raises(UserError, match="strip: the model tells one class alone"):
        Strip().check(bundle(rows_of([[0.1], [0.2]])), one)


def test_strip_finds_the_trigger_and_keeps_to_its_rate_of_false_alarms() -> None:
    rows, clean = noise_rows(120, "pictures", bad=12), noise_rows(60, "known")
    bad = {row.id for row in rows[:12]}
    subject = Classifier(Backdoored().eval())
    found = Strip(overlays=20, clean="known").scores(subject, Bundle({"train": rows, "known": clean}), Memory())
    assert auroc(dict(found.score), bad) > 0.98
    assert bad <= found.flagged and len(found.flagged - bad) <= 8
    assert found.note.startswith("threshold 0.")
    alone = Strip(overlays=20, rate=0.1).scores(subject, Bundle({"train": rows}), Memory())
    assert len(alone.flagged) == 12 and len(alone.flagged & bad) >= 10


# ---------------------------------------------------------------------- cognitive distillation


def test_the_first_step_has_the_size_of_the_rate() -> None:
    """The model looks at nothing, so all pixels shrink alike: theta goes from 1 to .9 in Adam's first step."""
    blind = above(0.5, 0.0)
    found = CognitiveDistillation(steps=1).scores(blind, bundle(rows_of([[0.3], [0.9]])), Memory())
    assert list(found.score.values()) == pytest.approx([1 - (math.tanh(0.9) + 1) / 2] * 2, abs=1e-6)
    still = CognitiveDistillation(steps=3, l1=0.0).scores(blind, bundle(rows_of([[0.3]])), Memory())
    assert still.score["row-0-000"] == pytest.approx(1 - (math.tanh(1.0) + 1) / 2, abs=1e-6)


def test_the_loss_by_hand() -> None:
    mask = torch.tensor([[[[1.0, 0.0], [0.5, 0.5]]]])
    seen, whole = torch.tensor([[1.0, -2.0]]), torch.tensor([[0.0, 0.0]])
    neighbours = (1.0 + 0.0) + (0.25 + 0.25)
    assert variation(mask).tolist() == [neighbours / 4]
    loss = CognitiveDistillation(l1=0.1, tv=2.0).loss(mask, seen, whole)
    assert loss.tolist() == pytest.approx([1.5 + 0.1 * 2.0 + 2 * neighbours / 4])
    assert masked(torch.tensor(0.0)) == 0.5


def test_the_mask_keeps_the_pixel_that_decides() -> None:
    subject = Classifier(Backdoored().eval())
    (row,) = noise_rows(1, "pictures", bad=1)
    batch = subject.collate([subject.encode(row)])
    mask = CognitiveDistillation(steps=60, tv=0.0).masks(subject, batch, Memory())[0, 0]
    assert mask.shape == (SIDE, SIDE) and mask[-1, -1] > 0.6 and mask.flatten()[:-1].max() < 0.2


def test_a_row_with_a_trigger_has_a_small_mask() -> None:
    rows, clean = noise_rows(60, "pictures", bad=6), noise_rows(20, "known")
    bad = {row.id for row in rows[:6]}
    subject = Classifier(Backdoored().eval())
    auditor = CognitiveDistillation(steps=60, clean="known", deviations=2.0)
    found = auditor.scores(subject, Bundle({"train": rows, "known": clean}), Memory())
    assert auroc(dict(found.score), bad) > 0.95 and bad <= found.flagged and len(found.flagged) <= 14
    alone = CognitiveDistillation(steps=60).scores(subject, Bundle({"train": rows}), Memory())
    assert alone.score == pytest.approx(found.score, abs=1e-3) and len(alone.flagged) == 6


OUT_OF_REACH = [
    (Strip(overlays=5, clean="known"), "entropy is so low"),
    (CognitiveDistillation(steps=4, clean="known", deviations=1e9), "mask is so small"),
]


@pytest.mark.parametrize(("auditor", "what"), OUT_OF_REACH, ids=("strip", "cognitive_distillation"))
def test_a_threshold_out_of_reach_is_said(auditor: Any, what: str) -> None:
    subject = Classifier(Backdoored().eval())
    with torch.no_grad():
        subject.module.weight.mul_(20)
    found = auditor.scores(subject, Bundle({"train": noise_rows(9, "pictures"), "known": noise_rows(9, "known")}), Memory())
    assert not found.flagged and found.note.endswith(f"no {what}, and nothing can be flagged")
