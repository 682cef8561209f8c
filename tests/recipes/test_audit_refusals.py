"""What `amends audit` refuses, each in one sentence that names the place and the remedy; and how it is allowed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pictured import World, command, picture, read, read_yaml
from PIL import Image

from amends.core.types import Sample
from amends.data.bundle import Bundle
from amends.subjects.tiny import TinyLM


def changed(world: World, folder: Path) -> Path:
    """A copy of the pictures that a case may spoil."""
    shutil.copytree(world.data, folder / "data")
    return folder / "data"


def spoilt(spoil: Callable[[Path], Any]) -> Callable[[World, Path, Path], list[object]]:
    """The audit of such a copy."""

    def words(world: World, vit: Path, folder: Path) -> list[object]:
        data = changed(world, folder)
        spoil(data)
        return [data, "--model", world.model]

    return words


def given(*more: object) -> Callable[[World, Path, Path], list[object]]:
    """The audit of the pictures with more words."""
    return lambda world, vit, folder: [world.data, "--model", world.model, *more]


def hf(**changes: Any) -> Callable[[World, Path, Path], list[object]]:
    """The audit by the ViT, what its config says changed."""

    def words(world: World, vit: Path, folder: Path) -> list[object]:
        shutil.copytree(vit, folder / "vit")
        config = read(folder / "vit" / "config.json") | changes
        (folder / "vit" / "config.json").write_text(json.dumps(config))
        return [world.data, "--model", folder / "vit"]

    return words


def bare_vit(world: World, vit: Path, folder: Path) -> list[object]:
    words = hf()(world, vit, folder)
    (folder / "vit" / "preprocessor_config.json").unlink()
    return words


def language(world: World, vit: Path, folder: Path) -> list[object]:
    rows = tuple(Sample(f"r{i}", {"question": f"Where is {i}?", "answer": "Here."}) for i in range(8))
    TinyLM(width=16, depth=1, heads=2, vocab=280).load(Bundle({"forget": rows}), 0).save(folder / "lm")
    return [world.data, "--model", folder / "lm"]


def own_language(world: World, vit: Path, folder: Path) -> list[object]:
    shutil.copytree(world.model, folder / "model")
    (folder / "model" / "recipe.yaml").write_text(json.dumps({"subject": {"use": "tiny_lm"}}))
    return [world.data, "--model", folder / "model"]


def alone(world: World, vit: Path, folder: Path) -> list[object]:
    shutil.copytree(world.model, folder / "weights")
    return [world.data, "--model", folder / "weights"]


def no_label(world: World, vit: Path, folder: Path) -> list[object]:
    datasets = pytest.importorskip("datasets")
    files = [str(f) for f in sorted(world.data.glob("*/*.png"))]
    datasets.Dataset.from_dict({"image": files}, features=datasets.Features({"image": datasets.Image()})).save_to_disk(
        str(folder / "bare")
    )
    return [folder / "bare", "--model", world.model]


def emptied(data: Path) -> None:
    for file in (data / "ship").iterdir():
        file.unlink()


def flat(world: World, vit: Path, folder: Path) -> list[object]:
    return [world.data / "cat", "--model", world.model]


def nothing(world: World, vit: Path, folder: Path) -> list[object]:
    (folder / "none").mkdir()
    return [folder / "none", "--model", world.model]


CASES: dict[str, tuple[Callable[[World, Path, Path], list[object]], str]] = {
    "no such data": (
        lambda world, vit, folder: [folder / "absent", "--model", world.model],
        "absent: no such file or folder",
    ),
    "a name that no folder and no data set has": (
        lambda world, vit, folder: ["nobody-has/such-pictures", "--model", world.model],
        ", and there is no folder of that name",
    ),
    "a folder misspelt in a folder that is there": (
        lambda world, vit, folder: [world.data.parent / "picturse", "--model", world.model],
        "picturse: no such file or folder",
    ),
    "an empty folder": (nothing, "none: is an empty folder: put the images of each class into a sub-folder of its name"),
    "no images": (
        spoilt(lambda data: [f.rename(f.with_suffix(".txt")) for f in data.glob("*/*.png")]),
        "data: holds no images (.png, .jpg",
    ),
    "images without labels": (flat, "cat: holds images (00.png) without labels and no sub-folders: put the images of each"),
    "a data set without labels": (no_label, "bare: no column 'label' (known: image): set data.label"),
    "an empty class": (spoilt(emptied), "data: no training row has the class 'ship': give it rows or take it out of the"),
    "another kind of file": (
        lambda world, vit, folder: [world.data / "cat" / "00.png", "--model", world.model],
        "00.png: give a folder of images (a sub-folder for each class), a folder of a Hugging Face data set, an .npz file or",
    ),
    "sizes": (
        spoilt(lambda data: Image.fromarray(picture(0, "wide", 9)).save(data / "dog" / "03.png")),
        "data: its images have 2 sizes: cat/00.png has 8 x 8 pixels and dog/03.png 9 x 9: set data.size to scale them all to "
        "one (amends audit: --size)",
    ),
    "no picture": (
        spoilt(lambda data: (data / "cat" / "torn.png").write_bytes(b"no")),
        "data: 1 image(s) could not be decoded (cat/torn.png): mend or remove them, or set skip_broken: true",
    ),
    "a class the model does not know": (
        spoilt(lambda data: (data / "ship").rename(data / "shop")),
        "data: its class 'shop' is none of the model's or the training rows' 3 classes (did you mean 'ship'?): rename it",
    ),
    "more classes than the model": (
        spoilt(lambda data: shutil.copytree(data / "ship", data / "tree")),
        "data: has 4 classes, and the model 3: it is not the data that the model was trained on",
    ),
    "no such model": (lambda world, vit, folder: [world.data, "--model", folder / "absent"], "absent: no such folder"),
    "a run": (
        lambda world, vit, folder: [world.data, "--model", world.home / "run"],
        "is the folder of a run, which has several models: give one, such as ",
    ),
    "a file for a model": (
        lambda world, vit, folder: [world.data, "--model", world.model / "model.safetensors"],
        "model.safetensors: is a file, and a folder is needed",
    ),
    "a folder without a model": (
        lambda world, vit, folder: [world.data, "--model", world.test],
        "test: holds neither config.json nor weights (*.safetensors): give the folder that save_pretrained wrote",
    ),
    "weights alone": (alone, "weights: holds weights alone, and neither it nor a run around it has the recipe.yaml that says"),
    "a language model": (language, "lm: is a LlamaForCausalLM, and an audit asks a classifier"),
    "a language model of this library": (own_language, "model: is a tiny_lm ("),
    "a model that normalises in an unknown way": (
        bare_vit,
        "vit: has no preprocessor_config.json, so it is not known how its inputs are normalised: give --mean and --std, or",
    ),
    "other class names": (
        hf(id2label={"0": "ship", "1": "cat", "2": "wolf"}),
        "pictures: its class 'dog' is none of the model's or the training rows' 3 classes",
    ),
    "an unknown auditor": (given("--by", "spcc"), "--by: no auditor is called 'spcc' (did you mean 'spc'?)"),
    "an auditor that needs a rate": (
        given("--by", "spectral_signatures"),
        "--by spectral_signatures: needs to be told which share of the rows may be bad: give it by --rate",
    ),
    "an auditor twice": (given("--by", "spc,spc"), "--by spc,spc: spc stands twice"),
    "a name too few": (given("--by", "spc,"), "--by spc,: a name is missing between two commas"),
    "an unknown method": (given("--then", "l1sparse"), "--then l1sparse: no such method (did you mean 'l1-sparse'?)"),
    "a method for language models": (given("--then", "wagle"), "--then wagle: it is for language models"),
    "test rows that are not there": (given("--test", "absent"), "--test absent: no such file or folder"),
    "clean rows that are not there": (given("--clean", "absent"), "--clean absent: no such file or folder"),
    "a choice and an auditor": (
        given("--rows", "x.csv", "--by", "spc"),
        "--rows: you say which rows go, so no auditor is asked",
    ),
    "clean rows that nobody takes": (
        lambda world, vit, folder: [world.data, "--model", world.model, "--by", "random_scores", "--clean", world.test],
        "--clean: random_scores learns nothing from rows known to be clean; those that do: cognitive_distillation,",
    ),
    "clean rows and a choice": (
        lambda world, vit, folder: [
            *(world.data, "--model", world.model, "--rows", world.home / "recipe.yaml", "--then", "retrain"),
            *("--clean", world.test),
        ],
        "--clean: is for auditors, and with --rows none is asked",
    ),
    "a choice and nothing to do": (given("--rows", "x.csv"), "--rows: says which rows go, and nothing is done with them"),
    "a choice that is not there": (given("--rows", "x.csv", "--then", "retrain"), "--rows x.csv: no such file"),
    "epochs of retraining": (given("--then", "retrain", "--epochs", 3), "--epochs: retraining is told --steps"),
    "seeds": (given("--seeds", "0,one"), "--seeds one: expected whole numbers from 0"),
    "a mean": (given("--mean", "0.5,x"), "--mean 0.5,x: expected numbers with commas between them"),
    "a mean without a deviation": (given("--mean", "0.5,0.4,0.3"), "subject.mean: give both mean and std, or neither"),
    "everything flagged": (
        given("--by", "random_scores", "--rate", 1, "--then", "fine-tune"),
        "audit: random_scores flagged 36 of 36 rows, with which the recipe cannot go on:",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_what_does_not_fit_is_one_sentence(case: str, world: World, vit: Path, tmp_path: Path, capfd: Any) -> None:
    words, said = CASES[case]
    code = command("audit", *words(world, vit, tmp_path), "--out", tmp_path / "out")
    told = capfd.readouterr().err
    assert code == 2 and "Traceback" not in told, told
    (line,) = [line for line in told.splitlines() if line.startswith("error: ")]
    assert said in line, line


def test_what_is_refused_can_be_allowed(world: World, vit: Path, tmp_path: Path) -> None:
    data = changed(world, tmp_path)
    emptied(data)
    (data / "cat" / "torn.png").write_bytes(b"no")
    Image.fromarray(picture(0, "wide", 9)).save(data / "dog" / "03.png")
    words = ["--by", "random_scores", "--allow-empty", "--skip-broken", "--size", 8]
    assert command("audit", data, "--model", world.model, *words, "--out", tmp_path / "out") == 0
    notes = read(tmp_path / "out" / "manifest.json")["data"]["notes"]
    assert notes == ["1 image(s) could not be decoded (cat/torn.png) and were left out"]
    words = bare_vit(world, vit, tmp_path)
    more = ["--mean", "0.1,0.2,0.3", "--std", "0.5,0.5,0.5", "--by", "random_scores", "--out", tmp_path / "vit-out"]
    assert command("audit", *words, *more) == 0
    assert read_yaml(tmp_path / "vit-out" / "recipe.yaml")["subject"]["mean"] == [0.1, 0.2, 0.3]
