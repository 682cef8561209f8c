"""Labelled rows: where they come from, what is forgotten of them, what a backdoor leaves, and what bad input says."""

from __future__ import annotations

import gzip
import json
import struct
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from amends.core.errors import UserError
from amends.core.rng import stream_seed
from amends.core.spec import build_use
from amends.data.arrays import as_chw
from amends.data.bundle import Bundle
from amends.data.fashion_mnist import FashionMnist, read_idx
from amends.data.labelled import read_ids


def load(seed: int = 0, **values: Any) -> Bundle:
    return build_use("data", values, "data").load(seed)


def write_npz(path: Path, each: int = 6, size: int = 8) -> Path:
    """Three classes of random colour images, sorted by class."""
    draws = np.random.default_rng(stream_seed(0, "npz"))
    arrays: dict[str, Any] = {"classes": np.array(["cat", "dog", "ship"])}
    for split, n in (("train", each), ("test", each // 2)):
        arrays[f"{split}_images"] = draws.integers(0, 256, (3 * n, size, size, 3), dtype=np.uint8)
        arrays[f"{split}_labels"] = np.repeat(np.arange(3), n)
    np.savez(path, **arrays)
    return path


@pytest.fixture
def pictures(tmp_path: Path) -> dict[str, Any]:
    return {"use": "npz", "file": str(write_npz(tmp_path / "pictures.npz"))}


# ---------------------------------------------------------------------- sources


def test_digits_are_real_and_split_the_same_each_time() -> None:
    data = load(use="digits")
    assert (len(data["train"]), len(data["test"])) == (1348, 449)
    assert data.classes == tuple("0123456789")
    assert data["train"][0].data["image"].shape == (1, 8, 8) and data["train"][0].data["image"].dtype == np.uint8
    assert max(row.data["image"].max() for row in data["train"]) == 255
    assert data.fingerprint() == load(use="digits").fingerprint() != load(1, use="digits").fingerprint()
    assert not {r.id for r in data["train"]} & {r.id for r in data["test"]}


def test_npz_reads_its_layout_keras_names_and_class_names(tmp_path: Path, pictures: dict[str, Any]) -> None:
    data = load(**pictures)
    assert data.classes == ("cat", "dog", "ship") and len(data["train"]) == 18 and len(data["test"]) == 9
    assert data["train"][6].id == "train-1-00006" and data["train"][0].data["image"].shape == (3, 8, 8)
    x = np.zeros((4, 1, 5, 5), np.float32)
    np.savez(tmp_path / "keras.npz", x_train=x, y_train=np.array([[0], [1], [0], [1]]), x_test=x, y_test=np.zeros(4, int))
    keras = load(use="npz", file=str(tmp_path / "keras.npz"))
    assert keras.classes == ("0", "1") and keras["train"][0].data["image"].dtype == np.float32


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({"images": np.zeros(3)}, "holds images, and train_images"),
        ({"x_train": np.array([{}], dtype=object)}, "cannot be read as .npz"),
        ({"train_labels": np.zeros(2, int)}, "3 images and 2 labels"),
        ({"train_labels": np.zeros(3)}, "one whole number from 0 an image"),
        ({"train_labels": np.array([0, 1, -1])}, "one whole number from 0 an image"),
        ({"train_images": np.full((3, 4, 4), 7.0)}, "floats in 0..1, not float64 in 7..7"),
        ({"train_images": np.zeros((3, 4, 4, 5), np.uint8)}, r"of shape \(3, 4, 4, 5\)"),
        ({"classes": np.array(["one"])}, "has label 2, and 1 classes are named"),
    ],
)
def test_bad_npz_files_are_told_what_is_wrong(tmp_path: Path, arrays: dict[str, Any], said: str) -> None:
    good = {"train_images": np.zeros((3, 4, 4), np.uint8), "train_labels": np.arange(3), "classes": np.array(list("abc"))}
    good |= {"test_images": good["train_images"], "test_labels": np.arange(3)}
    np.savez(tmp_path / "bad.npz", **(arrays if set(arrays) & {"images", "x_train"} else {**good, **arrays}))
    with pytest.raises(UserError, match=said):
        load(use="npz", file=str(tmp_path / "bad.npz"))


def test_a_missing_or_broken_npz_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file"):
        load(use="npz", file=str(tmp_path / "none.npz"))
    (tmp_path / "text.npz").write_text("hello")
    with pytest.raises(UserError, match="cannot be read as .npz"):
        load(use="npz", file=str(tmp_path / "text.npz"))


def write_idx(path: Path, values: np.ndarray) -> None:
    raw = bytes([0, 0, 8, values.ndim]) + struct.pack(f">{values.ndim}I", *values.shape) + values.astype(np.uint8).tobytes()
    path.write_bytes(gzip.compress(raw) if path.suffix == ".gz" else raw)


def test_idx_files_are_read_gzipped_or_not(tmp_path: Path) -> None:
    draws = np.random.default_rng(stream_seed(0, "idx"))
    for split, n in (("train", 20), ("t10k", 10)):
        write_idx(tmp_path / f"{split}-images-idx3-ubyte.gz", draws.integers(0, 256, (n, 28, 28)))
        write_idx(tmp_path / f"{split}-labels-idx1-ubyte", np.arange(n) % 10)
    data = FashionMnist(folder=str(tmp_path)).load(0)
    assert len(data["train"]) == 20 and data.classes[9] == "Ankle boot" and data["test"][3].data["label"] == 3
    (tmp_path / "t10k-labels-idx1-ubyte").unlink()
    with pytest.raises(UserError, match="set data.folder"):
        FashionMnist(folder=str(tmp_path)).load(0)


def test_a_damaged_idx_file_and_a_missing_package_say_so(tmp_path: Path) -> None:
    write_idx(tmp_path / "short", np.arange(6))
    (tmp_path / "short").write_bytes((tmp_path / "short").read_bytes()[:-1])
    (tmp_path / "other").write_bytes(b"\x00\x00\x0d\x01")
    (tmp_path / "torn.gz").write_bytes(gzip.compress(b"x" * 100)[:20])
    for name, said in (("short", "cut short"), ("other", "no idx file"), ("torn.gz", "cannot be read")):
        with pytest.raises(UserError, match=said):
            read_idx(tmp_path / name)
    if not Path(FashionMnist().folder).is_dir():
        with pytest.raises(UserError, match="apt-get install dataset-fashion-mnist"):
            FashionMnist().load(0)


def write_pictures(root: Path, sizes: tuple[int, ...] = (6, 6)) -> None:
    draws = np.random.default_rng(stream_seed(0, "pictures"))
    for name in ("cat", "dog"):
        (root / name).mkdir(parents=True)
        for i, size in enumerate(sizes * 2):
            Image.fromarray(draws.integers(0, 256, (size, size, 3), dtype=np.uint8)).save(root / name / f"{i}.png")


def test_a_folder_of_images_is_read_with_or_without_a_split(tmp_path: Path) -> None:
    write_pictures(tmp_path / "flat")
    flat = load(use="image_folder", folder=str(tmp_path / "flat"), test=0.25)
    assert (len(flat["train"]), len(flat["test"]), flat.classes) == (6, 2, ("cat", "dog"))
    assert {r.id for r in flat.together(["train", "test"])} == {f"{c}/{i}.png" for c in ("cat", "dog") for i in range(4)}
    for split in ("train", "test"):
        write_pictures(tmp_path / "split" / split)
    split = load(use="image_folder", folder=str(tmp_path / "split"), channels=1, classes=["dog", "cat"])
    assert split.classes == ("dog", "cat") and split["test"][0].id == "test/dog/0.png"
    assert split["train"][0].data["image"].shape == (1, 6, 6) and split["train"][0].data["label"] == 0


def test_images_that_cannot_be_decoded_are_named_counted_and_left_out_only_when_asked(tmp_path: Path) -> None:
    write_pictures(tmp_path)
    (tmp_path / "cat" / "broken.png").write_bytes(b"no picture")
    (tmp_path / "dog" / "torn.jpg").write_bytes((tmp_path / "dog" / "0.png").read_bytes()[:40])
    with pytest.raises(UserError, match=r"2 image\(s\) could not be decoded \(cat/broken.png, dog/torn.jpg\)"):
        load(use="image_folder", folder=str(tmp_path))
    data = load(use="image_folder", folder=str(tmp_path), skip_broken=True)
    assert len(data.together(["train", "test"])) == 8
    assert data.notes == ("2 image(s) could not be decoded (cat/broken.png, dog/torn.jpg) and were left out",)


def test_images_of_two_sizes_need_a_size(tmp_path: Path) -> None:
    write_pictures(tmp_path, sizes=(6, 9))
    with pytest.raises(UserError, match=r"6 x 6 pixels and .* 9 x 9: set data.size"):
        load(use="image_folder", folder=str(tmp_path))
    assert load(use="image_folder", folder=str(tmp_path), size=8)["train"][0].data["image"].shape == (3, 8, 8)


def test_a_class_without_images_is_named_unless_it_is_meant(tmp_path: Path) -> None:
    write_pictures(tmp_path / "flat")
    (tmp_path / "flat" / "emu").mkdir()
    (tmp_path / "flat" / "yak").mkdir()
    with pytest.raises(UserError, match=r"flat: no image to learn from is of the class 'emu' \(and 1 more\): .* empty: true"):
        load(use="image_folder", folder=str(tmp_path / "flat"))
    source = {"use": "image_folder", "folder": str(tmp_path / "flat"), "empty": True}
    assert load(**source).classes == ("cat", "dog", "emu", "yak")
    data = load(use="labelled", of=source, by="random", share=0.5)
    assert "no training row has the class 'emu' (and 1 more), which the data names" in data.notes
    for split in ("train", "test"):
        write_pictures(tmp_path / "split" / split)
    for picture in (tmp_path / "split" / "test" / "dog").iterdir():
        picture.unlink()
    assert {row.data["label"] for row in load(use="image_folder", folder=str(tmp_path / "split"))["test"]} == {0}
    (tmp_path / "split" / "test" / "emu").mkdir()
    with pytest.raises(UserError, match=r"split/train: no image to learn from is of the class 'emu'"):
        load(use="image_folder", folder=str(tmp_path / "split"))


def test_folders_and_classes_that_are_not_there_are_named(tmp_path: Path) -> None:
    write_pictures(tmp_path)
    with pytest.raises(UserError, match="no such folder"):
        load(use="image_folder", folder=str(tmp_path / "none"))
    with pytest.raises(UserError, match=r"no sub-folder 'kat' \(did you mean 'cat'"):
        load(use="image_folder", folder=str(tmp_path), classes=["kat", "dog"])
    with pytest.raises(UserError, match="leaves out the sub-folder 'dog'"):
        load(use="image_folder", folder=str(tmp_path), classes=["cat"])
    with pytest.raises(UserError, match="no sub-folders"):
        load(use="image_folder", folder=str(tmp_path / "cat"))


def test_a_data_set_of_hugging_face_is_read_from_a_folder(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    features = datasets.Features({"img": datasets.Image(), "kind": datasets.ClassLabel(names=["cat", "dog"])})
    pictures = [Image.fromarray(np.full((5, 5, 3), 40 * i, np.uint8)) for i in range(4)]
    made = datasets.Dataset.from_dict({"img": pictures, "kind": [0, 1, 0, 1]}, features=features)
    datasets.DatasetDict({"train": made, "test": made}).save_to_disk(str(tmp_path / "set"))
    data = load(use="hub", name=str(tmp_path / "set"))
    assert data.classes == ("cat", "dog") and data["train"][1].id == "train-1-00001"
    assert data["train"][3].data["image"].shape == (3, 5, 5)
    with pytest.raises(UserError, match=r"no split 'tests' \(did you mean 'test'"):
        load(use="hub", name=str(tmp_path / "set"), test="tests")
    with pytest.raises(UserError, match="no column 'kinds'"):
        load(use="hub", name=str(tmp_path / "set"), label="kinds")


def test_labelled_texts_come_from_files_or_are_generated(tmp_path: Path) -> None:
    data = load(use="topics", topics=3, rows=6)
    assert Counter(r.data["label"] for r in data["train"]) == {0: 6, 1: 6, 2: 6} and len(data["test"]) == 6
    (tmp_path / "rows.csv").write_text("text,label\n" + "".join(f"word {i},{'ab'[i % 2]}\n" for i in range(10)))
    own = load(use="text_classes", train=str(tmp_path / "rows.csv"))
    assert own.classes == ("a", "b") and (len(own["train"]), len(own["test"])) == (8, 2)
    (tmp_path / "bad.jsonl").write_text('{"text": "x"}\n')
    with pytest.raises(UserError, match="bad.jsonl:1: has no 'label'"):
        load(use="text_classes", train=str(tmp_path / "bad.jsonl"))
    with pytest.raises(UserError, match="label 'a', which is not among b, c"):
        load(use="text_classes", train=str(tmp_path / "rows.csv"), classes=["b", "c"])


def test_layouts_of_arrays_are_told_apart_and_rows_can_be_written_to() -> None:
    frozen = np.zeros((2, 4, 4, 3), np.uint8)
    frozen.flags.writeable = False
    assert as_chw(frozen, "x").shape == (2, 3, 4, 4) and as_chw(frozen, "x").flags.writeable
    assert as_chw(np.zeros((2, 4, 4)), "x").shape == (2, 1, 4, 4)
    assert as_chw(np.zeros((2, 3, 4, 4)), "x").shape == (2, 3, 4, 4)


# ---------------------------------------------------------------------- what is forgotten


def labels(data: Bundle, role: str) -> set[int]:
    return {row.data["label"] for row in data[role]}


def test_a_whole_class_leaves_the_test_set_and_the_notes_say_so(pictures: dict[str, Any]) -> None:
    data = load(use="labelled", of=pictures, classes=["dog"])
    assert {r: len(rows) for r, rows in data.roles.items()} == {
        "forget": 6, "retain": 12, "test": 6, "test_forget": 3, "test_retain": 6,
    }  # fmt: skip
    assert labels(data, "forget") == labels(data, "test_forget") == {1} and labels(data, "test") == {0, 2}
    assert len(data.notes) == 1 and "all of 'dog' is forgotten: its 3 test rows left `test`" in data.notes[0]
    assert load(use="labelled", of=pictures, classes=[1]).fingerprint() == data.fingerprint()
    assert set(data.alternatives) == {r.id for r in data["forget"]}
    assert all(a.data["label"] in (0, 2) for a in data.alternatives.values())


def test_a_part_of_a_class_leaves_the_test_set_whole(pictures: dict[str, Any]) -> None:
    data = load(use="labelled", of=pictures, classes=["dog"], share=0.5)
    assert len(data["forget"]) == 3 and len(data["test"]) == 9 and not data.notes
    assert labels(data, "test_forget") == {1} and labels(data, "test_retain") == {0, 2}


def test_random_rows_depend_on_the_seed_and_valid_rows_are_never_trained_on(pictures: dict[str, Any]) -> None:
    data = load(use="labelled", of=pictures, by="random", share=5, valid=0.3)
    assert [len(data[r]) for r in ("forget", "retain", "valid", "test")] == [5, 9, 4, 9]
    assert len(data.together(["forget", "retain", "valid"])) == 18
    assert {r.id for r in load(1, use="labelled", of=pictures, by="random", share=5)["forget"]} != {
        r.id for r in data["forget"]
    }
    assert len(load(use="labelled", of=pictures, by="random")["forget"]) == 2


def test_a_group_goes_and_its_superclass_stays(pictures: dict[str, Any]) -> None:
    upper = {"animal": ["cat", "dog"], "thing": ["ship"]}
    data = load(use="labelled", of=pictures, by="group", classes=["dog"], superclasses=upper)
    assert data.classes == ("animal", "thing") and labels(data, "forget") == {0} and labels(data, "retain") == {0, 1}
    assert {r.data["group"] for r in data["test_forget"]} == {"dog"} and len(data["test"]) == 9 and not data.notes
    for bad, said in (
        ({"superclasses": {"animal": ["cat", "dog"]}}, "'ship' is in none of them"),
        ({"superclasses": {**upper, "pet": ["dog"]}}, "'dog' is in another superclass"),
        ({"classes": ["dgo"]}, r"no group 'dgo' \(did you mean 'dog'"),
        ({"superclasses": {}}, "rows have no groups"),
    ):
        with pytest.raises(UserError, match=said):
            load(**{"use": "labelled", "of": pictures, "by": "group", "classes": ["dog"], "superclasses": upper, **bad})


def test_flagged_rows_become_the_forget_set_without_glue(tmp_path: Path, pictures: dict[str, Any]) -> None:
    (tmp_path / "flags.jsonl").write_text(
        "\n".join(map(json.dumps, [{"id": "train-0-00001"}, {"id": "train-1-00007", "flagged": False}, {"id": "17"}]))
    )
    (tmp_path / "flags.txt").write_text("train-0-00001\n\ntrain-2-00017\n")
    (tmp_path / "flags.csv").write_text("id,flagged,score\ntrain-0-00001,1,0.9\ntrain-0-00002,0,0.1\n17,True,0.8\n")
    wanted = {"train-0-00001", "train-2-00017"}
    for file in ("flags.jsonl", "flags.txt", "flags.csv"):
        found = load(use="labelled", of=pictures, by="ids", file=str(tmp_path / file))
        assert {r.id for r in found["forget"]} == wanted, file
    assert {r.id for r in load(use="labelled", of=pictures, by="ids", ids=sorted(wanted))["forget"]} == wanted
    with pytest.raises(UserError, match="no training row has the id 'train-0-99999'"):
        load(use="labelled", of=pictures, by="ids", ids=["train-0-99999"])
    with pytest.raises(UserError, match="give `ids`, or a `file`"):
        load(use="labelled", of=pictures, by="ids")
    (tmp_path / "bad.csv").write_text("name\nx\n")
    with pytest.raises(UserError, match="bad.csv:2: has no 'id'"):
        read_ids(tmp_path / "bad.csv")


def test_a_class_that_is_gone_by_ids_leaves_the_test_set_too(pictures: dict[str, Any]) -> None:
    data = load(use="labelled", of=pictures, by="ids", ids=[str(i) for i in range(6)])
    assert labels(data, "test") == {1, 2} and labels(data, "test_forget") == {0} and "all of 'cat'" in data.notes[0]


def test_copies_of_forgotten_rows_leave_the_retain_set(tmp_path: Path) -> None:
    images = np.zeros((6, 4, 4), np.uint8)
    images[2:] += np.arange(4, dtype=np.uint8)[:, None, None] + 1
    np.savez(
        tmp_path / "twins.npz", train_images=images, train_labels=np.array([0, 0, 0, 1, 1, 1]),
        test_images=images, test_labels=np.array([0, 0, 0, 1, 1, 1]),
    )  # fmt: skip
    data = load(use="labelled", of={"use": "npz", "file": str(tmp_path / "twins.npz")}, by="ids", ids=["0"])
    assert len(data["forget"]) == 1 and len(data["retain"]) == 4
    assert data.notes == ("1 row(s) with the content of a forgotten row are left out of the retain set",)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"classes": ["dgo"]}, r"no class 'dgo' \(did you mean 'dog'"),
        ({"classes": [7]}, "there is no class 7: the data has 3, 0 to 2"),
        ({}, "name what is to be forgotten"),
        ({"classes": ["cat", "dog", "ship"]}, "none is left to retain"),
        ({"by": "poisoned"}, "use: poison"),
        ({"by": "random", "share": 99}, "99 rows were to be forgotten, and 18 are there"),
        ({"by": "random", "share": 2.5}, "neither a share below 1 nor a whole number"),
    ],
)
def test_a_forget_set_that_cannot_be_is_refused(pictures: dict[str, Any], values: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        load(use="labelled", of=pictures, **values)


def test_a_limit_keeps_every_class_of_sorted_rows(pictures: dict[str, Any]) -> None:
    data = load(use="labelled", of=pictures, classes=["dog"], limit={"train": 9})
    assert len(data["forget"]) == 3 and len(data["retain"]) == 6 and len(data["test"]) == 6


def test_a_source_without_labels_is_refused() -> None:
    with pytest.raises(UserError, match="data has no role 'train'"):
        load(use="labelled", of={"use": "facts"}, classes=[0])


# ---------------------------------------------------------------------- backdoors


def test_poisoned_rows_can_be_forgotten_and_the_triggered_rows_come_along(pictures: dict[str, Any]) -> None:
    source = {
        "use": "poison",
        "of": pictures,
        "target": "cat",
        "rate": 4,
        "trigger": {"use": "badnets", "size": 2, "margin": 2},
    }
    data = load(use="labelled", of=source, by="poisoned")
    assert len(data["forget"]) == 4 and len(data["retain"]) == 14 and len(data["test"]) == 9 and len(data["triggered"]) == 6
    assert not any(r.data.get("poisoned") for r in data["retain"])
