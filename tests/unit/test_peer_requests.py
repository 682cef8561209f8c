"""`amends unlearn --method`: every preset becomes a recipe that builds, with and without rows to keep, and some that run."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from amends.core.errors import UserError
from amends.data.text import Text
from amends.runs.methods import find_method, packaged_methods
from amends.runs.recipe import build_recipe
from amends.runs.request import Request, describe

METHODS = sorted(packaged_methods())
PEERS = ("altpo", "ceu", "pdu", "rmu", "satimp", "task-vector", "undial", "wga")


@pytest.fixture
def request_for(tmp_path: Path) -> Callable[..., Request]:
    """A request about six rows to forget, with or without ten to keep."""

    def write(name: str, start: int, stop: int) -> Path:
        rows = [{"question": f"Where does person {i} live?", "answer": f"In town {i}."} for i in range(start, stop)]
        path = tmp_path / f"{name}.jsonl"
        path.write_text("\n".join(map(json.dumps, rows)))
        return path

    def make(method: str, retain: bool = True, **options: Any) -> Request:
        kept = write("retain", 6, 16) if retain else None
        return Request(model="some/model", forget=write("forget", 0, 6), retain=kept, method=method, **options)

    return make


def test_the_peers_are_there() -> None:
    assert set(PEERS) < set(METHODS) and len(METHODS) >= 16


@pytest.mark.parametrize("retain", [True, False])
@pytest.mark.parametrize("method", METHODS)
def test_every_method_becomes_a_recipe_that_fits_its_data(request_for: Any, method: str, retain: bool) -> None:
    request = request_for(method, retain)
    recipe = build_recipe(request.tree())
    stage = recipe.stages[-1]
    assert (stage.name, stage.start, stage.kind) == (method, "original", "unlearned")
    stage.maker.objective_on(recipe.data.load(0))
    assert isinstance(recipe.data, Text)
    assert f"{method}, " in describe(recipe) and f"learning rate {find_method(method).lr['full']:g}" in describe(recipe)


@pytest.mark.parametrize("method", PEERS)
def test_a_peer_with_an_adapter(request_for: Any, method: str) -> None:
    recipe = build_recipe(request_for(method, lora=4).tree())
    assert recipe.stages[-1].maker.lora.rank == 4
    assert "LoRA of rank 4" in describe(recipe)


def test_a_stage_without_an_adapter_says_so(request_for: Any) -> None:
    with pytest.raises(UserError, match="--lora: uld trains no adapter"):
        request_for("uld", lora=4).tree()


def test_a_preset_keeps_its_edits_its_augments_and_its_stage(request_for: Any) -> None:
    def stage(method: str, **options: Any) -> Any:
        return request_for(method, **options).tree()["stages"][method]

    assert stage("rmu")["edits"][0]["use"] == "only_blocks"
    assert stage("altpo")["augment"][0]["use"] == "written"
    assert stage("task-vector")["use"] == "task_vector" and "guards" not in stage("task-vector")
    assert stage("npo")["guards"] and "edits" not in stage("npo")


def test_without_rows_to_keep_a_model_is_held_to_its_own_answers(request_for: Any) -> None:
    """Cross-entropy on the library's own rows would teach their answers; what compares with the start model may stay."""

    def terms(method: str) -> list[Any]:
        return request_for(method, retain=False).tree()["stages"][method]["objective"]

    assert [t["use"] for t in terms("rmu")] == ["rmu", "embed_diff"]
    assert [t["use"] for t in terms("wga")] == ["wga", "kl"]
    assert [t["use"] for t in terms("ascent")] == ["ascent", "kl"]
    assert terms("pdu")[1]["term"] == {"use": "kl", "role": "retain"}
    assert terms("satimp")[1] == {"use": "kl", "role": "retain", "weight": 0.1}
