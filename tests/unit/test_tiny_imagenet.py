"""Tiny-ImageNet's folder as its archive unpacks: labels, names, grey images, and what may be missing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from amends.core.errors import UserError
from amends.core.rng import stream_seed
from amends.core.spec import build_use
from amends.data.tiny_imagenet import TinyImageNet

WNIDS = ("n02124075", "n01443537", "n03126707")  # not sorted, as in the archive
WORDS = "n01443537\tgoldfish, Carassius auratus\nn02124075\tEgyptian cat\nn03126707\tcrane\nn09999999\tnothing here\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three classes with eleven and two images each."""
    root = tmp_path / "tiny-imagenet-200"
    draws = np.random.default_rng(stream_seed(0, "tiny"))

    def picture(file: Path, grey: bool = False) -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(draws.integers(0, 256, (64, 64) if grey else (64, 64, 3), dtype=np.uint8)).save(file, "JPEG")

    for wnid in WNIDS:
        for i in range(11):
            picture(root / "train" / wnid / "images" / f"{wnid}_{i}.JPEG", grey=i == 0)
        (root / "train" / wnid / f"{wnid}_boxes.txt").write_text("")
    lines = []
    for i, wnid in enumerate(WNIDS * 2):
        picture(root / "val" / "images" / f"val_{i}.JPEG")
        lines.append(f"val_{i}.JPEG\t{wnid}\t0\t0\t62\t62\n")
    (root / "val" / "val_annotations.txt").write_text("".join(lines))
    (root / "wnids.txt").write_text("\n".join(WNIDS) + "\n")
    (root / "words.txt").write_text(WORDS)
    return root


def test_labels_follow_the_sorted_ids(folder: Path) -> None:
    data = TinyImageNet(folder=str(folder.parent)).load(0)
    assert data.classes == ("goldfish", "Egyptian cat", "crane")
    assert (len(data["train"]), len(data["test"])) == (33, 6)
    assert data["train"][0].id == "train/n01443537/images/n01443537_0.JPEG"
    assert [row.id.rpartition("_")[2] for row in data["train"][9:11]] == ["9.JPEG", "10.JPEG"], "by number, not by letters"
    assert all(row.data["image"].shape == (3, 64, 64) for rows in (data["train"], data["test"]) for row in rows)
    assert [row.data["label"] for row in data["test"]] == [1, 0, 2, 1, 0, 2]


def test_some_classes_and_some_images_of_each(folder: Path) -> None:
    data = build_use(
        "data", {"use": "tiny_imagenet", "folder": str(folder), "classes": ["crane", "n01443537"], "per_class": 2}, "data"
    )
    found = data.load(0)
    assert found.classes == ("goldfish", "crane") and [r.data["label"] for r in found["train"]] == [0, 0, 1, 1]
    assert [r.data["label"] for r in found["test"]] == [0, 1, 0, 1]
    with pytest.raises(UserError, match=r"no class 'goldfisch' \(did you mean 'goldfish'"):
        TinyImageNet(folder=str(folder), classes=("goldfisch",)).load(0)


def test_two_classes_of_one_name_are_told_apart(folder: Path) -> None:
    (folder / "words.txt").write_text("n01443537\tcrane\nn03126707\tcrane, a machine\n")
    assert TinyImageNet(folder=str(folder)).load(0).classes == ("crane (n01443537)", "n02124075", "crane (n03126707)")


def _no_annotations(root: Path) -> None:
    (root / "val" / "val_annotations.txt").unlink()


def _bad_line(root: Path) -> None:
    (root / "val" / "val_annotations.txt").write_text(f"val_0.JPEG\t{WNIDS[0]}\n../val_1.JPEG\t{WNIDS[0]}\n")


def _no_class(root: Path) -> None:
    (root / "wnids.txt").write_text("\n".join((*WNIDS, "n00000001")))


def _broken(root: Path) -> None:
    (root / "val" / "images" / "val_3.JPEG").write_bytes(b"no picture")


def _elsewhere(root: Path) -> None:
    (root / "wnids.txt").unlink()


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (_no_annotations, "val_annotations.txt: is missing"),
        (_bad_line, r"val_annotations.txt, line 2: expected a file, a tab and a WordNet id, got '../val_1"),
        (_no_class, "train: has no image of class 'n00000001'"),
        (_broken, r"1 image\(s\) could not be decoded \(val/images/val_3.JPEG\)"),
        (_elsewhere, "holds no wnids.txt.*unpack tiny-imagenet-200.zip"),
    ],
)
def test_what_is_missing_is_named(folder: Path, harm: Callable[[Path], None], said: str) -> None:
    harm(folder)
    with pytest.raises(UserError, match=said):
        TinyImageNet(folder=str(folder)).load(0)


def test_broken_images_are_left_out_when_asked(folder: Path) -> None:
    _broken(folder)
    data = TinyImageNet(folder=str(folder), skip_broken=True).load(0)
    assert len(data["test"]) == 5 and "were left out" in data.notes[0]
