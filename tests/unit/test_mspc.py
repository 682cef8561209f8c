"""Mask-aware scaled prediction consistency: formulas by hand, the exact split, the mask's slope, masks that tell nothing."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from amends.audit import amplified as amplifying
from amends.audit.amplified import Amplified, brighter, kl, still
from amends.audit.mask_regime import Look
from amends.audit.mspc import MSPC, clamped, in_order, suspected
from amends.audit.spc import SPC
from amends.bilevel.solvers import Momentum
from amends.core.context import Memory
from amends.core.errors import UserError
from amends.core.rng import rng
from amends.core.types import Sample
from amends.data.bundle import Bundle
from amends.subjects.classifier import Classifier
from amends.subjects.image_classifier import ImageClassifier


def linear(weight_KD: torch.Tensor, bias_K: torch.Tensor) -> Classifier:
    """A classifier that reads the pixels themselves."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(weight_KD.shape[1], len(weight_KD)))
    net[1].weight, net[1].bias = nn.Parameter(weight_KD.clone()), nn.Parameter(bias_K.clone())
    return Classifier(net.eval())


class InDoubles(nn.Module):
    """What comes in as float32 goes on in float64."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.double()


def drawn_rows(many: int, channels: int = 1, side: int = 4, high: float = 1.0) -> tuple[Sample, ...]:
    images = high * torch.rand(many, channels, side, side, generator=rng(0, "images", channels))
    return tuple(Sample(f"row-{i:03d}", {"image": x, "label": i % 2}) for i, x in enumerate(images))


def some_model(channels: int = 1, side: int = 4, classes: int = 3) -> Classifier:
    made = rng(0, "model", channels)
    weight = 2 * torch.randn(classes, channels * side * side, generator=made)
    return linear(weight, torch.randn(classes, generator=made))


def of(auditor: MSPC, subject: Classifier, rows: Any) -> Amplified:
    return Amplified.of(subject, rows, auditor.scales, auditor.shift, auditor.divergence)


def data(rows: tuple[Sample, ...]) -> Bundle:
    return Bundle({"train": rows}, classes=("a", "b", "c"))


# ---------------------------------------------------------------------- the score


def test_copies_are_shifted_masked_scaled_and_clipped_in_this_order() -> None:
    """(0.5 - 0.1) x 0.5 = 0.2, times 2 and 6: 0.4 and 1 after the clip; what is below the shift is black."""
    image, mask = torch.tensor([[[[0.5, 0.05]]]]), torch.tensor([[0.5, 1.0]])
    assert brighter(image, mask, (2, 6), 0.1).flatten().tolist() == pytest.approx([0.4, 0, 1.0, 0])


@pytest.mark.parametrize("scales", [(2, 3, 4), (3, 5, 7, 9, 11)])
@pytest.mark.parametrize("channels", [1, 3])
def test_without_mask_and_shift_it_is_scaled_prediction_consistency(scales: tuple[float, ...], channels: int) -> None:
    subject, rows = some_model(channels), drawn_rows(60, channels)
    auditor = MSPC(scales=scales, shift=0.0, rounds=0)
    seen = of(auditor, subject, rows)
    l_N = 2 * seen.kept(torch.ones(4, 4)) / len(scales) - 1
    spc = SPC(scales=scales).scores(subject, data(rows), Memory())
    assert l_N.tolist() == pytest.approx([2 * s - 1 for s in spc.score.values()])
    mine = auditor.scores(subject, data(rows), Memory())
    assert mine.score == pytest.approx(spc.score)
    assert {row for row, s in mine.score.items() if s > 0.5} == spc.flagged


def test_a_tie_is_not_suspected() -> None:
    assert suspected(torch.tensor([0, 1, 2, 3, 4]), 4).tolist() == [False, False, False, True, True]


def test_8_bit_pixels_are_their_255th_part() -> None:
    subject = some_model(3)
    bytes_ = np.random.default_rng(0).integers(0, 256, (20, 3, 4, 4), dtype=np.uint8)
    auditor = MSPC(rounds=1, passes=2, batch=10)
    one = tuple(Sample(f"r{i:02d}", {"image": x, "label": 0}) for i, x in enumerate(bytes_))
    other = tuple(
        Sample(f"r{i:02d}", {"image": x.astype(np.float32) / np.float32(255), "label": 0}) for i, x in enumerate(bytes_)
    )
    found = [auditor.scores(subject, data(rows), Memory()) for rows in (one, other)]
    assert found[0].score == found[1].score and found[0].flagged == found[1].flagged


def test_every_forward_with_a_graph_has_as_many_images(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a CPU memory grows with the number of sizes that there are."""
    subject, rows, auditor = some_model(), drawn_rows(70), MSPC(scales=(2, 3, 4), rounds=1, passes=1, batch=30)
    monkeypatch.setattr(amplifying, "PIXELS", 16 * 3 * 8)
    seen = of(auditor, subject, rows)
    assert seen.together == 8
    mask = torch.rand(4, 4, generator=rng(1, "mask"))
    whole = seen.drift(range(8), mask)
    torch.testing.assert_close(seen.drift(range(3), mask), whole[:3])
    counted = set()
    hook = subject.module.register_forward_pre_hook(lambda _, x: counted.add(len(x[0])) if torch.is_grad_enabled() else None)
    auditor.fit(seen, Memory())
    hook.remove()
    assert counted == {8 * 3}
    few = of(auditor, subject, rows[:5])
    assert few.drift(range(5), mask).shape == (5,) and few._filling(range(5)) == []


# ---------------------------------------------------------------------- the upper problem


def test_the_split_is_the_exact_minimiser_over_all_splits() -> None:
    rows = drawn_rows(8)
    auditor = MSPC(scales=(2, 3, 4, 5))
    seen = of(auditor, some_model(), rows)
    mask = {"mask": torch.rand(4, 4, generator=rng(1, "mask"))}
    best = auditor.split(seen, mask)
    every = {
        w: float(auditor.upper(seen, {"w": torch.tensor(w, dtype=torch.float64)}, mask))
        for w in itertools.product((0, 1), repeat=8)
    }
    assert len({round(v, 9) for v in every.values()}) > 3
    assert best.value == pytest.approx(min(every.values()))
    assert every[tuple(int(v) for v in best.outer["w"])] == pytest.approx(best.value)


# ---------------------------------------------------------------------- the lower problem


@pytest.mark.parametrize("values", [{}, {"divergence": "jsd"}, {"penalty": "sum", "weight": 0.3}], ids=str)
def test_the_slope_in_the_mask_is_that_of_finite_differences(values: dict[str, Any]) -> None:
    subject = Classifier(nn.Sequential(InDoubles(), *some_model(3).module.double()))
    rows = drawn_rows(6, 3, high=0.5)
    auditor = MSPC(scales=(2, 3), shift=0.05, **values)
    seen = of(auditor, subject, rows)
    w = {"w": torch.tensor([1.0, 0, 1, 1, 0, 1], dtype=torch.float64)}
    mask = 0.2 + 0.5 * torch.rand(4, 4, generator=rng(2, "mask"), dtype=torch.float64)

    def loss(m: torch.Tensor) -> torch.Tensor:
        return auditor.lower(seen, range(6), w, {"mask": m})

    leaf = mask.clone().requires_grad_()
    (slope,) = torch.autograd.grad(loss(leaf), leaf)
    for y, x in ((0, 0), (1, 2), (3, 3)):
        step = torch.zeros_like(mask)
        step[y, x] = 1e-6
        assert float(loss(mask + step) - loss(mask - step)) / 2e-6 == pytest.approx(float(slope[y, x]), rel=1e-4, abs=1e-7)


def test_the_lower_loss_by_hand_and_rows_that_are_not_suspected_are_not_run() -> None:
    subject, rows = some_model(), drawn_rows(4)
    auditor = MSPC(scales=(2, 7), weight=0.1)
    seen, mask = of(auditor, subject, rows), torch.full((4, 4), 0.5)
    image = torch.stack([row.data["image"] for row in rows])

    def told(x: torch.Tensor) -> torch.Tensor:
        return torch.log_softmax(subject.module(x), -1)

    each = sum(kl(told(image), told((n * (image - 0.1) * 0.5).clamp(0, 1))) for n in (2, 7)) / 2
    calls: list[int] = []
    subject.call.register_forward_hook(lambda _, inputs, __: calls.append(len(inputs[0])))
    with torch.no_grad():
        found = auditor.lower(seen, range(4), {"w": torch.tensor([0.0, 1, 0, 1])}, {"mask": mask})
        assert float(found) == pytest.approx(float((each[1] + each[3]) / 4) + 0.1 * 1024 * 0.5, rel=1e-5)
    assert calls == [2 * 2]
    both = 0.5 * each  # the Jensen-Shannon divergence is below half of either
    jsd = Amplified.of(subject, rows, (2, 7), 0.1, "jsd").drift(range(4), mask).detach()
    assert bool((jsd >= 0).all()) and bool((jsd <= both + 1e-6).all()) and float(jsd.max()) <= np.log(2)


def test_the_penalty_is_one_for_all_sizes_or_the_sum() -> None:
    sides = [torch.full((side, side), 0.25) for side in (8, 32, 64)]
    assert [float(MSPC().price(m)) for m in sides] == pytest.approx([0.01 * 1024 * 0.25] * 3)
    assert [float(MSPC(penalty="sum").price(m)) for m in sides] == pytest.approx([0.01 * s * s * 0.25 for s in (8, 32, 64)])


def test_the_mask_stays_between_0_and_1() -> None:
    assert clamped({"mask": torch.tensor([-0.5, 0.5, 1.5])})["mask"].tolist() == [0, 0.5, 1]
    for weight in (0.0, 0.01):
        made = MSPC(rounds=2, passes=3, batch=7, lr=2.0, weight=weight).scores(some_model(), data(drawn_rows(20)), Memory())
        values = made.pictures["mask"].values
        assert values.min() >= 0 and values.max() <= 1 and values.shape == (4, 4)


# ---------------------------------------------------------------------- what may change nothing


def test_given_the_mask_neither_the_order_of_rows_nor_how_many_go_together_changes_a_score(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    subject, rows, auditor = some_model(), drawn_rows(30), MSPC()
    mask = torch.rand(4, 4, generator=rng(3, "mask"))
    kept = dict(zip((r.id for r in rows), of(auditor, subject, rows).kept(mask).tolist(), strict=True))
    monkeypatch.setattr(amplifying, "PIXELS", 1)
    turned = of(auditor, subject, rows[::-1])
    assert turned.together == 1
    assert dict(zip((r.id for r in rows[::-1]), turned.kept(mask).tolist(), strict=True)) == kept


def test_ids_alone_decide_the_order() -> None:
    rows = drawn_rows(30)
    assert in_order(rows, 0) == in_order(rows[::-1], 0) != in_order(rows, 1)
    assert sorted(r.id for r in in_order(rows, 0)) == [r.id for r in rows]


def test_a_mask_fitted_to_some_rows_scores_all(monkeypatch: pytest.MonkeyPatch) -> None:
    subject, rows = some_model(), drawn_rows(30)
    run = Memory()
    found = MSPC(fit_rows=10, rounds=1, passes=1).scores(subject, data(rows), run)
    assert found.score.keys() == {r.id for r in rows}
    whole = MSPC(fit_rows=30, rounds=1, passes=1).scores(subject, data(rows), Memory())
    assert whole.score == MSPC(rounds=1, passes=1).scores(subject, data(rows), Memory()).score
    mask = torch.as_tensor(found.pictures["mask"].values)
    assert [found.score[r.id] for r in rows] == pytest.approx((of(MSPC(), subject, rows).kept(mask) / 11).tolist())


def test_the_model_is_left_as_it_was_found() -> None:
    subject = ImageClassifier(width=2).load(data(drawn_rows(4, 1, 8)), 0)
    first, second, *_ = subject.module.parameters()
    first.requires_grad_(False)
    subject.call.train()
    frozen = next(m for m in subject.module.modules() if isinstance(m, nn.BatchNorm2d)).eval()
    before = {k: v.clone() for k, v in subject.module.state_dict().items()}
    with still(subject):
        assert not any(m.training for m in subject.call.modules()) and not second.requires_grad
    MSPC(rounds=1, passes=1).scores(subject, data(drawn_rows(12, 1, 8)), Memory())
    assert not first.requires_grad and second.requires_grad and second.grad is None
    assert subject.call.training and not frozen.training
    assert all(torch.equal(before[k], v) for k, v in subject.module.state_dict().items())


# ---------------------------------------------------------------------- masks that tell nothing


def corner(bias: float) -> Classifier:
    """Class 1 where the last pixel is brighter than the mean of the others, and with `bias` > 0 on black, too."""
    weight = torch.zeros(2, 16)
    weight[1] = -4 / 15
    weight[1, 15] = 4
    return linear(weight, torch.tensor([0.0, bias]))


def marked(many: int) -> tuple[Sample, ...]:
    """Every other row has a white corner; all have middle tones."""
    rows = []
    for i, row in enumerate(drawn_rows(many, high=0.5)):
        image = row.data["image"].clone()
        image[0, 3, 3] = 1.0 if i % 2 else 0.0
        rows.append(Sample(row.id, {"image": image, "label": i % 2}))
    return tuple(rows)


def test_a_collapsed_mask_gives_no_split_though_the_scores_stand() -> None:
    """Black is class 1 here: with an image of nothing but black every row of class 1 is consistent, and no other one."""
    run = Memory()
    found = MSPC(weight=10.0).scores(corner(0.2), data(marked(20)), run)
    assert float(found.pictures["mask"].values.max()) == 0
    assert not found.flagged and "collapsed" in found.note and "lower `weight`" in found.note
    assert [found.score[r.id] for r in marked(20)] == [float(i % 2) for i in range(20)]
    assert "under the mask black is told to be b" in found.note and "b 10 of 10" in found.note
    assert run.logged[-1]["regime"] == "collapsed" and found.pictures["mask"].caption.startswith("collapsed: mean 0,")


def test_a_collapse_is_seen_in_the_flags_where_the_mask_is_not_quite_nothing() -> None:
    subject, rows = corner(0.2), marked(20)
    seen = of(MSPC(), subject, rows)
    mask = torch.full((4, 4), 0.004)
    look = Look.at(seen, mask, suspected(seen.kept(mask), 11), 0.5)
    assert look.brightest > 0.02 and {look.black, look.grey} == {1} and look.alone == 1 and look.regime == "collapsed"


def test_a_mask_that_takes_back_the_scaling_gives_no_split() -> None:
    """Nothing is paid for the mask and every row is suspected: it becomes what undoes the scaling, about one over its mean."""
    weight = torch.zeros(2, 16)
    weight[1] = 1.0
    subject = linear(
        6 * weight, torch.tensor([6 * 16 * 0.25, 0.0])
    )  # class 1 above a mean of one quarter: brighter is not the same
    rows = tuple(Sample(f"row-{i:03d}", {"image": torch.full((1, 4, 4), 0.1 + 0.01 * i), "label": 0}) for i in range(12))
    auditor = MSPC(weight=0.0, weight_decay=0.0, shift=0.0, scales=(2, 3, 4))
    seen = of(auditor, subject, rows)
    solver, problems = Momentum(300, 0.02, 0.9, 0.0, clamped), auditor.problems(seen)
    y: Any = {"mask": torch.ones(4, 4)}
    with torch.no_grad():
        for k in range(300):
            y = solver.step(problems(0, k), {"w": torch.ones(12)}, y)
    look = Look.at(seen, y["mask"], suspected(seen.kept(y["mask"]), 3), 0.0)
    assert look.undone == pytest.approx(1.0, abs=0.3) and look.uneven < 0.1
    assert look.share > 0.5 and look.regime == "dimmer" and look.useless
    assert "uniform dimmer" in look.note(("a", "b")) and "raise `weight`" in look.note(("a", "b"))


def test_a_class_that_is_flagged_as_a_whole_is_pointed_out_and_most_rows_are_no_minority() -> None:
    own = marked(20)
    seen, mask, place = of(MSPC(), corner(0.2), (*own, *own[::2])), torch.zeros(4, 4), torch.arange(30)
    mask[3, 3] = 1.0
    bad = (place < 20) & (place % 2 == 1)
    told = Look.at(seen, mask, bad | (place < 3), 0.5)
    assert told.flagged == {0: (2, 20), 1: (10, 10)} and told.regime == "partial"
    assert "most that is told to be b is flagged" in told.note(("a", "b"))
    assert "most rows are flagged" in Look.at(seen, mask, place < 20, 0.5).note(("a", "b"))
    few = Look.at(seen, mask, place < 8, 0.5).note(("a", "b"))
    assert "most that" not in few and "most rows" not in few


def test_black_and_white_pixels_are_said_to_be_no_evidence() -> None:
    rows = tuple(Sample(r.id, {"image": (r.data["image"] > 0.5).float(), "label": r.data["label"]}) for r in drawn_rows(20))
    found = MSPC(rounds=0, shift=0.0).scores(some_model(), data(rows), Memory())
    assert set(found.score.values()) == {1.0}
    assert "scaling changes only 0% of the pixels" in found.note and "hardly moved" in found.note
    assert "no evidence" not in MSPC(rounds=0).scores(some_model(), data(drawn_rows(20)), Memory()).note


def test_each_round_is_logged_and_the_note_says_what_there_was_before_the_mask() -> None:
    run = Memory()
    found = MSPC(rounds=2, passes=2, batch=10).scores(some_model(), data(drawn_rows(20)), run)
    rounds = [line for line in run.logged if "round" in line]
    assert [line["round"] for line in rounds] == [0, 1, 2]
    assert rounds[0]["mask"] == rounds[0]["mask_max"] == 1 and rounds[0]["mask_l1"] == 16
    assert rounds[2]["mask"] < 1
    assert f"{rounds[0]['suspected']:.1%} before there was a mask" in found.note
    assert "compare with a clean control" in found.note


def test_rows_known_to_be_clean_say_how_many_false_alarms_are_to_be_expected() -> None:
    """They are scored under the mask and change nothing; as an audit of theirs under the same mask flags them."""
    rows = drawn_rows(30)
    clean = tuple(Sample(f"clean-{r.id}", r.data) for r in rows[20:])
    told = Bundle({"train": rows[:20], "clean": clean}, classes=("a", "b", "c"))
    alone = MSPC(rounds=0).scores(some_model(), told, Memory())
    found = MSPC(rounds=0, clean="clean").scores(some_model(), told, Memory())
    assert found.score == alone.score and found.flagged == alone.flagged
    many = len(MSPC(rounds=0, role="clean").scores(some_model(), told, Memory()).flagged)
    assert 0 < many < 10, "the case would tell nothing otherwise"
    assert f"expected false positives: of 10 rows known to be clean it flags {many}, {10 * many:.1f} % [" in found.note
    assert "compare with a clean control, or name rows known to be clean" in alone.note


def test_clean_rows_are_of_one_size_with_the_others_and_not_audited_themselves() -> None:
    rows = drawn_rows(4)
    wide = tuple(Sample(f"c{i}", {"image": torch.zeros(1, 4, 5), "label": 0}) for i in range(2))
    with pytest.raises(UserError, match="mspc: rows row-000 and c0 of 'train' and 'clean' are images of two sizes"):
        MSPC(clean="clean").check(Bundle({"train": rows, "clean": wide}, classes=("a",)), None)
    with pytest.raises(UserError, match="mspc: clean: row row-001 of 'clean' stands in 'train', which is audited"):
        MSPC(clean="clean").check(Bundle({"train": rows, "clean": rows[1:3]}, classes=("a",)), None)


def test_images_of_two_sizes_have_no_one_mask() -> None:
    rows = (*drawn_rows(2), Sample("wide", {"image": torch.zeros(1, 4, 5), "label": 0}))
    with pytest.raises(UserError, match="mspc: rows row-000 and wide of 'train' are images of two sizes"):
        MSPC().check(data(rows), None)
    with pytest.raises(UserError, match="mspc: row text of 'train' has no image"):
        MSPC().check(data((Sample("text", {"text": "words", "label": 0}),)), None)


# ---------------------------------------------------------------------- a fit that is killed


class Killed(Exception):
    """Not an error of the library's."""


@pytest.mark.parametrize("at", [1, 5, 9, 13])
def test_a_killed_fit_goes_on_to_the_same_scores_and_mask(at: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two rounds of two passes over four batches: 16 steps, a checkpoint every third."""
    subject, rows = some_model(), drawn_rows(24)
    auditor = MSPC(scales=(2, 3, 4), rounds=2, passes=2, batch=6, lr=0.05, checkpoint_every=3)
    straight = auditor.scores(subject, data(rows), Memory())
    steps, lower = itertools.count(), MSPC.lower

    def dying(self: MSPC, *given: Any) -> torch.Tensor:
        if next(steps) == at:
            raise Killed
        return lower(self, *given)

    with monkeypatch.context() as patch:
        patch.setattr(MSPC, "lower", dying)
        with pytest.raises(Killed):
            auditor.scores(subject, data(rows), Memory(folder=tmp_path))
    run = Memory(folder=tmp_path)
    again = auditor.scores(subject, data(rows), run)
    assert run.said == ([f"resumed at step {at - at % 3}"] if at >= 3 else [])
    assert again.score == straight.score and again.flagged == straight.flagged and again.note == straight.note
    assert np.array_equal(again.pictures["mask"].values, straight.pictures["mask"].values)
    assert np.unique(again.pictures["mask"].values).size > 2, "a mask that was learned"
