"""The figures: positions follow the numbers, labels stay apart, names are escaped, every picture has a name."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from parsed_page import Page
from sample_run import lines, put, write_run

from amends.report import figures, panels
from amends.report.load import load
from amends.report.svg import axis, place
from amends.report.table import Cell, Table


def cell(value: float, half: float = 0.05) -> Cell:
    return Cell(value, value - half, value + half, 10, {0: value})


def attributes(picture: str, tag: str, cls: str) -> list[dict[str, str | None]]:
    page = Page(picture)
    assert page.wrong == []
    return [a for a in page.all(tag) if cls in (a.get("class") or "")]


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=6))
def test_an_axis_holds_its_values_in_order_and_has_ticks_inside(values: list[float]) -> None:
    along = axis(values, 100, 300)
    assert along.low <= min(values) and along.high >= max(values)
    placed = [along(v) for v in sorted(values)]
    assert placed == sorted(placed) and 100 <= placed[0] <= placed[-1] <= 300
    ticks = along.ticks()
    assert 2 <= len(ticks) <= 13 and all(along.low - 1e-6 <= t <= along.high + 1e-6 for t in ticks)


def test_shares_are_drawn_from_nought_to_one() -> None:
    along = axis([0.3, 0.4], 0, 100, unit_range=True)
    assert (along.low, along.high, along(0.25)) == (0.0, 1.0, 25.0)


def test_a_forest_puts_larger_values_further_right() -> None:
    entries = [("original", "original", cell(0.8)), ("a", "unlearned", cell(0.1)), ("b", "unlearned", cell(0.4))]
    marks = attributes(figures.forest(entries, "forget probability"), "circle", "mark")
    x = [float(m["cx"] or 0) for m in marks]
    assert x[1] < x[2] < x[0]
    whiskers = attributes(figures.forest(entries, "p"), "line", "whisker")
    assert len(whiskers) == 9, "a line and two ends for each of three intervals"


def test_a_scatter_has_a_mark_a_label_and_two_whiskers_a_subject() -> None:
    points = [
        (n, k, cell(v), cell(1 - v))
        for n, k, v in (("original", "original", 0.8), ("retrain", "retrain", 0.1), ("npo", "x", 0.12))
    ]
    picture = figures.scatter(points, "forget", "keep")
    assert len(attributes(picture, "circle", "mark")) == 2 and len(attributes(picture, "path", "retrain")) == 1
    assert len(attributes(picture, "line", "whisker")) == 3 * 6
    assert {"original", "retrain", "npo"} <= set(Page(picture).texts)


@given(st.lists(st.tuples(st.floats(60, 360), st.floats(20, 250)), min_size=1, max_size=3))
def test_labels_of_a_few_points_never_cover_each_other(points: Sequence[tuple[float, float]]) -> None:
    labels = place(points, ["npo"] * len(points), (48, 14, 368, 268))
    spots = [tuple(map(float, re.search(r'x="([\d.]+)" y="([\d.]+)"', label).groups())) for label in labels]  # type: ignore[union-attr]
    apart = [abs(a[0] - b[0]) >= 20 or abs(a[1] - b[1]) >= 12.9 for i, a in enumerate(spots) for b in spots[:i]]
    assert all(apart)


def test_a_bar_grows_with_its_share_and_the_control_is_outlined() -> None:
    picture = figures.bars(
        [("retrain (control)", "retrain", cell(0.1)), ("npo", "x", cell(0.6)), ("b", "x", cell(-0.2))], "back"
    )
    bars = attributes(picture, "rect", "bar")
    wide = [float(b["width"] or 0) for b in bars]
    assert wide[1] == pytest.approx(6 * wide[0], rel=0.01) and bars[0]["class"] == "bar control"
    assert float(bars[2]["x"] or 0) < float(bars[1]["x"] or 0), "a negative share lies left of nought"


def test_long_curves_are_thinned_and_keep_their_end() -> None:
    points = [(float(i), float(i * i)) for i in range(5000)]
    kept = figures.thinned(points)
    assert len(kept) <= 241 and kept[0] == points[0] and kept[-1] == points[-1]


@pytest.mark.parametrize("points", [[(1.0, 2.0)], [(1.0, 2.0), (2.0, 2.0)], [(5.0, -1e9), (6.0, 1e9)]])
def test_a_curve_of_one_point_or_of_no_change_is_drawn(points: list[tuple[float, float]]) -> None:
    picture = figures.curve({0: points}, "loss")
    assert "nan" not in picture and len(attributes(picture, "polyline", "curve")) == 1


def test_a_resumed_run_draws_each_step_once_with_its_last_value(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    logged = [{"stage": "npo", "seed": 0, "step": s, "loss": v} for s, v in ((1, 9.0), (2, 5.0), (2, 4.0), (3, 3.0))]
    put(run / "metrics.jsonl", lines(logged))
    (stage,) = panels.training(load(run))
    assert "from 9.0 to 3.0" in stage.panels[0].picture.replace("9.00", "9.0").replace("3.00", "3.0")
    (drawn,) = attributes(stage.panels[0].picture, "polyline", "curve")
    assert len((drawn["points"] or "").split()) == 3


def test_each_stage_has_its_loss_and_terms_and_unlearning_comes_first(tmp_path: Path) -> None:
    stages = panels.training(load(write_run(tmp_path / "run", seeds=(0, 1))))
    assert [(s.stage, s.folded) for s in stages] == [("npo", False), ("ascent", False), ("original", True), ("retrain", True)]
    assert [p.title for p in stages[0].panels] == ["loss", "term 0: npo on forget", "term 1: nll on retain"]
    assert len(attributes(stages[0].panels[0].picture, "polyline", "curve")) == 2


def test_names_are_escaped_in_pictures() -> None:
    evil = '<script>alert(1)</script>"'
    one = [(evil, "x", cell(0.1))]
    scatter = figures.scatter([(evil, "x", cell(0.1), cell(0.2))], evil, evil)
    for picture in (scatter, figures.forest(one, evil), figures.bars(one, evil), figures.curve({0: [(1, 1)]}, evil)):
        page = Page(picture)
        assert page.wrong == [] and not page.all("script")


def test_every_headline_metric_has_its_panel(tmp_path: Path) -> None:
    table = Table(load(write_run(tmp_path / "run")))
    drawn = [p for _, group in panels.by_role(table) for p in group]
    assert len(drawn) == len(table.headline) == 7
    assert [role for role, _ in panels.by_role(table)] == ["forget", "whole model", "neighbour", "retain"]
