"""What a recipe may ask to be drawn, and how a mistake in it is said."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from amends.core import fingerprint
from amends.core.errors import UserError
from amends.report.load import from_value
from amends.report.stepped import stepped
from amends.runs.recipe import build_recipe


def tree(draw: Any) -> dict[str, Any]:
    """A recipe of two stages and one measurement."""
    train = {"use": "train", "on": ["retain"], "steps": 2}
    return {
        "name": "small", "data": {"use": "labelled", "of": {"use": "digits"}, "classes": [1]},
        "subject": {"use": "image_classifier", "width": 2}, "measure": [{"use": "ta"}],
        "stages": {"original": {**train, "on": ["forget", "retain"]}, "retrain": train}, "draw": draw,
    }  # fmt: skip


def test_a_drawing_is_kept_as_it_was_asked_for() -> None:
    (drawing,) = build_recipe(tree([{"of": ["ta.test"], "lines": {"both": ["original", "retrain"]}}])).draw
    said = fingerprint.plain(drawing)
    assert said["of"] == ["ta.test"] and said["lines"] == {"both": ["original", "retrain"]} and said["over"] == "sparsity"
    assert build_recipe({k: v for k, v in tree([]).items() if k != "draw"}).draw == ()


def test_what_stages_took_is_drawn_as_a_measurement_is_and_over_sparsity_only() -> None:
    (drawing,) = build_recipe(tree([{"of": ["seconds"], "lines": {"both": ["original", "retrain"]}}])).draw
    assert drawing.of == ("seconds",)
    with pytest.raises(UserError, match="draw.0.of.0: nothing measured is called 'seconds'"):
        build_recipe(tree([{"of": ["seconds"], "over": "size", "lines": {"one": ["original"]}}]))


@pytest.mark.parametrize(
    ("draw", "said"),
    [
        ({}, "draw: expected a list"),
        ([{"of": ["ta.tests"], "lines": {"a": ["original"]}}], r"draw.0.of.0: nothing measured is called 'ta.tests' \(did you"),
        ([{"of": ["ta.test"], "lines": {"a": ["orignal"]}}], r"draw.0.lines.a: no stage is called 'orignal' \(did you mean"),
        ([{"of": ["ta.test"], "lines": {"a": []}}], "draw.0.lines.a: give at least one stage"),
        ([{"of": [], "lines": {"a": ["original"]}}], "draw.0.of"),
        ([{"of": ["ta.test"], "lines": {}}], "draw.0.lines"),
        ([{"of": ["ta.test"], "lines": {str(i): ["original"] for i in range(6)}}], "draw.0.lines"),
        ([{"of": ["ta.test"], "lines": {"a": ["original"]}, "over": "time"}], "draw.0.over"),
        (
            [{"of": ["ta.test"], "lines": {"a": ["original", "retrain"]}, "over": "measurements"}],
            "over measurements a line",
        ),
        (
            [{"of": ["ta.test"], "lines": {"a": ["original"]}, "over": "stages", "ticks": ["1", "2"]}],
            r"2 .* for 1 place",
        ),
        ([{"of": ["ta.test"], "lines": {"a": ["original"]}, "ticks": ["1"]}], "draw.0.ticks: is for figures over stages or"),
        ([{"of": ["ta.test"], "lines": {"a": ["original"]}, "level": "ta.tst"}], r"draw.0.level: .* 'ta.tst' \(did you mean"),
        ([{"of": ["ta.test"], "line": {"a": ["original"]}}], r"draw.0.line: Drawing has no such key \(did you mean 'lines'"),
    ],
)
def test_a_mistake_names_its_place(draw: Any, said: str) -> None:
    with pytest.raises(UserError, match=said):
        build_recipe(tree(draw))


def test_what_a_stage_logged_is_drawn_over_its_steps_as_the_mean_over_seeds() -> None:
    draw = [{"of": ["upper", "never"], "over": "step", "lines": {"learned": ["one"], "absent": ["two"]}}]
    logged = [{"stage": f"one (seed {s})", "seed": s, "step": k, "upper": 1.0 + s - 0.5 * k} for s in (0, 1) for k in (1, 2)]
    run = replace(
        from_value({"name": "small", "draw": draw}), steps=(*logged, {"stage": "one", "seed": 0, "step": 3, "upper": 9.0})
    )
    (panel,) = stepped(run)
    assert "learned: 1.00 to 0.50 (0 to 1.00 by seed)" in str(panel.picture), "a step that one seed did not reach is left out"
    assert str(panel.picture).count("<polyline") == 2 and "absent" not in str(panel.picture)
    (drawing,) = build_recipe(tree([{"of": ["upper"], "over": "step", "lines": {"one": ["original"]}}])).draw
    assert drawing.over == "step"
