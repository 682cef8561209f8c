"""Which classifier lies in a folder: one of transformers, or a net of this library in the folder of the run that trained it.

A folder of transformers says itself what it is. A net of this library is weights alone; what they are the weights of stands
in the `recipe.yaml` of the run, the names of the classes in its `manifest.json`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from amends.core.catalog import normal
from amends.core.errors import UserError
from amends.runs.recipe import read
from amends.runs.record import read_json

OWN = ("imageclassifier", "textclassifier", "tinyclassifier")
"""Models of this library that tell a class."""
IMAGES, TEXTS = "ForImageClassification", "ForSequenceClassification"
_STAGE = re.compile(r"\d+-(?P<name>[^.]+?)(?:-seed\d+)?")
GREY, COLOUR = 1, 3


@dataclass(frozen=True)
class Normal:
    """How the model's inputs are normalised, where its folder does not say."""

    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    by: str | None = None

    def keys(self) -> dict[str, Any]:
        """As keys of a subject."""
        said = {"mean": list(self.mean), "std": list(self.std), "normalise": self.by}
        return {key: value for key, value in said.items() if value}


@dataclass(frozen=True)
class Given:
    """A model as a recipe names it."""

    subject: Mapping[str, Any]
    stage: Mapping[str, Any]
    """How it is put in place as the stage `original`."""
    classes: tuple[str, ...] = ()
    """Names of its classes in the order of its outputs; empty where nobody says."""
    channels: int | None = None
    texts: bool = False
    training: Mapping[str, Any] = field(default_factory=dict)
    """The stage that trained it, where its run is there."""
    loaded: bool = False
    """Whether the subject comes with its weights, so that retraining has to draw new ones."""


def find(model: str, normal_: Normal, trust_order: bool = False) -> Given:
    """The model in a folder (or of a name on the hub); raises UserError for a folder that holds no classifier."""
    path = Path(model).expanduser()
    if not path.exists():
        if model.startswith((".", "/", "~")) or model.count("/") != 1 or path.parent.is_dir():
            raise UserError(f"--model {model}: no such folder")
        subject = {"use": "image_classifier", "net": "hf", "name": model, **normal_.keys()}
        return Given(_trusting(subject, trust_order), {"use": "pretrained"}, loaded=True)
    path = path.resolve()
    if path.is_file():
        raise UserError(f"--model {model}: is a file, and a folder is needed: the one that holds it")
    if (path / "stages").is_dir():
        some = next((f.relative_to(path) for f in sorted(path.glob("stages/*/model"))), Path("stages/NN-NAME/model"))
        raise UserError(f"--model {model}: is the folder of a run, which has several models: give one, such as {path / some}")
    if (path / "config.json").is_file():
        return _transformers(path, normal_, trust_order)
    if not any(path.glob("*.safetensors")):
        raise UserError(
            f"--model {model}: holds neither config.json nor weights (*.safetensors): give the folder that save_pretrained "
            "wrote, or one of a run, such as RUN/stages/01-original/model"
        )
    return _own(path, normal_)


def _trusting(subject: dict[str, Any], trust_order: bool) -> dict[str, Any]:
    return {**subject, "trust_order": True} if trust_order else subject


def _transformers(path: Path, normal_: Normal, trust_order: bool) -> Given:
    try:
        config = json.loads((path / "config.json").read_text(encoding="utf-8"))
        made = [str(name) for name in config.get("architectures") or ()]
        labels = {int(k): str(v) for k, v in (config.get("id2label") or {}).items()}
    except (OSError, ValueError, AttributeError, TypeError):
        raise UserError(
            f"{path / 'config.json'}: cannot be read as a configuration of transformers: save the model again"
        ) from None
    texts = any(name.endswith(TEXTS) for name in made)
    if made and not texts and not any(IMAGES in name for name in made):
        raise UserError(
            f"--model {path}: is a {made[0]}, and an audit asks a classifier which rows of its training data stand out: give a "
            f"model whose config.json names an architecture ...{IMAGES} or ...{TEXTS}"
        )
    classes = () if trust_order else tuple(labels[k] for k in sorted(labels))
    if texts:
        subject = {"use": "text_classifier", "name": str(path)}
        return Given(_trusting(subject, trust_order), {"use": "pretrained"}, classes, texts=True, loaded=True)
    if not (path / "preprocessor_config.json").is_file() and not normal_.keys():
        raise UserError(
            f"--model {path}: has no preprocessor_config.json, so it is not known how its inputs are normalised: give --mean "
            "and --std, or --normalise inside where the network does it itself, or --normalise none"
        )
    subject = {"use": "image_classifier", "net": "hf", "name": str(path), **normal_.keys()}
    channels = GREY if config.get("num_channels") == GREY else COLOUR
    return Given(_trusting(subject, trust_order), {"use": "pretrained"}, classes, channels, loaded=True)


def _own(path: Path, normal_: Normal) -> Given:
    """A net of this library: its recipe lies beside the weights, or at the head of the run's folder."""
    homes = [path, *([path.parents[2]] if len(path.parents) > 2 else [])]
    home = next((f for f in homes if (f / "recipe.yaml").is_file()), None)
    if home is None:
        raise UserError(
            f"--model {path}: holds weights alone, and neither it nor a run around it has the recipe.yaml that says of which "
            "net: leave the model in its run's folder, or copy the run's recipe.yaml and manifest.json beside the weights"
        )
    tree = read(home / "recipe.yaml")
    said = tree.get("subject")
    subject: dict[str, Any] = {"use": said} if isinstance(said, str) else dict(said or {})
    if normal(str(subject.get("use"))) not in OWN:
        raise UserError(
            f"--model {path}: is a {subject.get('use')} ({home / 'recipe.yaml'}), and an audit asks a classifier of images or "
            "texts which rows of its training data stand out: give such a model"
        )
    manifest = read_json(home / "manifest.json") if (home / "manifest.json").is_file() else {}
    classes = tuple(map(str, (manifest.get("data") or {}).get("classes") or ()))
    if "pretrained" in subject:
        subject["pretrained"] = False  # the weights of the folder replace them
    if normal(subject["use"]) == "imageclassifier":
        subject |= {**({"classes": len(classes)} if classes else {}), **normal_.keys()}
    name = _STAGE.fullmatch(path.parent.name)
    stages = tree.get("stages")
    stage = stages.get(name["name"] if name else "original") if isinstance(stages, Mapping) else None
    trained = dict(stage) if isinstance(stage, Mapping) and stage.get("use") == "train" and "from" not in stage else {}
    put = {"use": "saved", "folder": str(path)}
    return Given(subject, put, classes, _channels(path), training=trained)


def _channels(path: Path) -> int | None:
    """What the first layer reads: as many channels as are normalised, or as a convolution of images has; None if unknown."""
    from safetensors import safe_open

    found: list[int] = []
    for file in sorted(path.glob("*.safetensors")):
        with safe_open(file, framework="numpy") as saved:
            shapes = {name: saved.get_slice(name).get_shape() for name in saved.keys()}  # noqa: SIM118
        if len(shapes.get("mean", ())) == 4:
            return int(shapes["mean"][1])
        found += [int(shape[1]) for shape in shapes.values() if len(shape) == 4 and shape[1] in (GREY, COLOUR)]
    return found[0] if found else None
