"""A classifier's data, model or mask that does not fit: one sentence that names the place and the way out, before any work.

Each case goes through the command itself, in this process.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from amends.cli.app import main
from amends.core.context import Memory
from amends.core.protocols import Start
from amends.core.spec import build_use
from amends.edits.weight_mask import WeightMask
from amends.report.build import build
from amends.subjects.tiny import TinyLM

Tree = dict[str, Any]
CLASSES = ("cat", "dog", "ship")


def command(*words: object) -> int:
    """The exit code of a command, through the console script's own function."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["amends", *map(str, words)])
        try:
            main()
        except SystemExit as stop:
            return int(stop.code or 0)
    return 0


def tree_of(data: Tree, subject: Tree | None = None, **second: Any) -> Tree:
    """A recipe of two stages on labelled rows of which the first class is forgotten."""
    stage = {"use": "gradient", "from": "original", "steps": 1, "objective": [{"use": "ascent"}, {"use": "nll"}], **second}
    return {
        "name": "bad", "data": {"use": "labelled", "of": data, "classes": [0]},
        "subject": subject or {"use": "image_classifier", "width": 2},
        "stages": {"original": {"use": "train", "on": ["forget", "retain"], "steps": 1}, "second": stage},
        "reading": {"show": []}, "measure": [{"use": "ua"}, {"use": "ta"}],
    }  # fmt: skip


def run(tree: Tree, folder: Path) -> int:
    """The command on this recipe."""
    (folder / "recipe.yaml").write_text(json.dumps(tree))
    return command("run", folder / "recipe.yaml", "--out", folder / "run", "--no-report")


def refusal(tree: Tree, folder: Path, capfd: Any) -> str:
    """What the command says, known to be one sentence and a code of 2, before any step of any stage."""
    code = run(tree, folder)
    said = capfd.readouterr().err
    assert code == 2 and "Traceback" not in said, said
    assert not (folder / "run" / "metrics.jsonl").exists() and not list((folder / "run").glob("stages/*/DONE"))
    (line,) = [line for line in said.splitlines() if line.startswith("error: ")]
    return line


def npz(folder: Path, train: tuple[int, ...] = (12, 8, 8, 3), test: tuple[int, ...] = (6, 8, 8, 3), **more: Any) -> Tree:
    """Made pictures of three classes in a file; the shapes are those of its two arrays."""
    draws = np.random.default_rng(0)
    images = {f"{k}_images": draws.integers(0, 256, s, dtype=np.uint8) for k, s in (("train", train), ("test", test))}
    labels = {f"{k}_labels": np.arange(s[0]) % 3 for k, s in (("train", train), ("test", test))}
    np.savez(folder / "made.npz", **images, **labels, classes=np.array(CLASSES))
    return {"use": "npz", "file": str(folder / "made.npz"), **more}


def saved(folder: Path, config: Tree | None = None, preprocessor: Tree | None = None, **subject: Any) -> Tree:
    """A tiny ViT as transformers' own folder, with changes of what its files say, as a subject."""
    data = build_use("data", {"use": "labelled", "of": npz(folder), "classes": [0]}, "data").load(0)
    build_use("models", {"use": "image_classifier", "net": "vit", "width": 2, "depth": 1}, "subject").load(data, 0).save(
        folder / "vit"
    )
    for name, changes in (("config", config), ("preprocessor_config", preprocessor)):
        path = folder / "vit" / f"{name}.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **(changes or {})}))
    return {"use": "image_classifier", "net": "hf", "name": str(folder / "vit"), **subject}


def pictures(folder: Path, sizes: tuple[int, ...] = (8,), broken: int = 0) -> Tree:
    """A folder of pictures of two classes, some of which are none."""
    for label, name in enumerate(CLASSES[:2]):
        (folder / "pictures" / name).mkdir(parents=True)
        for i in range(6):
            side = sizes[i % len(sizes)]
            Image.fromarray(np.full((side, side, 3), 90 * label + 10 * i, np.uint8)).save(
                folder / "pictures" / name / f"{i}.png"
            )
    for i in range(broken):
        (folder / "pictures" / "cat" / f"torn-{i}.png").write_bytes(b"no picture")
    return {"use": "image_folder", "folder": str(folder / "pictures")}


def mask(folder: Path) -> str:
    """The mask of a net that is twice as wide."""
    data = build_use("data", {"use": "labelled", "of": npz(folder), "classes": [0]}, "data").load(0)
    subject = build_use("models", {"use": "image_classifier", "width": 4}, "subject").load(data, 0)
    edit = WeightMask(by=build_use("attributions", {"use": "magnitude"}, "by"), keep=0.5)
    edit.init(dict(subject.module.named_parameters()), Start(subject, data, Memory(folder=folder / "wide")))
    return str(folder / "wide" / "mask.safetensors")


def forgetting(**data: Any) -> Callable[[Path], Tree]:
    """The recipe on the made pictures with other settings of what is forgotten."""
    return lambda folder: (lambda tree: tree | {"data": {**tree["data"], **data}})(tree_of(npz(folder)))


NORMAL = {"do_normalize": True, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}
BARE = {"do_normalize": False}
NAMES = {"id2label": {"0": "cat", "1": "dog", "2": "boat"}}
CASES: dict[str, tuple[Callable[[Path], Tree], str]] = {
    "a class that is not there": (
        forgetting(classes=["shipp"]),
        "data.classes: the data has no class 'shipp' (did you mean 'ship'",
    ),
    "a number that is no class": (forgetting(classes=[3]), "data.classes: there is no class 3: the data has 3, 0 to 2"),
    "no class at all": (forgetting(classes=[]), "data.classes: name what is to be forgotten (known: cat, dog, ship)"),
    "every class": (forgetting(classes=[0, 1, 2]), "data.classes: every training row is to be forgotten, and none is left"),
    "every row": (forgetting(by="random", classes=[], share=1.0), "data.share: every training row is to be forgotten"),
    "every id": (forgetting(by="ids", classes=[], ids=[str(i) for i in range(12)]), "data.ids: every training row is"),
    "more rows than there are": (
        forgetting(by="random", classes=[], share=99),
        "data.share: 99 rows were to be forgotten, and 12",
    ),
    "colour after grey": (
        lambda folder: tree_of(npz(folder, train=(12, 8, 8))),
        "row train-0-00000 is an image of 8 x 8 pixels and 1 channel(s) and row test-",
    ),
    "two sizes": (
        lambda folder: tree_of(npz(folder, test=(6, 9, 8, 3))),
        "one of 8 x 9 pixels and 3 channel(s): make all of one",
    ),
    "two sizes in a folder": (lambda folder: tree_of(pictures(folder, (8, 9))), "9 x 9: set data.size to scale them"),
    "no picture": (
        lambda folder: tree_of(pictures(folder, broken=2)),
        "2 image(s) could not be decoded (cat/torn-0.png, cat/torn-1",
    ),
    "another number of classes": (
        lambda folder: tree_of(npz(folder), saved(folder, {"id2label": {"0": "a", "1": "b"}})),
        "has 2 classes and the data 3",
    ),
    "another order": (
        lambda folder: tree_of(npz(folder), saved(folder, {"id2label": {"0": "dog", "1": "cat", "2": "ship"}})),
        "class 0 is 'dog' to the model and 'cat' in the data: give the data's source its `classes` in the model's order",
    ),
    "another name": (
        lambda folder: tree_of(npz(folder), saved(folder, NAMES)),
        "'ship' in the data: set subject.trust_order: true",
    ),
    "normalised in front and inside": (
        lambda folder: tree_of(npz(folder), saved(folder, preprocessor=NORMAL, normalise="inside")),
        "subject.normalise: inside, and the preprocessor_config.json of",
    ),
    "normalised though it was not": (
        lambda folder: tree_of(npz(folder), saved(folder, preprocessor=BARE)),
        "says that its images are not normalised: set none",
    ),
    "colour for a grey model": (
        lambda folder: tree_of(npz(folder), saved(folder, {"num_channels": 1})),
        "could not be loaded as an image classifier",
    ),
    "a damaged file about pixels": (
        lambda folder: tree_of(npz(folder), saved(folder, preprocessor={"image_mean": {"r": 1}})),
        "cannot be read",
    ),
    "another net's mask": (
        lambda folder: tree_of(npz(folder), edits=[{"use": "weight_mask", "file": mask(folder)}]),
        "mask.safetensors: the mask is for another model: its net.0.0.weight has the shape (4, 3, 3, 3), this model's",
    ),
    "another net's zeros": (
        lambda folder: tree_of(npz(folder), use="prune_first", file=mask(folder)),
        "the mask is for another model",
    ),
    "images for a language model": (
        lambda folder: tree_of(npz(folder), {"use": "tiny_lm", "width": 16}),
        "has no question, prompt or text",
    ),
    "images for a reader of texts": (
        lambda folder: tree_of(npz(folder), {"use": "text_classifier"}),
        "has no text with a label",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_what_does_not_fit_is_said_before_any_work(case: str, tmp_path: Path, capfd: Any) -> None:
    make, words = CASES[case]
    tree = make(tmp_path)
    if case == "another net's zeros":
        second = tree["stages"]["second"]
        inner = {"use": "gradient", "steps": 1, "objective": second.pop("objective")}
        second |= {"then": inner}
        second.pop("steps")
    assert words in refusal(tree, tmp_path, capfd)


def test_a_class_that_goes_as_a_whole_is_said_on_the_screen_and_on_the_page(tmp_path: Path, capfd: Any) -> None:
    assert run(tree_of(npz(tmp_path)), tmp_path) == 0
    told = "all of 'cat' is forgotten: its 2 test rows left `test`, on which TA and membership inference rest"
    assert told in " ".join(capfd.readouterr().err.split())
    page = build(tmp_path / "run").read_text(encoding="utf-8")
    assert "all of &#39;cat&#39; is forgotten" in page or "all of 'cat' is forgotten" in page


def test_broken_pictures_are_skipped_when_asked_and_the_run_says_how_many(tmp_path: Path, capfd: Any) -> None:
    tree = tree_of({**pictures(tmp_path, broken=2), "skip_broken": True})
    assert run(tree, tmp_path) == 0
    assert "2 image(s) could not be decoded (cat/torn-0.png, cat/torn-1.png) and were left out" in capfd.readouterr().err
    notes = json.loads((tmp_path / "run" / "manifest.json").read_text())["data"]["notes"]
    assert any("could not be decoded" in note for note in notes)


def test_broken_pictures_of_a_hugging_face_set_are_counted_too(tmp_path: Path, capfd: Any) -> None:
    datasets = pytest.importorskip("datasets")
    features = datasets.Features({"img": datasets.Image(), "kind": datasets.ClassLabel(names=list(CLASSES[:2]))})
    pictures(tmp_path, broken=1)
    files = [*sorted((tmp_path / "pictures").glob("*/?.png")), tmp_path / "pictures" / "cat" / "torn-0.png"]
    rows = [{"bytes": f.read_bytes(), "path": None} for f in files]
    made = datasets.Dataset.from_dict({"img": rows, "kind": [i % 2 for i in range(len(rows))]}, features=features)
    datasets.DatasetDict({"train": made, "test": made.select(range(6))}).save_to_disk(str(tmp_path / "set"))
    source = {"use": "hub", "name": str(tmp_path / "set")}
    assert "1 image(s) could not be decoded (row 12 of 'train')" in refusal(tree_of(source), tmp_path, capfd)
    assert run(tree_of({**source, "skip_broken": True}), tmp_path) == 0


def test_names_may_be_trusted_and_numbers_name_nothing(tmp_path: Path, capfd: Any) -> None:
    assert run(tree_of(npz(tmp_path), saved(tmp_path, NAMES, trust_order=True)), tmp_path) == 0
    (tmp_path / "plain").mkdir()
    plain = {"id2label": {str(i): f"LABEL_{i}" for i in range(3)}}
    assert run(tree_of(npz(tmp_path / "plain"), saved(tmp_path / "plain", plain)), tmp_path / "plain") == 0
    moved = saved(tmp_path / "plain", {"id2label": {"0": "cat", "1": "ship", "2": "dog"}}, trust_order=True)
    assert "class 1 is 'ship' to the model and 'dog' in the data" in refusal(
        tree_of(npz(tmp_path / "plain"), moved) | {"name": "moved"}, _fresh(tmp_path), capfd
    )


def _fresh(folder: Path) -> Path:
    (folder / "moved").mkdir()
    return folder / "moved"


@pytest.mark.parametrize(
    ("told", "pixel", "wanted"),
    [
        (NORMAL, 1.0, 1.0),
        ({**NORMAL, "do_rescale": False, "image_mean": [127.5] * 3, "image_std": [127.5] * 3}, 1.0, 1.0),
        ({**NORMAL, "rescale_factor": 1 / 127.5, "image_mean": [1.0] * 3, "image_std": [2.0] * 3}, 1.0, 0.5),
        (
            {**NORMAL, "rescale_factor": 1 / 127.5, "rescale_offset": True, "image_mean": [0.0] * 3, "image_std": [2.0] * 3},
            0.0,
            -0.5,
        ),
        ({"do_normalize": False, "do_rescale": False}, 0.5, 127.5),
    ],
)
def test_a_processors_units_are_those_of_the_layer_in_front(told: Tree, pixel: float, wanted: float, tmp_path: Path) -> None:
    """((x f - o) - mean) / std of an 8-bit pixel x, whatever the processor rescales by; worked out by hand."""
    data = build_use("data", {"use": "labelled", "of": npz(tmp_path), "classes": [0]}, "data").load(0)
    subject = build_use("models", saved(tmp_path, preprocessor=told), "subject").load(data, 0)
    net, seen = subject.module.net, []
    net.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    subject.module(torch.full((1, 3, 8, 8), pixel))
    torch.testing.assert_close(seen[0], torch.full((1, 3, 8, 8), wanted))


def test_a_row_without_text_is_named_by_a_language_model(lm_world: Any) -> None:
    from amends.core.errors import UserError
    from amends.core.types import Sample

    assert isinstance(lm_world.model, TinyLM)
    with pytest.raises(UserError, match="row x: has no question, prompt or text, and this model reads nothing else"):
        lm_world.make().encode(Sample("x", {"label": 1}))
