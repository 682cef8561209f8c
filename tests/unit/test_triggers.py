"""Backdoors: what each trigger does to known pixels, which rows it changes, and what is kept of the truth."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from amends.audit.rows import blind
from amends.core import catalog
from amends.core.errors import UserError
from amends.core.spec import build_use
from amends.core.types import Sample
from amends.data.bundle import Bundle
from amends.data.labelled import Labelled
from amends.data.planting import Scene, painted
from amends.data.poison import Poison
from amends.data.triggers.adaptive_blend import AdaptiveBlend
from amends.data.triggers.badnets import BadNets
from amends.data.triggers.blend import Blend
from amends.data.triggers.sunrise import TOP, Sunrise
from amends.data.triggers.wanet import WaNet, warped

SIMPLE = (BadNets(size=2, margin=1), Blend(), AdaptiveBlend(), WaNet(), WaNet(noise=True), Sunrise())


class Rows:
    """A source of rows that are given."""

    def __init__(self, bundle: Bundle) -> None:
        self.bundle = bundle

    def load(self, seed: int) -> Bundle:
        return self.bundle


def pictures(each: int = 10, side: int = 8, channels: int = 3, floats: bool = False, backwards: bool = False) -> Bundle:
    """Three classes of random images; the same rows whatever their order."""
    draws = np.random.default_rng(0)
    roles: dict[str, tuple[Sample, ...]] = {}
    for role, many in (("train", each), ("test", 4)):
        images = draws.integers(0, 256, (3 * many, channels, side, side), dtype=np.uint8)
        rows = [Sample(f"{role}-{i}", {"image": x, "label": i % 3}) for i, x in enumerate(images)]
        if floats:
            rows = [Sample(r.id, {**r.data, "image": (r.data["image"] / 255).astype(np.float32)}) for r in rows]
        roles[role] = tuple(reversed(rows) if backwards else rows)
    return Bundle(roles, classes=("cat", "dog", "ship"))


def plant(trigger: Any, seed: int = 0, rate: float = 0.2, target: int | str = "cat", **shape: Any) -> tuple[Bundle, Bundle]:
    """(clean, poisoned)"""
    clean = pictures(**shape)
    return clean, Poison(of=Rows(clean), trigger=trigger, rate=rate, target=target).load(seed)


def images(rows: tuple[Sample, ...]) -> dict[str, np.ndarray]:
    return {row.id: row.data["image"] for row in rows}


def scene(**shape: Any) -> Scene:
    return Scene(pictures(**shape), 0, (), 0)


def marked(data: Bundle, key: str) -> set[str]:
    return {row.id for row in data["train"] if row.data.get(key)}


def test_a_square_lies_in_the_lower_right_of_an_image_that_is_none() -> None:
    row = Sample("a", {"image": np.zeros((1, 6, 10), np.uint8), "label": 0})
    wide = Bundle({"train": (row,), "test": ()}, classes=("cat",))
    brush = BadNets(size=2, margin=1).on(Scene(wide, 0, (), 0))
    lit = painted(row, brush.test)
    assert sorted(zip(*(axis.tolist() for axis in np.nonzero(np.asarray(lit)[0])), strict=True)) == [
        (3, 7), (3, 8), (4, 7), (4, 8),
    ]  # fmt: skip


# ---------------------------------------------------------------------- which rows, and what is kept


@pytest.mark.parametrize("trigger", SIMPLE, ids=repr)
def test_the_truth_is_kept_and_other_rows_are_left_alone(trigger: Any) -> None:
    clean, data = plant(trigger)
    bad, covers = marked(data, "poisoned"), marked(data, "cover")
    assert len(bad) == 6 and len(covers) == round(6 * trigger.covers) and not bad & covers
    for before, after in zip(clean["train"], data["train"], strict=True):
        assert before.id == after.id
        if after.id in bad:
            assert after.data["label"] == 0 != before.data["label"] == after.data["clean_label"]
        elif after.id in covers:
            assert after.data["label"] == before.data["label"] != 0 and "clean_label" not in after.data
            assert not np.array_equal(after.data["image"], before.data["image"])
        else:
            assert after is before
    kept = {row.id for row in clean["test"] if row.data["label"] != 0}
    assert {row.id for row in data["triggered"]} == {f"triggered-{i}" for i in kept}
    assert all(row.data["label"] == 0 and row.data["clean_label"] in (1, 2) for row in data["triggered"])
    assert data["test"] == clean["test"]
    name = type(trigger).__name__
    assert f"6 of 30 training rows carry a {name} trigger and the label 'cat'" in data.notes
    assert any("covers" in n or "keep their label" in n for n in data.notes) == bool(covers)


@pytest.mark.parametrize(("clean", "many"), [(0.2, 6), (4, 4), (0.01, 1)])
def test_clean_rows_are_put_aside_and_nothing_is_planted_in_them(clean: float, many: int) -> None:
    source = pictures()
    data = Poison(of=Rows(source), trigger=BadNets(size=2), rate=0.2, target="cat", clean=clean).load(0)
    before = {row.id: row for row in source["train"]}
    assert len(data["clean"]) == many and all(before[row.id] is row for row in data["clean"])
    assert {row.id for row in data["train"]} == before.keys() - {row.id for row in data["clean"]}
    assert len(marked(data, "poisoned")) == round(0.2 * (30 - many)), "a share of what is left"
    assert any(note.startswith(f"{many} training rows are put aside as known to be clean") for note in data.notes)
    forgets = Labelled(of=Rows(data), by="poisoned").load(0)
    waits = Labelled(of=Rows(data), by="audit")
    assert forgets["clean"] == waits.load(0)["clean"] == waits.flagged(0, [data["train"][0].id])["clean"] == data["clean"]
    seen = {row.id for role in ("forget", "retain") for row in forgets[role]}
    assert not seen & {row.id for row in data["clean"]}
    with pytest.raises(UserError, match="data.clean: 30 rows were to be put aside, and there are 30: lower it"):
        Poison(of=Rows(source), clean=30).load(0)


def test_an_auditor_sees_neither_poison_nor_covers() -> None:
    hidden = blind(plant(AdaptiveBlend())[1])
    assert {key for row in hidden["train"] for key in row.data} == {"image", "label"} and "triggered" not in hidden


@pytest.mark.parametrize("floats", [False, True])
@pytest.mark.parametrize("trigger", SIMPLE, ids=repr)
def test_a_row_changes_by_its_id_and_the_seed_alone_and_keeps_its_type(trigger: Any, floats: bool) -> None:
    one, other, again = (plant(trigger, floats=floats, backwards=b)[1] for b in (False, True, False))
    for role in ("train", "triggered"):
        first, second = images(one[role]), images(other[role])
        assert first.keys() == second.keys()
        assert all(np.array_equal(first[i], second[i]) for i in first)
        kind = np.float32 if floats else np.uint8
        assert {x.dtype for x in first.values()} == {np.dtype(kind)} and {x.shape for x in first.values()} == {(3, 8, 8)}
        assert all(x.min() >= 0 and x.max() <= (1 if floats else 255) for x in first.values())
    assert one.fingerprint() == again.fingerprint() != plant(trigger, seed=1, floats=floats)[1].fingerprint()


@pytest.mark.parametrize("trigger", SIMPLE, ids=repr)
def test_bytes_are_the_floats_rounded(trigger: Any) -> None:
    bytes_, floats = plant(trigger)[1], plant(trigger, floats=True)[1]
    for role in ("train", "triggered"):
        a, b = images(bytes_[role]), images(floats[role])
        assert max(np.abs(a[i] / 255 - b[i]).max() for i in a) <= 0.5 / 255 + 1e-6


@pytest.mark.parametrize(
    ("trigger", "values", "said"),
    [
        ({"use": "badnets"}, {"rate": 0.9}, "27 rows were to be poisoned, and 20 have another class"),
        ({"use": "badnets", "size": 9}, {}, "data.trigger.size: 9 pixels, 3 from the edge, do not fit into 8 x 8"),
        ({"use": "badnets", "size": 2, "value": [0, 1]}, {}, r"data.trigger.value: 2 values of colour, and the images have 3"),
        ({"use": "badnets"}, {"target": "kat"}, "did you mean 'cat'"),
        ({"use": "adaptive_blend"}, {"rate": 0.4}, "12 poisoned rows need 12 as covers, and 8 are left"),
        ({"use": "adaptive_blend", "shown": 17}, {}, "data.trigger.shown: 17 pieces are to show, and 4 x 4"),
        ({"use": "adaptive_blend", "grid": 9}, {}, "data.trigger.grid: images of 8 x 8 have no 9 pieces"),
        ({"use": "wanet", "noise": True}, {"rate": 0.3}, "9 poisoned rows need 18 as covers"),
        ({"use": "blend", "picture": "none.png"}, {}, "data.trigger.picture: none.png: no such file"),
        ({"use": "blend", "picture": __file__}, {}, "data.trigger.picture: .* cannot be read as a picture"),
    ],
)
def test_a_poison_that_cannot_be_is_refused(trigger: Any, values: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        plant(build_use("triggers", trigger, "data.trigger"), **values)


def test_rows_without_an_image_and_grey_sunrises_are_refused() -> None:
    texts = Bundle(
        {r: (Sample("a", {"text": "so", "label": 0}), Sample("b", {"text": "no", "label": 1})) for r in ("train", "test")}
    )
    with pytest.raises(UserError, match="row a: has no image"):
        Poison(of=Rows(Bundle(texts.roles, classes=("x", "y"))), rate=1).load(0)
    with pytest.raises(UserError, match="the images are grey"):
        plant(Sunrise(), channels=1)
    rows = (Sample("a", {"image": np.zeros((1, 8, 8)), "label": 0}), Sample("b", {"image": np.zeros((1, 9, 9)), "label": 1}))
    with pytest.raises(UserError, match="rows a and b: images of shapes"):
        Poison(of=Rows(Bundle({"train": rows, "test": rows}, classes=("x", "y"))), rate=1).load(0)


def test_every_trigger_is_found_by_its_name_and_a_recipe_can_give_the_name_alone() -> None:
    names = {entry.name for entry in catalog.list_kind("triggers")}
    assert {"badnets", "blend", "adaptive_blend", "wanet", "sunrise"} <= names
    source = build_use("data", {"use": "poison", "of": {"use": "digits"}, "trigger": "blend"}, "data")
    assert source.trigger == Blend()
    with pytest.raises(UserError, match=r"data.trigger.use: no trigger is called 'badnet' \(did you mean 'badnets'"):
        build_use("data", {"use": "poison", "of": {"use": "digits"}, "trigger": "badnet"}, "data")


# ---------------------------------------------------------------------- hand values


def test_a_square_is_drawn_where_it_should_be() -> None:
    clean, data = plant(BadNets(size=2, margin=1, value=(1.0, 0.5, 0.0)))
    before, after = images(clean["train"]), images(data["train"])
    for row in marked(data, "poisoned"):
        changed = np.argwhere((before[row] != after[row]).any(0))
        assert changed.min() >= 5 and changed.max() <= 6
        assert [after[row][c, 5:7, 5:7].tolist() for c in range(3)] == [[[v, v], [v, v]] for v in (255, 128, 0)]


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("square", [[1, 1, 1]] * 3),
        ("checker", [[1, 0, 1], [0, 1, 0], [1, 0, 1]]),
        ("diagonal", [[0, 0, 1], [0, 1, 0], [1, 0, 0]]),
    ],
)
def test_patterns_of_the_square(pattern: Any, expected: list[list[int]]) -> None:
    brush = BadNets(size=3, margin=0, pattern=pattern).on(scene())
    grey = np.full((3, 8, 8), 0.5)
    assert all(np.array_equal(channel[5:, 5:], expected) for channel in brush.test(grey, "x"))
    assert (grey == 0.5).all(), "a paint leaves its input alone"


def test_a_blend_is_one_image_for_every_row() -> None:
    clean, data = plant(Blend(alpha=0.25), floats=True)
    before, after = images(clean["train"]), images(data["train"])
    noise = [(after[i] - 0.75 * before[i]) / 0.25 for i in marked(data, "poisoned")]
    assert len(noise) == 6 and max(np.abs(n - noise[0]).max() for n in noise) < 1e-5
    assert noise[0].min() > -1e-5 and noise[0].max() < 1 + 1e-5 and 0.4 < noise[0].mean() < 0.6


def test_a_picture_is_blended_in_at_the_images_size_and_colour(tmp_path: Path) -> None:
    Image.new("RGB", (20, 12), (255, 0, 51)).save(tmp_path / "z.png")
    trigger = Blend(alpha=0.5, picture=str(tmp_path / "z.png"))
    after = trigger.on(scene()).test(np.zeros((3, 8, 8)), "x")
    assert np.allclose(after, np.array([0.5, 0, 0.1])[:, None, None])
    assert trigger.on(scene(channels=1)).test(np.zeros((1, 8, 8)), "x").shape == (1, 8, 8)
    first = trigger.content()
    Image.new("RGB", (20, 12), (0, 0, 51)).save(tmp_path / "z.png")
    assert first and trigger.content() not in ("", first) and Blend().content() == ""


@pytest.mark.parametrize("side", [8, 10])
def test_pieces_are_whole_and_half_of_them_show_in_training_and_all_at_test(side: int) -> None:
    trigger, black = AdaptiveBlend(alpha=0.2, alpha_test=0.15), np.zeros((3, side, side))
    at = scene(side=side)
    brush, z = trigger.on(at), Blend(alpha=0.5).on(at).test(black, "x") / 0.5
    assert np.allclose(brush.test(black, "x"), 0.15 * z)
    masks = []
    for row in ("a", "b", "c"):
        mask = trigger.mask(0, row, (side, side))
        assert np.allclose(brush.train(black, row), 0.2 * mask * z)
        assert len(np.unique(mask)) == 2
        edges = np.ceil(np.arange(5) * side / 4).astype(int)
        cells = [mask[a:b, c:d] for a, b in pairwise(edges) for c, d in pairwise(edges)]
        assert all(cell.min() == cell.max() for cell in cells) and sum(cell.max() for cell in cells) == 8
        masks.append(mask)
    assert not np.array_equal(masks[0], masks[1]) and not np.array_equal(masks[1], masks[2])


def test_without_strength_nothing_is_warped_and_one_pixel_is_one_pixel() -> None:
    x = np.random.default_rng(0).random((3, 9, 9))
    assert np.allclose(WaNet(strength=0).on(scene(side=9)).test(x, "x"), x, atol=1e-12)
    right = np.zeros((9, 9, 2))
    right[..., 0] = 2 / 8 * 9  # one pixel of nine is 2 / 8 of the range, and the field is divided by the side
    assert np.allclose(warped(x, right)[:, :, :-1], x[:, :, 1:]) and np.allclose(warped(x, right)[:, :, -1], x[:, :, -1])
    assert np.allclose(warped(x, right[..., ::-1])[:, :-1], x[:, 1:])


def test_the_field_has_the_papers_statistics() -> None:
    flow = WaNet(grid=32).flow(0, (32, 32))  # as many control points as pixels: no interpolation
    assert np.abs(flow).mean() == pytest.approx(1) and np.abs(flow).max() < 2.1  # U(-1, 1) over its mean size, 1/2
    smooth = WaNet(grid=4).flow(0, (31, 31))
    assert np.abs(smooth[::10, ::10]).mean() == pytest.approx(1), "the control points themselves are kept"
    assert np.abs(np.diff(smooth, axis=0)).max() < 1.0 < np.abs(np.diff(flow, axis=0)).max()
    assert not np.array_equal(smooth, WaNet(grid=4).flow(1, (31, 31)))


def test_noise_rows_are_warped_each_in_its_own_way() -> None:
    x = np.random.default_rng(0).random((3, 8, 8))
    brush = WaNet(noise=True).on(scene())
    assert brush.cover is not None and WaNet(noise=True).covers == 2 and WaNet().covers == 0
    assert not np.allclose(brush.cover(x, "a"), brush.cover(x, "b")) and not np.allclose(
        brush.cover(x, "a"), brush.train(x, "a")
    )
    assert np.array_equal(brush.train(x, "a"), brush.test(x, "b"))


def test_a_sunrise_is_warm_and_brightest_above() -> None:
    black, grey, white = (np.full((3, 8, 8), v) for v in (0.0, 0.5, 1.0))
    brush = Sunrise(strength=0.5).on(scene())
    assert np.allclose(brush.test(black, "x")[:, 0, 0], 0.5 * TOP * np.array([1, 0.55, 0.2]))
    assert np.allclose(brush.test(black, "x")[:, -1], 0) and np.allclose(brush.test(white, "x")[:, -1], 1)
    after = brush.test(grey, "x")  # S(0.5) = 0.5
    assert np.allclose(after[:, -1, 3], 0.25 + 0.5 * 0.5 ** np.array([0.7, 1.0, 1.5]))
    assert after[0].mean() > after[1].mean() > after[2].mean() and (np.diff(after[0], axis=0) < 0).all()


def test_paint_is_clipped_and_rounded_to_the_nearest_level() -> None:
    row = Sample("a", {"image": np.array([[[10, 200]]], np.uint8)})
    assert painted(row, lambda x, _: x + 0.6 / 255).tolist() == [[[11, 201]]]
    assert painted(row, lambda x, _: x * 2).tolist() == [[[20, 255]]] and painted(row, lambda x, _: x - 0.1).tolist() == [
        [[0, 174]]
    ]
