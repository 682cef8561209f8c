"""Figures over stages and over measurements: where points lie, what stands across, and what is said in words."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from parsed_page import Page
from test_classifier_figures import attributes

from amends.report.build import build
from amends.report.load import load
from amends.report.ordered import ordered
from amends.report.table import Table

TICKS = ["one", "two"]


def measured(subject: str, name: str, value: float, seed: int = 0) -> dict[str, Any]:
    more = {"attack": None, "low": value - 0.01, "high": value + 0.01, "n": 10, "better": "higher", "version": 1, "note": ""}
    return {"subject": subject, "seed": seed, "name": name, "value": value, **more}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Two lines of two stages, two seeds; a floor of .1 at every stage."""
    folder = tmp_path / "run"
    folder.mkdir()
    stages = [
        {"name": name, "seed": seed, "kind": "original", "use": "train", "seconds": 1.0, "steps": 1, "method": "train on a"}
        for seed in (0, 1)
        for name in ("first", "a-2", "b-2")
    ]
    values = {"first": (0.8, 0.4), "a-2": (0.5, 0.6), "b-2": (0.7, 0.5)}
    rows = [
        measured(stage, name, value + 0.02 * seed, seed)
        for seed in (0, 1)
        for stage, pair in values.items()
        for name, value in (("ratio.n20", pair[0]), ("ratio.n50", pair[1]), ("floor", 0.1))
    ]
    draw = [
        {"of": ["ratio.n20"], "lines": {"A": ["first", "a-2"], "B": ["first", "b-2"]}, "over": "stages", "ticks": TICKS},
        {
            "of": ["ratio.n20", "ratio.n50"], "lines": {"A": ["a-2"], "B": ["b-2"]}, "over": "measurements", "level": "floor",
            "title": "Both",
        },
        {"of": ["nothing"], "lines": {"A": ["a-2"]}, "over": "stages"},
        "nonsense",
    ]  # fmt: skip
    manifest = {"schema": 1, "name": "small", "status": "ok", "seeds": [0, 1], "stages": stages, "draw": draw, "data": {}}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    (folder / "results.json").write_text(json.dumps({"measurements": rows, "recovered": []}))
    return folder


def test_stages_lie_in_their_order_and_measurements_in_theirs(run: Path) -> None:
    over_stages, over_measurements = ordered(load(run), Table(load(run)))
    assert [over_stages.title, over_measurements.title] == ["n20 ratio", "Both: ratio"]
    assert over_stages.note == "higher is better"
    discs, squares = attributes(over_stages.picture, "circle", "point"), attributes(over_stages.picture, "rect", "point")
    assert len(discs) == len(squares) == 1 + 2, "one of each stands in the legend"
    (left, right) = (float(d["cx"] or 0) for d in discs[1:])
    assert left < right and float(squares[1]["x"] or 0) - left < 10, "the lines' first stage is the same place"
    y = [float(d["cy"] or 0) for d in discs[1:]]
    assert y[0] < y[1], "what falls goes down the page"
    said = Page(str(over_stages.picture)).all("svg")[0]["aria-label"] or ""
    assert "A: one 0.81 [" in said and "two 0.51 [" in said and "B: " in said
    assert {"one", "two"} <= set(Page(str(over_stages.picture)).texts)


def test_a_level_lies_across_and_is_said(run: Path) -> None:
    _, figure = ordered(load(run), Table(load(run)))
    (level,) = attributes(figure.picture, "line", "reference")
    assert level["y1"] == level["y2"] and float(level["y1"] or 0) > max(
        float(d["cy"] or 0) for d in attributes(figure.picture, "circle", "point")[1:]
    )
    page = Page(str(figure.picture))
    assert "floor: 0.11" in (page.all("svg")[0]["aria-label"] or "") and {"floor", "n20 ratio", "n50 ratio"} <= set(page.texts)


def test_the_page_has_them(run: Path) -> None:
    assert "Side by side" in build(run).read_text(encoding="utf-8")
