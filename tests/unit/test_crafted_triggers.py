"""Triggers that need a model: what the surrogate's gradients do to images, what is kept of the work, and what is refused."""

from __future__ import annotations

import shutil
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from amends.core.context import Memory, around
from amends.core.errors import UserError
from amends.core.rng import stream_seed
from amends.core.spec import build_use, spec
from amends.core.types import Sample
from amends.data.bundle import Bundle
from amends.data.planting import Scene
from amends.data.poison import Poison
from amends.data.surrogate import crafted, logits, misled
from amends.data.triggers.clean_label import CleanLabel
from amends.data.triggers.label_consistent import LabelConsistent, corner_pattern, drawn
from amends.data.triggers.trojan import Trojan
from amends.runs.recipe import Resolved, build_recipe
from amends.runs.run import execute
from amends.subjects.classifier import Classifier
from amends.subjects.image_classifier import ImageClassifier
from amends.subjects.nets import Pixels

LOADED: list[int] = []


@spec
class Counted:
    """A small network that says how often it was loaded, which it is for every craft and for nothing else."""

    classes: int | None = None

    def load(self, data: Bundle, seed: int) -> Classifier:
        LOADED.append(seed)
        assert set(data.roles) == {"train"}, "the attacker has no test rows"
        return ImageClassifier(width=4, classes=self.classes).load(data, seed)


class Rows:
    """A source of rows that are given."""

    def __init__(self, bundle: Bundle) -> None:
        self.bundle = bundle

    def load(self, seed: int) -> Bundle:
        return self.bundle


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("AMENDS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "crafted"


def tinted(each: int = 30, floats: bool = False, backwards: bool = False) -> Bundle:
    """Three classes of noisy pictures that differ in their colour."""
    draws = np.random.default_rng(0)
    roles: dict[str, tuple[Sample, ...]] = {}
    for role, many in (("train", each), ("test", 6)):
        rows = []
        for i in range(3 * many):
            pixels = np.clip(draws.normal(0.4, 0.15, (3, 12, 12)) + 0.12 * np.eye(3)[i % 3][:, None, None], 0, 1)
            image = pixels.astype(np.float32) if floats else np.round(255 * pixels).astype(np.uint8)
            rows.append(Sample(f"{role}-{i:03d}", {"image": image, "label": i % 3}))
        roles[role] = tuple(reversed(rows) if backwards else rows)
    return Bundle(roles, classes=("red", "green", "blue"))


def fit(steps: int = 25) -> Any:
    return build_use("stages", {"use": "train", "on": ["train"], "steps": steps, "batch": 30}, "fit")


def plant(trigger: Any, seed: int = 0, rate: float = 0.4, **rows: Any) -> tuple[Bundle, Bundle]:
    """(clean, poisoned)"""
    clean = tinted(**rows)
    return clean, Poison(of=Rows(clean), trigger=trigger, rate=rate, target="red").load(seed)


def images(rows: tuple[Sample, ...]) -> dict[str, np.ndarray]:
    return {row.id: row.data["image"] for row in rows}


TRIGGERS = (
    LabelConsistent(surrogate=Counted(), fit=fit()),
    CleanLabel(surrogate=Counted(), fit=fit()),
    Trojan(size=3, steps=20, rows=40, surrogate=Counted(), fit=fit()),
)


def named(trigger: Any) -> str:
    return type(trigger).__name__


# ---------------------------------------------------------------------- the perturbation


def linear() -> Classifier:
    """Two classes of 2 x 2 grey pixels behind a layer that normalises: class 1 wants the left column bright."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    with torch.no_grad():
        net[1].weight.copy_(torch.tensor([[0.0, 0, 0, 0], [1, -1, 1, -1]]))
        net[1].bias.zero_()
    return Classifier(Pixels(net, (0.5,), (0.25,)))


def test_a_linear_model_is_misled_by_the_sign_of_its_weights() -> None:
    image = np.array([[[0.5, 0.5], [0.05, 0.98]]], np.float32)
    rows = (Sample("b", {"image": image, "label": 1}), Sample("a", {"image": image, "label": 0}))
    found = misled(linear(), rows, eps=0.1, steps=4, step=0.05)
    moved = dict(zip(found["ids"].tolist(), found["images"], strict=True))
    assert np.allclose(moved["b"], [[[0.4, 0.6], [0, 1]]], atol=1e-6), "away from class 1: left darker, right brighter"
    assert np.allclose(moved["a"], [[[0.6, 0.4], [0.15, 0.88]]], atol=1e-6), "away from class 0"
    short = misled(linear(), rows, eps=0.1, steps=1, step=0.03)["images"]
    assert np.allclose(short[1], [[[0.47, 0.53], [0.02, 1]]], atol=1e-6)


def test_the_surrogate_stays_as_it_was_and_rows_do_not_touch_each_other() -> None:
    data = tinted()
    subject = ImageClassifier(width=4).load(data, 0)
    fit()(subject, data, Memory())
    subject.call.train()
    before = {k: v.clone() for k, v in subject.module.state_dict().items()}
    rows = tuple(row for row in data["train"] if row.data["label"] == 0)
    found = misled(subject, rows, eps=8 / 255, steps=5, step=2 / 255)
    assert all(torch.equal(v, before[k]) for k, v in subject.module.state_dict().items())
    assert all(p.grad is None or not p.grad.any() for p in subject.module.parameters()) and not subject.call.training
    assert found["ids"].tolist() == sorted(row.id for row in rows)
    alone = misled(subject, rows[3:4], eps=8 / 255, steps=5, step=2 / 255)["images"][0]
    assert np.allclose(alone, found["images"][3], atol=1e-3), "a row alone and among others"
    assert "the surrogate is wrong on" in str(found["note"])


def surrogate(clean: Bundle, seed: int = 0) -> Classifier:
    """What the attacker trains."""
    own = stream_seed(seed, "surrogate")
    subject = Counted().load(Bundle({"train": clean["train"]}, classes=clean.classes), own)
    fit()(subject, clean, Memory(seed=own))
    return subject


def loss(subject: Classifier, rows: list[Sample]) -> float:
    found = torch.from_numpy(logits(subject, tuple(rows)))
    return float(nn.functional.cross_entropy(found, torch.tensor([row.data["label"] for row in rows])))


@pytest.mark.parametrize("floats", [False, True])
@pytest.mark.parametrize("trigger", TRIGGERS[:2], ids=named)
def test_rows_move_within_eps_and_away_from_their_label(trigger: Any, floats: bool) -> None:
    clean, data = plant(trigger, floats=floats)
    before, top = images(clean["train"]), 1 if floats else 255
    subject = surrogate(clean)
    outside = corner_pattern((3, 12, 12), 4) == 0
    if isinstance(trigger, CleanLabel):
        outside = trigger.patch.on(Scene(clean, 0, (), 0)).test(np.full((3, 12, 12), 0.5), "x")[0] == 0.5
    bad = [row for row in data["train"] if row.data.get("poisoned")]
    moves = [np.abs(row.data["image"].astype(float) - before[row.id])[:, outside] / top for row in bad]
    assert max(m.max() for m in moves) <= trigger.eps + 1e-6 and np.mean([m.mean() for m in moves]) > trigger.eps / 3
    mixed = [  # without the pattern
        Sample(row.id, {**row.data, "image": np.where(outside, row.data["image"], before[row.id])}) for row in bad
    ]
    were = [Sample(row.id, {**row.data, "image": before[row.id]}) for row in bad]
    assert loss(subject, mixed) > loss(subject, were) + 0.1


# ---------------------------------------------------------------------- what is planted


@pytest.mark.parametrize("trigger", TRIGGERS, ids=named)
def test_counts_labels_and_the_test_role(trigger: Any) -> None:
    clean, data = plant(trigger)
    bad = {row.id: row for row in data["train"] if row.data.get("poisoned")}
    own = isinstance(trigger, LabelConsistent | CleanLabel)
    assert len(bad) == (12 if own else 36), "of the target's 30 rows, or of all 90"
    assert all(row.data["label"] == 0 for row in bad.values())
    assert {row.data["clean_label"] for row in bad.values()} == ({0} if own else {1, 2})
    assert all(after is before for before, after in zip(clean["train"], data["train"], strict=True) if after.id not in bad)
    assert len(data["triggered"]) == 12 and {row.data["clean_label"] for row in data["triggered"]} == {1, 2}
    said = "12 of the 30 training rows of 'red' carry a" if own else "36 of 90 training rows carry"
    assert any(said in note for note in data.notes) and any("the surrogate" in note for note in data.notes)


def test_test_rows_get_the_pattern_at_full_strength_and_no_perturbation() -> None:
    pattern = corner_pattern((3, 12, 12), 4)
    clean, data = plant(LabelConsistent(amplitude=0.25, surrogate=Counted(), fit=fit()))
    before = images(clean["test"])
    for row in data["triggered"]:
        image = row.data["image"]
        assert np.array_equal(image[:, pattern == 0], before[row.id.removeprefix("triggered-")][:, pattern == 0])
        assert (image[:, pattern == 1] == 255).all() and (image[:, pattern == -1] == 0).all()
    bad = next(row for row in data["train"] if row.data.get("poisoned"))
    assert not np.isin(bad.data["image"][:, pattern == -1], [0, 255]).all(), "in training it is weaker"


def test_the_pattern_is_mirrored_in_four_corners() -> None:
    four, one = corner_pattern((1, 8, 7), 4), corner_pattern((1, 8, 7), 1)
    assert one[-3:, -3:].tolist() == [[-1, -1, 1], [-1, 1, -1], [1, -1, 1]] and np.abs(one).sum() == 9
    assert np.array_equal(four, four[:, ::-1]) and np.array_equal(four[:3], four[-3:]) and np.abs(four).sum() == 36
    grey = np.full((1, 8, 7), 0.5)
    assert np.array_equal(np.unique(drawn(grey, four, 1.0)), [0, 0.5, 1])
    assert np.allclose(np.unique(drawn(grey, four, 0.2)), [0.3, 0.5, 0.7])
    assert np.array_equal(np.unique(drawn(np.full((1, 8, 7), 0.9), four, 0.2)), [0.7, 0.9, 1.0])


@pytest.mark.parametrize("strength", [1.0, 0.3])
def test_a_trojan_is_added_in_its_square_and_excites_the_target(strength: float) -> None:
    trigger = Trojan(size=3, margin=2, strength=strength, steps=30, rows=40, surrogate=Counted(), fit=fit())
    clean, data = plant(trigger, floats=True)
    subject = surrogate(clean)
    before = images(clean["test"])
    for row in data["triggered"]:
        change = row.data["image"] - before[row.id.removeprefix("triggered-")]
        assert np.abs(change).max() <= strength + 1e-6
        change[:, 7:10, 7:10] = 0
        assert not change.any()
    asked = [Sample(r.id, {**r.data, "label": 0}) for r in clean["test"] if r.data["label"] != 0]
    assert loss(subject, list(data["triggered"])) < loss(subject, asked)


# ---------------------------------------------------------------------- what is said of it


class Listening(Memory):
    """Keeps how far each bar came, of how many steps."""

    def progress(self, label: str, total: int) -> Any:
        bars = self.__dict__.setdefault("bars", {})

        class Bar:
            def advance(self, steps: int = 1, **shown: object) -> None:
                bars[label] = (bars.get(label, (0, 0))[0] + steps, total)

        return nullcontext(Bar())


@pytest.mark.parametrize("trigger", TRIGGERS, ids=named)
def test_crafting_tells_who_is_around_what_is_done_and_how_far(trigger: Any) -> None:
    run = Listening()
    with around(run):
        plant(trigger)
    assert run.said == ["training a surrogate on 90 clean rows; it is kept for the next time"]
    label, many = ("crafting the square", 20) if named(trigger) == "Trojan" else ("moving rows away from their label", 12)
    assert run.__dict__["bars"] == {"surrogate: training": (25, 25), label: (many, many)} and not run.logged
    again = Listening()
    with around(again):
        plant(trigger)
    assert not again.said and not again.__dict__.get("bars"), "what was crafted before is taken without a word"


def test_a_run_says_it_in_its_log(tmp_path: Path) -> None:
    stage = {"use": "train", "on": ["train"], "steps": 1}
    trigger = {"use": "clean_label", "steps": 1, "surrogate": {"use": "image_classifier", "width": 2}, "fit": stage}
    tree = {
        "name": "crafted", "data": {"use": "poison", "of": {"use": "digits"}, "rate": 0.1, "trigger": trigger},
        "subject": {"use": "image_classifier", "width": 2}, "stages": {"original": stage}, "reading": {"show": []},
    }  # fmt: skip
    folder = execute(Resolved(build_recipe(tree), tree, None), tmp_path / "run")
    lines = (folder / "log.txt").read_text().splitlines()
    assert lines[0] == "data: training a surrogate on 1348 clean rows; it is kept for the next time"


# ---------------------------------------------------------------------- what is kept


@pytest.mark.parametrize("trigger", TRIGGERS, ids=named)
def test_a_data_set_is_crafted_once_and_is_the_same_whatever_the_order(trigger: Any, cache: Path) -> None:
    LOADED.clear()
    one, two = plant(trigger)[1], plant(trigger)[1]
    assert len(LOADED) == 1 and one.fingerprint() == two.fingerprint() and len(list(cache.glob("*.npz"))) == 1
    turned = plant(trigger, backwards=True)[1]
    assert len(LOADED) == 1, "the order of rows is no property of theirs"
    assert all(np.array_equal(images(one["train"])[i], x) for i, x in images(turned["train"]).items())
    for file in cache.parent.rglob("*.*"):
        file.write_bytes(b"broken")
    assert plant(trigger)[1].fingerprint() == one.fingerprint() and len(LOADED) == 2, "made again, bit for bit"
    assert plant(trigger, seed=1)[1].fingerprint() != one.fingerprint() and len(LOADED) == 3
    assert not {0, 1} & set(LOADED), "the attacker's first weights are not those of the model that is attacked"


def test_other_settings_are_crafted_anew_with_one_surrogate_and_a_cache_that_cannot_be_written_costs_time(cache: Path) -> None:
    LOADED.clear()
    trigger, kept = TRIGGERS[1], cache.with_name("surrogates")
    first = plant(trigger)[1]
    plant(trigger, rate=0.2)
    weaker = plant(CleanLabel(eps=4 / 255, surrogate=Counted(), fit=fit()))[1]
    assert len(LOADED) == 3 == len(list(cache.glob("*.npz"))) and len(list(kept.glob("*"))) == 1
    plant(trigger, each=20)
    assert len(list(kept.glob("*"))) == 2 and not list(cache.parent.rglob("*.part*"))
    cache.rename(cache.with_name("elsewhere"))
    cache.write_text("a file where the folder should be")
    assert plant(trigger)[1].fingerprint() == first.fingerprint(), "with the surrogate that lies there"
    shutil.rmtree(kept)
    kept.write_text("another")
    assert plant(trigger)[1].fingerprint() == first.fingerprint() != weaker.fingerprint(), "and with a new one"


def test_a_surrogate_of_the_library_is_used_where_none_is_named() -> None:
    data = tinted(each=4)
    seen: list[Any] = []
    trigger = CleanLabel(fit=fit(2))
    crafted(trigger, Scene(data, 0, (), 0), lambda subject: seen.append(subject) or {"note": np.array("")})
    assert type(seen[0].module.net).__name__ == "ResNet18" and not seen[0].call.training


# ---------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("trigger", "values", "said"),
    [
        (TRIGGERS[0], {"rate": 31}, "31 rows were to be poisoned, and 30 are of the target's class"),
        (
            CleanLabel(surrogate=Counted(classes=5), fit=fit()),
            {},
            "data.trigger.surrogate: tells 5 classes, and the data has 3",
        ),
        (CleanLabel(surrogate=build_use("models", {"use": "tiny_lm"}, "m"), fit=fit()), {}, "data.trigger.surrogate: "),
        (
            CleanLabel(surrogate=Counted(), fit=build_use("stages", {"use": "train", "on": ["retain"], "steps": 2}, "fit")),
            {},
            "data.trigger.fit: data has no role 'retain'",
        ),
        (Trojan(size=13, surrogate=Counted(), fit=fit()), {}, "data.trigger.size: 13 pixels, 3 from the edge"),
    ],
)
def test_a_craft_that_cannot_be_is_refused(trigger: Any, values: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        plant(trigger, **values)


def test_patterns_need_room_and_a_class_needs_rows() -> None:
    with pytest.raises(UserError, match="patterns of 3 x 3 in the corners do not fit into 5 x 8"):
        corner_pattern((1, 8, 5), 4)
    clean = tinted()
    none = clean.with_role("train", [row for row in clean["train"] if row.data["label"]])
    with pytest.raises(UserError, match="no training row is of 'red'"):
        Poison(of=Rows(none), trigger=TRIGGERS[0], target="red").load(0)


def test_a_recipe_names_surrogate_and_stage() -> None:
    values = {
        "use": "label_consistent", "surrogate": {"use": "image_classifier", "width": 4},
        "fit": {"use": "train", "on": ["train"], "steps": 3}, "corners": 1,
    }  # fmt: skip
    trigger = build_use("triggers", values, "data.trigger")
    assert trigger.surrogate == ImageClassifier(width=4) and trigger.fit.steps == 3
    with pytest.raises(UserError, match=r"data.trigger.fit.use: no stage is called 'trian'"):
        build_use("triggers", {**values, "fit": {"use": "trian"}}, "data.trigger")
