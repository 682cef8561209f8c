"""Classifiers of images and texts: what stands in front of a network, what is saved, what is random, what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from amends.core.context import Memory
from amends.core.errors import UserError
from amends.core.rng import rng, stream_seed
from amends.core.spec import build_use
from amends.core.types import Sample
from amends.data.arrays import rows_of_arrays
from amends.data.bundle import Bundle
from amends.engine.fit import fit
from amends.engine.loader import Loader
from amends.engine.optim import SGD
from amends.engine.score import grad_norms, nll_by_id
from amends.metrics.evaluation import Evaluation
from amends.runs.stages import load_weights, weights_print
from amends.subjects.blocks import blocks
from amends.subjects.classifier import Classifier
from amends.subjects.image_classifier import ImageClassifier, statistics
from amends.subjects.images import Augment, augmented
from amends.subjects.nets import Pixels, ResNet18
from amends.subjects.reference import frozen_copy

CLASSES = ("cat", "dog", "ship")


def pictures(channels: int = 3, size: int = 8, num: int = 12) -> Bundle:
    draws = np.random.default_rng(stream_seed(0, "classifier pictures"))
    shape = (num, size, size, channels) if channels > 1 else (num, size, size)
    rows = {
        role: rows_of_arrays(draws.integers(0, 256, shape, dtype=np.uint8), np.arange(num) % 3, role, role)
        for role in ("forget", "retain", "test")
    }
    return Bundle(rows, classes=CLASSES)


def model(**values: Any) -> Any:
    return build_use("models", {"use": "image_classifier", "width": 2, **values}, "subject")


def trained(subject: Any, data: Bundle, steps: int = 3) -> Any:
    objective = build_use("terms", {"use": "nll", "role": "retain"}, "objective")
    fit(subject, [objective], data, steps=steps, optim=SGD(lr=0.05, momentum=0.9), batch=6, run=Memory())
    return subject


@pytest.fixture(scope="module")
def topics() -> Bundle:
    source = {"use": "topics", "topics": 3, "rows": 6}
    return build_use("data", {"use": "labelled", "of": source, "classes": [1]}, "data").load(0)


# ---------------------------------------------------------------------- networks


@pytest.mark.parametrize("net", ["conv", "resnet18", "vit"])
@pytest.mark.parametrize(("channels", "size"), [(1, 8), (3, 8), (3, 12)])
def test_networks_take_any_size_and_have_blocks(net: str, channels: int, size: int) -> None:
    data = pictures(channels, size)
    subject = model(net=net).load(data, 0)
    batch = subject.collate([subject.encode(s) for s in data["test"][:4]])
    assert subject.likelihood(batch).dist.logits_NV.shape == (4, 3)
    assert len(blocks(subject.module)) == {"conv": 4, "resnet18": 8, "vit": 3}[net]
    assert subject.hidden(batch, 0.5).state_NC.shape[0] == 4
    again, other = (weights_print(model(net=net).load(data, seed)) for seed in (0, 1))
    assert again == weights_print(subject) != other


def test_resnet18_has_the_papers_number_of_parameters() -> None:
    """11,173,962 with the small-image stem and ten classes, as everywhere in the literature on CIFAR-10."""
    assert sum(p.numel() for p in ResNet18(3, 64, 10).parameters()) == 11_173_962


def test_pixels_are_kept_as_bytes_and_become_floats_in_a_batch() -> None:
    data = pictures()
    subject = model().load(data, 0)
    encoded = [subject.encode(s) for s in data["test"][:3]]
    assert all(e.tensors["image"].dtype == torch.uint8 for e in encoded)
    image = subject.collate(encoded)["image"]
    assert image.dtype == torch.float32 and torch.equal(image[1] * 255, encoded[1].tensors["image"].float())


def test_pixels_as_floats_and_as_bytes_are_the_same_to_a_model() -> None:
    data = pictures()
    floats = [Sample(s.id, {**s.data, "image": s.data["image"].astype(np.float32) / 255}) for s in data["test"]]
    subject = model().load(data, 0)
    one, two = nll_by_id(subject, data["test"]), nll_by_id(subject, floats)
    assert one == {i: (pytest.approx(v, abs=1e-5), n) for i, (v, n) in two.items()}


def test_images_of_two_sizes_do_not_fit_into_a_batch() -> None:
    subject = model().load(pictures(), 0)
    small, large = pictures()["test"][0], pictures(size=9)["test"][1]
    with pytest.raises(UserError, match=r"\(3, 8, 8\) and \(3, 9, 9\) do not fit"):
        subject.collate([subject.encode(small), subject.encode(large)])


# ---------------------------------------------------------------------- normalisation: one place


def test_mean_and_deviation_are_those_of_the_retain_rows_and_are_saved_with_the_weights(tmp_path: Path) -> None:
    data = pictures()
    stacked = np.stack([s.data["image"] for s in data["retain"]]) / 255
    mean, std = statistics(data)
    assert mean == pytest.approx(stacked.mean((0, 2, 3))) and std == pytest.approx(stacked.std((0, 2, 3)))
    subject = model().load(data, 0)
    assert subject.module.mean.flatten().tolist() == pytest.approx(mean)
    assert {"mean", "std"} <= set(subject.module.state_dict())
    other = model(mean=(0.1, 0.2, 0.3), std=(0.5,)).load(data, 0)
    subject.save(tmp_path / "model")
    load_weights(other, tmp_path / "model")
    assert weights_print(other) == weights_print(subject)


def test_nothing_is_normalised_twice() -> None:
    data = pictures()
    assert "mean" not in model(normalise="inside").load(data, 0).module.state_dict()
    assert "mean" not in model(normalise="none").load(data, 0).module.state_dict()
    for values, said in (
        ({"normalise": "inside", "mean": (0.5,)}, "not used with normalise: inside"),
        ({"mean": (0.5,)}, "give both mean and std"),
        ({"mean": (0.5, 0.5), "std": (0.5, 0.5)}, "needs 3 values"),
        ({"mean": (0.5,), "std": (0.0,)}, "above 0"),
    ):
        with pytest.raises(UserError, match=said):
            model(**values).load(data, 0)
    normalising = Pixels(torch.nn.Flatten(), (0.5,), (0.5,))
    with pytest.raises(UserError, match="has a buffer 'mean', so it normalises itself: set inside"):
        ImageClassifier()._normal(normalising, {}, data, 3)


def test_the_layer_in_front_does_what_it_says() -> None:
    front = Pixels(torch.nn.Flatten(), (0.5,), (0.25,), channels=3)
    assert front(torch.full((1, 1, 2, 2), 0.75)).tolist() == [[1.0] * 12]
    assert Pixels(torch.nn.Flatten(), size=4)(torch.ones(1, 1, 8, 8)).tolist() == [[1.0] * 16]


# ---------------------------------------------------------------------- buffers


def test_weights_buffers_and_counters_come_back_bit_for_bit(tmp_path: Path) -> None:
    data = pictures()
    subject = trained(model(net="resnet18").load(data, 0), data)
    names = dict(subject.module.named_buffers())
    assert int(names["net.stem.1.num_batches_tracked"]) == 3
    subject.save(tmp_path / "model")
    other = model(net="resnet18").load(data, 5)
    load_weights(other, tmp_path / "model")
    for name, value in subject.module.state_dict().items():
        assert torch.equal(value, other.module.state_dict()[name]), name
    assert nll_by_id(other, data["test"]) == nll_by_id(subject, data["test"])


def test_measuring_never_changes_running_statistics() -> None:
    data = pictures()
    subject = trained(model(augment={"crop": 1}).load(data, 0), data)
    before = weights_print(subject)
    for training in (True, False):
        subject.call.train(training)
        evaluation = Evaluation(subject, data)
        evaluation.tokens(data["test"])
        evaluation.grad_norms(data["test"][:2])
        dict(grad_norms(subject, data["test"][:2]))
        assert subject.call.training is training
    assert weights_print(subject) == before


def test_training_does_change_them() -> None:
    data = pictures()
    subject = model().load(data, 0)
    before = subject.module.net[0][1].running_mean.clone()
    trained(subject, data, steps=1)
    assert not torch.equal(subject.module.net[0][1].running_mean, before) and not subject.call.training


# ---------------------------------------------------------------------- augmentation


def test_flips_and_shifts_are_what_was_drawn() -> None:
    image = torch.arange(2 * 9, dtype=torch.float32).reshape(2, 1, 3, 3)
    subject = model().load(pictures(), 0)
    batch = subject.collate([subject.encode(Sample(str(i), {"image": image[i], "label": 0})) for i in range(2)])
    still = {"flip": torch.tensor([False, True]), "shift": torch.tensor([[1, 1], [1, 1]])}
    out = augmented(type(batch)(batch.ids, {**batch.tensors, **still}), Augment(crop=1))
    assert torch.equal(out[0], image[0]) and torch.equal(out[1], image[1].flip(-1))
    moved = {"flip": torch.tensor([False, False]), "shift": torch.tensor([[0, 1], [2, 0]])}
    out = augmented(type(batch)(batch.ids, {**batch.tensors, **moved}), Augment(crop=1))
    assert out[0, 0].tolist() == [[0, 0, 0], [0, 1, 2], [3, 4, 5]]  # one down, and black comes in from above
    assert out[1, 0].tolist() == [[0, 12, 13], [0, 15, 16], [0, 0, 0]]  # one up, one to the right


def test_augmentation_is_drawn_in_training_only_and_by_the_step() -> None:
    data = pictures()
    subject = model(augment={"crop": 2}).load(data, 0)
    assert subject.stochastic and not model().load(data, 0).stochastic
    batch = subject.collate([subject.encode(s) for s in data["test"][:4]])
    assert subject.draw(batch, rng(0, "x")) is batch
    subject.call.train()
    loader = Loader(subject, "retain", data["retain"], None, rows=6, seed=3)
    first, again, later = (loader.at(step)[0].batch for step in (0, 0, 1))
    assert torch.equal(first["shift"], again["shift"]) and torch.equal(first["flip"], again["flip"])
    assert not torch.equal(first["shift"], later["shift"])
    pieces = [m.batch for m in Loader(subject, "retain", data["retain"], None, rows=6, seed=3, micro=2).at(0)]
    assert torch.equal(torch.cat([p["shift"] for p in pieces]), first["shift"])


def test_a_reference_sees_the_images_that_the_policy_sees() -> None:
    data = pictures()
    subject = model(augment={"crop": 2}).load(data, 0)
    batch = subject.collate([subject.encode(s) for s in data["test"][:6]])
    subject.call.train()
    drawn = subject.draw(batch, rng(1, "x"))
    twin = frozen_copy(subject)
    subject.call.eval()
    assert torch.equal(twin.likelihood(drawn).nll_B, subject.likelihood(drawn).nll_B)
    assert not torch.equal(twin.likelihood(drawn).nll_B, twin.likelihood(batch).nll_B)


# ---------------------------------------------------------------------- models of other libraries


def test_a_model_of_transformers_is_saved_as_its_own_library_loads_it(tmp_path: Path) -> None:
    data = pictures()
    made = trained(model(net="vit").load(data, 0), data)
    made.save(tmp_path / "vit")
    assert {"config.json", "model.safetensors", "preprocessor_config.json"} <= {f.name for f in (tmp_path / "vit").iterdir()}
    told = json.loads((tmp_path / "vit" / "preprocessor_config.json").read_text())
    assert told["image_mean"] == pytest.approx(statistics(data)[0])
    loaded = model(net="hf", name=str(tmp_path / "vit")).load(data, 9)
    assert nll_by_id(loaded, data["test"]) == nll_by_id(made, data["test"])
    other = model(net="vit").load(data, 4)
    load_weights(other, tmp_path / "vit")
    assert weights_print(other) == weights_print(made)
    with pytest.raises(UserError, match="its weights do not fit"):
        model(net="vit", width=4).load(data, 0).load(tmp_path / "vit")


def test_label_maps_that_do_not_match_are_refused(tmp_path: Path) -> None:
    data = pictures()
    model(net="vit").load(data, 0).save(tmp_path / "vit")
    config = json.loads((tmp_path / "vit" / "config.json").read_text())
    config["id2label"] = {"0": "dog", "1": "cat", "2": "ship"}
    (tmp_path / "vit" / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="class 0 is 'dog' to the model and 'cat' in the data"):
        model(net="hf", name=str(tmp_path / "vit")).load(data, 0)
    four = Bundle(data.roles, classes=(*CLASSES, "bird"))
    with pytest.raises(UserError, match="has 3 classes and the data 4"):
        model(net="hf", name=str(tmp_path / "vit")).load(four, 0)
    fresh = model(net="hf", name=str(tmp_path / "vit"), new_head=True).load(four, 0)
    assert fresh.likelihood(fresh.collate([fresh.encode(data["test"][0])])).dist.logits_NV.shape == (1, 4)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"classes": 2}, "2 classes, and a row of the data has label 2"),
        ({"net": "hf"}, "give the folder or hub name"),
        ({"net": "hf", "name": "./nowhere"}, "no such folder"),
        ({"net": "timm"}, "give the architecture"),
    ],
)
def test_models_that_cannot_be_are_refused(values: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        model(**values).load(pictures(), 0)


@pytest.mark.parametrize("library", ["torchvision", "timm"])
def test_a_library_that_does_not_import_is_named_with_its_command(library: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib

    def broken(name: str) -> Any:
        raise ImportError(f"no {name}")

    wanted = model(net=library, name="resnet18")
    monkeypatch.setattr(importlib, "import_module", broken)
    with pytest.raises(UserError, match=f"{library} does not import here .* pip install {library}"):
        wanted.load(pictures(), 0)


def test_grey_images_are_made_colour_for_a_model_of_colour_and_never_the_other_way(tmp_path: Path) -> None:
    colour, grey = pictures(), pictures(channels=1)
    model(net="vit").load(colour, 0).save(tmp_path / "colour")
    model(net="vit").load(grey, 0).save(tmp_path / "grey")
    assert nll_by_id(model(net="hf", name=str(tmp_path / "colour")).load(grey, 0), grey["test"][:2])
    with pytest.raises(UserError, match=r"reads 1 channel\(s\), and the images have 3"):
        model(net="hf", name=str(tmp_path / "grey")).load(colour, 0)


def test_any_module_is_a_classifier() -> None:
    data = pictures()
    subject = Classifier(Pixels(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 3))))
    before = weights_print(subject)
    trained(subject, data)
    assert weights_print(subject) != before


# ---------------------------------------------------------------------- texts


def test_texts_are_classified_by_the_same_adapter(topics: Bundle, tmp_path: Path) -> None:
    small = build_use("models", {"use": "text_classifier", "width": 8, "depth": 1, "heads": 2}, "subject")
    subject = trained(small.load(topics, 0), topics)
    scored = nll_by_id(subject, topics["test"])
    alone = nll_by_id(subject, topics["test"][:1])
    row = topics["test"][0].id
    assert alone[row][0] == pytest.approx(scored[row][0], abs=1e-5) and scored[row][1] == 1  # padding changes nothing
    batch = subject.collate([subject.encode(s) for s in topics["test"]])
    hidden = subject.hidden(batch, 0)
    assert hidden.state_NC.shape == (int(batch["mask"].sum()), 8)
    assert torch.equal(hidden.row_N.bincount(), batch["mask"].sum(1))
    subject.save(tmp_path / "model")
    other = small.load(topics, 3)
    load_weights(other, tmp_path / "model")
    assert weights_print(other) == weights_print(subject)
    named = build_use("models", {"use": "text_classifier", "name": str(tmp_path / "model")}, "subject").load(topics, 5)
    assert nll_by_id(named, topics["test"]) == scored


def test_rows_of_the_wrong_kind_are_named(topics: Bundle) -> None:
    text = build_use("models", {"use": "text_classifier", "width": 8, "depth": 1, "heads": 2}, "subject").load(topics, 0)
    with pytest.raises(UserError, match="has no text with a label"):
        text.encode(pictures()["test"][0])
    with pytest.raises(UserError, match="has no image with a label"):
        model().load(pictures(), 0).encode(topics["test"][0])
    with pytest.raises(UserError, match="the data has no images"):
        model().load(topics, 0)


@pytest.mark.parametrize("net", ["conv", "vit"])
def test_a_saved_model_is_put_beside_the_original(net: str, tmp_path: Path) -> None:
    data = pictures()
    made = trained(model(net=net).load(data, 0), data)
    made.save(tmp_path / "model")
    stage = build_use("stages", {"use": "saved", "folder": str(tmp_path / "model")}, "stage")
    assert weights_print(stage(model(net=net).load(data, 7), data, Memory())) == weights_print(made)
    with pytest.raises(UserError, match="its weights do not fit the model"):
        stage(model(net=net, width=4).load(data, 7), data, Memory())


def test_doing_nothing_does_nothing() -> None:
    data = pictures()
    subject = model().load(data, 0)
    before = weights_print(subject)
    stage = build_use("stages", {"use": "nothing"}, "stage")
    assert weights_print(stage(subject, data, Memory())) == before and stage.objective_on(data) == ()
