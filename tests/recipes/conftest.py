"""What tests of `amends audit` share: pictures (`pictured`, beside this file), a classifier of theirs, and another one."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from PIL import Image

sys.path.insert(0, str(Path(__file__).parent))

from pictured import World, command, picture, write


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    home = tmp_path_factory.mktemp("audit")
    data, test = write(home / "pictures"), write(home / "test", each=4)
    triggered = home / "triggered"
    (triggered / "dog").mkdir(parents=True)
    for i in range(3):
        Image.fromarray(picture(0, f"triggered{i}")).save(triggered / "dog" / f"{i}.png")
    tree = {
        "name": "made", "data": {"use": "image_folder", "folder": str(data), "test": 0},
        "subject": {"use": "image_classifier", "width": 4},
        "stages": {"original": {"use": "train", "on": ["train"], "steps": 40, "batch": 12,
                                "optim": {"use": "sgd", "lr": 0.05, "momentum": 0.9}}},
        "reading": {"show": []}, "measure": [{"use": "accuracy", "role": "train"}],
    }  # fmt: skip
    (home / "recipe.yaml").write_text(json.dumps(tree))
    assert command("run", home / "recipe.yaml", "--out", home / "run", "--no-report") == 0
    return World(home, data, test, triggered, home / "run" / "stages" / "01-original" / "model")


@pytest.fixture(scope="session")
def vit(world: World) -> Path:
    """A tiny ViT of random weights as transformers' own folder, whose classes stand in another order than the alphabet's."""
    from transformers import ViTConfig, ViTForImageClassification

    names = dict(enumerate(("ship", "cat", "dog")))
    shape = {"image_size": 8, "patch_size": 4, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = ViTConfig(**shape, intermediate_size=16, id2label=names, label2id={v: k for k, v in names.items()})
    folder = world.home / "vit"
    ViTForImageClassification(config).save_pretrained(folder)
    normal = {"do_rescale": True, "do_normalize": True, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    (folder / "preprocessor_config.json").write_text(json.dumps({**normal, "size": {"height": 8, "width": 8}}))
    return folder
