"""Figures of a measurement's own scores, and the page of a run that forgets nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from amends.core.errors import UserError
from amends.report.build import build
from amends.report.load import load
from amends.report.scored import BINS, Spread, scored, shares
from amends.report.table import Table
from amends.report.verdict import verdict
from amends.runs.drawing import Drawing

DRAW = [
    {"of": ["update_energy.query", "update_energy.nowhere"], "over": "place", "lines": {"trained": ["original"]}, "title": "T"},
    {"of": ["neuron_norm.q50"], "over": "size", "lines": {"first": ["early"], "trained": ["original"]}, "title": ""},
]
CLAIMS = [{"that": "a.b", "verdict": "met", "observed": 1.0}, {"that": "c.d", "verdict": "missed", "observed": 0.0}]


def study(folder: Path, **roles: int) -> Path:
    """A run of two seeds with scores of two measurements."""
    stages = [{"name": n, "seed": s, "kind": "original"} for s in (0, 1) for n in ("original", "early")]
    manifest = {
        "schema": 1, "name": "study", "status": "ok", "seeds": [0, 1], "stages": stages, "draw": DRAW,
        "data": {"roles": roles, "kind": "labels"},
    }  # fmt: skip
    rows = [{"subject": s["name"], "seed": s["seed"], "attack": None, "name": "hinge.test", "value": 0.5} for s in stages]
    files: dict[str, Any] = {"manifest": manifest, "results": {"measurements": rows}, "claims": CLAIMS}
    for name, value in files.items():
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{name}.json").write_text(json.dumps(value))
    for stage in stages:
        where = folder / "scores" / f"{stage['name']}-seed{stage['seed']}"
        where.mkdir(parents=True)
        values = {"update_energy.query": [2.0, 1.0, 0.02 * (1 + stage["seed"])], "neuron_norm.q50": [0.0, 0.0, 1.0, 1.0]}
        for name, numbers in values.items():
            lines = [json.dumps({"id": str(i), "score": v}) for i, v in enumerate(numbers)]
            (where / f"{name}.jsonl").write_text("\n".join(lines))
    return folder


def test_scores_are_drawn_by_place_and_by_size(tmp_path: Path) -> None:
    place, size = scored(load(study(tmp_path / "run", train=4, test=4)))
    assert place.title == "T: query" and "mean of 2 seeds" in place.note and size.title == "neuron norm"
    assert "trained: 1.00, 0.50, 0.015" in str(place.picture), "over the largest, mean of the seeds"
    assert str(place.picture).count("whisker line-0") == 1, "only where seeds differ"
    assert "first: 50\N{NO-BREAK SPACE}% from 0 to" in str(size.picture) and str(size.picture).count("series line-1") == 2


def test_shares_count_every_score_once() -> None:
    row = shares(Spread("a", ((0.0, 0.5), (1.0,))), 0.0, 1.0)
    assert len(row) == BINS and sum(row) == pytest.approx(1.0)
    assert (row[0], row[BINS // 2], row[-1]) == (0.25, 0.25, 0.5)


def test_a_run_that_forgets_nothing_is_not_judged_by_forgetting(tmp_path: Path) -> None:
    run = load(study(tmp_path / "run", train=4, test=4))
    said = verdict(run, Table(run)).sentence
    assert said == "Nothing is forgotten here: this run studies how a model learns, and 1 of 2 claims hold; missed: c.d."
    page = build(run.folder).read_text(encoding="utf-8")
    assert "Spectra and sizes" in page and 'id="scorecard"' not in page and 'id="attacks"' not in page
    for word in ("retrained", "forget set", "erasure", "Membership", "before unlearning"):
        assert word not in page.split("<main", 1)[1].replace("closer to the retrained model is better", ""), word
    other = load(study(tmp_path / "other", forget=4, retain=4))
    assert other.forgets and 'id="scorecard"' in build(other.folder).read_text(encoding="utf-8")


def test_a_line_of_scores_is_one_stage() -> None:
    drawing = Drawing(of=("m",), lines={"both": ("a", "b")}, over="size")
    with pytest.raises(UserError, match=r"draw.0.lines.both: over size a line is one stage: name one"):
        drawing.check("draw.0", ["a", "b"], ["m"])
    Drawing(of=("m",), lines={"both": ("a", "b")}).check("draw.0", ["a", "b"], ["m"])
