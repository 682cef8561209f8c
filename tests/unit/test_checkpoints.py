"""Checkpoints: what comes back, and disks that do not take one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from amends.core.context import Memory
from amends.core.errors import UserError
from amends.core.rng import rng
from amends.core.spec import Weighted
from amends.engine import checkpoint
from amends.engine.fit import fit
from amends.engine.guards import UtilityBudget
from amends.engine.optim import SGD
from amends.terms.nll import NLL

KEEP = Weighted(term=NLL())


# ---------------------------------------------------------------------- checkpoints


def test_a_checkpoint_gives_back_what_it_was_given(tmp_path: Path) -> None:
    tensors = {
        "w|a": torch.randn(3, 4, generator=rng(0, "t")),
        "o|a|step": torch.tensor(7.0),
        "b": torch.tensor([1], dtype=torch.int64),
    }
    checkpoint.save(tmp_path / "deep" / "c.safetensors", tensors, step=3, memory=[{"start": 0.1}], stopped=None)
    loaded, state = checkpoint.load(tmp_path / "deep" / "c.safetensors")
    assert loaded.keys() == tensors.keys() and all(
        torch.equal(loaded[k], v) and loaded[k].dtype == v.dtype for k, v in tensors.items()
    )
    assert state == {"step": 3, "memory": [{"start": 0.1}], "stopped": None}
    assert [p.name for p in (tmp_path / "deep").iterdir()] == ["c.safetensors"]


def test_a_checkpoint_below_a_file_is_a_user_error(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file where the folder should be")
    with pytest.raises(UserError, match="could not be written .*; what was saved before is untouched"):
        checkpoint.save(tmp_path / "taken" / "c.safetensors", {"w": torch.ones(1)}, step=1)


def test_a_checkpoint_that_cannot_take_its_place_leaves_the_earlier_one(tmp_path: Path, classifier_world: Any) -> None:
    """The temporary file cannot be written: the run fails, what was saved before can be resumed from."""
    options = {"objective": [KEEP], "data": classifier_world.data, "optim": SGD(), "checkpoint_every": 2}
    fit(classifier_world.make(), steps=4, run=Memory(folder=tmp_path), **options)
    saved = (tmp_path / "checkpoint.safetensors").read_bytes()
    (tmp_path / "checkpoint.tmp").mkdir()
    with pytest.raises(UserError, match="checkpoint.safetensors: could not be written"):
        fit(classifier_world.make(), steps=8, run=Memory(folder=tmp_path), **options)
    assert (tmp_path / "checkpoint.safetensors").read_bytes() == saved
    (tmp_path / "checkpoint.tmp").rmdir()
    run = Memory(folder=tmp_path)
    assert fit(classifier_world.make(), steps=8, run=run, **options).steps == 8
    assert run.said[0] == "resumed at step 4"


def test_a_checkpoint_where_a_folder_stands_is_a_user_error(tmp_path: Path) -> None:
    (tmp_path / "c.safetensors").mkdir()
    with pytest.raises(UserError, match="could not be written"):
        checkpoint.save(tmp_path / "c.safetensors", {"w": torch.ones(1)}, step=1)
    assert [p.name for p in tmp_path.iterdir()] == ["c.safetensors"], "no temporary file is left behind"


def test_without_a_folder_nothing_is_written(classifier_world: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    guards = [UtilityBudget(every=1)]
    fit(
        classifier_world.make(),
        [KEEP],
        classifier_world.data,
        steps=3,
        optim=SGD(),
        guards=guards,
        checkpoint_every=1,
        run=Memory(),
    )
    assert list(tmp_path.iterdir()) == []
