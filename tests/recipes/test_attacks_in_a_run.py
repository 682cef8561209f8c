"""Attacks inside a run: what is written of rows that the attacker was given, and of the others."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from amends.core.errors import UserError
from amends.runs.claims import Claim
from amends.runs.recipe import resolve
from amends.runs.run import execute

QUICK = [
    "stages.graddiff=", "stages.simnpo=", "stages.npo=", "stages.original.steps=40", "stages.original.on=[forget]",
    "stages.original.optim.lr=1e-2", "stages.ascent.steps=4", "stages.retrain.steps=4", "subject.width=16",
    "headline=[probability.forget]", "measure=[{use: probability, role: forget}]", "reading.show=[]",
    "attack=[{use: relearn, rows: 2, steps: 3}, {use: relearn, steps: 3}, {use: relearn, role: retain, steps: 3}, "
    "{use: prefix}]",
    "expect=[{that: ascent.recovered.relearn-2-shot.probability.forget.unseen, at_most: 9}]",
]  # fmt: skip


def scores(folder: Path, subject: str) -> dict[str, float]:
    """A measurement row by row."""
    lines = (folder / "scores" / f"{subject}-seed0" / "probability.forget.jsonl").read_text().splitlines()
    return {row["id"]: row["score"] for row in map(json.loads, lines)}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    """A run, done."""
    resolved = resolve("facts", "smoke", QUICK)
    return resolved.recipe, execute(resolved, tmp_path_factory.mktemp("runs") / "run")


def test_recovery_is_also_read_on_the_rows_the_attacker_was_not_given(run: tuple[Any, Path]) -> None:
    recipe, folder = run
    found = json.loads((folder / "results.json").read_text())["recovered"]
    entries = {(r["subject"], r["attack"], r["metric"]): r for r in found}
    plain, unseen = "probability.forget", "probability.forget.unseen"
    names = ["relearn-2-shot", "relearn", "relearn-retain", "prefix-sure"]
    assert set(entries) == {(s, a, plain) for s in ("retrain", "ascent") for a in names} | {
        (s, "relearn-2-shot", unseen) for s in ("retrain", "ascent")
    }
    assert {r["attack"]: r["label"] for r in found} == {a.name: a.label for a in recipe.attack}
    held = recipe.attack[0].held(recipe.data.load(0), 0)
    before, after, knew = (scores(folder, s) for s in ("ascent", "ascent.relearn-2-shot", "original"))
    rest = sorted(set(before) - held)
    entry = entries["ascent", "relearn-2-shot", unseen]
    assert entry["n"] == len(rest) == len(before) - 2
    lost = sum(knew[i] - before[i] for i in rest)
    assert entry["value"] == (
        pytest.approx(sum(after[i] - before[i] for i in rest) / lost) if lost / len(rest) > 0.02 else None
    )
    assert entries["ascent", "relearn-2-shot", plain]["n"] == len(before)
    claim = json.loads((folder / "claims.json").read_text())[0]
    assert claim["observed"] == entry["value"]


def test_a_claim_may_name_the_unseen_rows_of_what_came_back_and_of_nothing_else() -> None:
    names = (["npo"], ["utility"], ["relearn-4-shot"])
    Claim(that="npo.recovered.relearn-4-shot.utility.unseen", at_most=1).check("expect.0", *names)
    with pytest.raises(UserError, match=r"nothing measured is called 'utility\.unseen'"):
        Claim(that="npo.utility.unseen", at_most=1).check("expect.0", *names)
