"""Confidence, distance against time and measurements against sparsity: marks where the numbers are, and pages to look at."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import test_browser
from parsed_page import Page, read
from playwright.sync_api import Browser
from sample_classifier import priced, write_sparse
from sample_run import edit
from test_browser import LOW_CONTRAST, opened

from amends.report import confidence, drawn, price, words
from amends.report.build import build, context
from amends.report.leaderboard import Board
from amends.report.leaderboard_page import write
from amends.report.load import from_value, load
from amends.report.pareto import front
from amends.report.svg import log_axis
from amends.report.table import Table

browser = test_browser.browser


def attributes(picture: Any, tag: str, cls: str) -> list[dict[str, str | None]]:
    page = Page(str(picture))
    assert page.wrong == []
    return [a for a in page.all(tag) if cls in (a.get("class") or "").split()]


def at(mark: dict[str, str | None], *names: str) -> list[float]:
    return [float(mark[n] or 0) for n in names]


@pytest.fixture(scope="module")
def sparse(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_sparse(tmp_path_factory.mktemp("runs") / "sparse")


# ---------------------------------------------------------------------- confidence


def test_bins_by_hand_and_a_model_without_scores_is_read_from_its_reading(sparse: Path) -> None:
    run = load(sparse)
    found = confidence.confidences(run)
    assert set(found) == {"original", "retrain", "finetune"} and set(found["original"]) == {0, 1, 2}
    assert found["finetune"] == {0: pytest.approx([0.904837, 0.049787], abs=1e-6)}
    assert confidence.shares(found["retrain"][0]) == (0.5, 0.25, 0, 0.25, 0, 0, 0, 0, 0, 0)


def test_every_model_has_the_same_bins_and_the_retrained_ones_outline(sparse: Path) -> None:
    run = load(sparse)
    shown = {p.title: p.picture for p in confidence.histograms(run, Table(run))}
    assert list(shown) == ["original", "retrain", "finetune"]
    for name, picture in shown.items():
        bars = attributes(picture, "rect", "bar")
        assert len(bars) == 10 and len({b["width"] for b in bars}) == 1
        assert [b["x"] for b in bars] == [b["x"] for b in attributes(shown["original"], "rect", "bar")]
        assert len(attributes(picture, "polyline", "outline")) == (name != "retrain")
    high = [float(b["height"] or 0) for b in attributes(shown["original"], "rect", "bar")]
    assert high[9] == pytest.approx(114 * 0.75, abs=0.05) and high[2] == pytest.approx(114 / 12, abs=0.05)
    assert len(attributes(shown["original"], "line", "whisker")) == 3, "the fourth row is elsewhere in each seed"
    label = Page(str(shown["original"])).all("svg")[0]["aria-label"] or ""
    assert (
        "75\N{NO-BREAK SPACE}% from 0.9 to 1.0" in label and "retrained model: 50\N{NO-BREAK SPACE}% from 0.0 to 0.1" in label
    )


def test_text_models_get_no_histogram_and_a_broken_file_is_no_row(sparse: Path, tmp_path: Path) -> None:
    other = write_sparse(tmp_path / "run", seeds=(0,))
    (other / "scores" / "original-seed0" / "probability.forget.jsonl").write_text('{"id": "row-0", "sc')
    assert set(confidence.confidences(load(other))) == {"retrain", "finetune"}
    edit(other, "manifest.json", {"data": {"kind": "text"}})
    run = load(other)
    assert confidence.histograms(run, Table(run)) == []


# ---------------------------------------------------------------------- against sparsity


def test_each_group_is_a_line_over_the_sparsity_of_its_stages(sparse: Path) -> None:
    run = load(sparse)
    asr, ta = drawn.drawn(run, Table(run))
    assert [p.title for p in (asr, ta)] == ["triggered ASR against sparsity", "test TA against sparsity"]
    discs, squares = attributes(asr.picture, "circle", "point"), attributes(asr.picture, "rect", "point")
    assert len(discs) == len(squares) == 1 + 4, "one of each stands in the legend"
    assert len(attributes(asr.picture, "path", "point")) == 1 + 1, "a group of one stage is a mark"
    assert len(attributes(asr.picture, "polyline", "series")) == 3 + 2
    x = [at(m, "cx")[0] for m in discs[1:]]
    assert x == sorted(x) and (x[3] - x[2]) == pytest.approx((x[2] - x[0]), rel=0.01), "from 90 to 99 % as far as from 0 to 90"
    y = [at(m, "y")[0] for m in squares[1:]]
    assert y == sorted(y), "fine-tuned ASR falls, so marks go down the page"
    assert len(attributes(asr.picture, "line", "whisker")) >= 4 + 3
    said = Page(str(asr.picture)).texts
    assert {"before unlearning", "fine-tuned", "l1-sparse", "0\N{NO-BREAK SPACE}%", "99\N{NO-BREAK SPACE}%"} <= set(said)
    label = Page(str(asr.picture)).all("svg")[0]["aria-label"] or ""
    assert "fine-tuned: 0.90 [0.85, 0.95] at 0\N{NO-BREAK SPACE}%" in label and "l1-sparse: 0.20" in label


def test_what_has_no_number_or_no_sparsity_is_left_out(sparse: Path, tmp_path: Path) -> None:
    other = write_sparse(tmp_path / "run", seeds=(0,))
    manifest = json.loads((other / "manifest.json").read_text())
    for each in manifest["stages"]:
        if each["name"] != "finetune-90":
            each.pop("sparsity")
    (other / "manifest.json").write_text(json.dumps(manifest))
    run = load(other)
    asr, _ = drawn.drawn(run, Table(run))
    assert len(attributes(asr.picture, "polyline", "series")) == 1, "the legend's: one point makes no line"
    edit(other, "manifest.json", {"draw": [{"of": ["no_such"], "lines": {"a": ["finetune-90"]}}, "nonsense"]})
    assert drawn.drawn(load(other), Table(load(other))) == []


# ---------------------------------------------------------------------- distance against time


def test_less_is_better_in_both_and_equal_points_share_the_front() -> None:
    assert front([("quick", 1, 5), ("near", 5, 1), ("worse", 5, 5), ("same", 1, 5)]) == {"quick", "near", "same"}


def test_a_logarithmic_axis_gives_equal_factors_equal_lengths() -> None:
    along = log_axis([0.5, 200.0], 0, 100)
    assert along(10) - along(1) == pytest.approx(along(100) - along(10))
    assert along.ticks() == [1.0, 3.0, 10.0, 30.0, 100.0] or set(along.ticks()) <= {1, 2, 5, 10, 20, 50, 100, 200}
    one = log_axis([7.0], 0, 100)
    assert one.low < 7 < one.high and one(7.0) == pytest.approx(50) and one(-3.0) == 0 and len(one.ticks()) >= 2


def test_time_is_logarithmic_and_doing_nothing_is_a_line() -> None:
    table = Table(from_value(priced()))
    panel = price.price(table)
    assert panel is not None
    page = Page(str(panel.picture))
    marks = {m.partition(":")[0]: m for m in page.texts if ": " in m}
    assert {"finetune", "finetune-sparse", "scrub", "slow", "retrain"} <= set(marks) and "nothing" not in marks
    assert len(attributes(panel.picture, "path", "retrain")) == 1 and len(attributes(panel.picture, "line", "reference")) == 1
    assert "doing nothing" in page.texts
    discs, (square,) = attributes(panel.picture, "circle", "mark"), attributes(panel.picture, "rect", "mark")
    assert len(discs) == 3 and len(attributes(panel.picture, "line", "twin")) == 1
    assert price.on_front(table) == ["finetune", "finetune-sparse"]
    assert "On the front: finetune" in (page.all("svg")[0]["aria-label"] or "") and "doing nothing 0.50" in (
        page.all("svg")[0]["aria-label"] or ""
    )
    assert "A square is the same method on the sparse model" in panel.note
    link = attributes(panel.picture, "line", "twin")[0]
    assert float(link["x1"] or 0) == pytest.approx(at(square, "x")[0] + 4.5, abs=0.1)


def test_each_original_has_its_line_and_without_methods_there_is_no_figure() -> None:
    values = priced()
    values["stages"] += [{**s, "name": "original-sparse"} for s in values["stages"] if s["name"] == "original"]
    values["measurements"] += [
        {**m, "subject": "original-sparse", "value": 0.3} for m in values["measurements"] if m["subject"] == "original"
    ]
    table = Table(from_value(values))
    assert dict(price.idle(table)) == {"doing nothing to original": pytest.approx(0.5), "doing nothing to original-sparse": 0.3}
    panel = price.price(table)
    assert panel is not None and len(attributes(panel.picture, "line", "reference")) == 2
    assert price.price(Table(from_value(priced(without=("finetune", "finetune-sparse", "scrub", "slow"))))) is None


def test_attacks_are_named_in_words_where_results_hold_only_their_key() -> None:
    said = [
        "relearn",
        "relearn-real_authors-20-percent-shortest",
        "relearn-0_5-percent",
        "quantise-fp4-head",
        "relearn-shortest",
    ]
    assert [words.attack(a) for a in said] == [
        "relearning", "relearning on 20 % of the real authors rows, the shortest", "relearning on 0.5 % of the rows",
        "quantising to 4 bits (FP4), the output head too", "relearning, the shortest",
    ]  # fmt: skip


# ---------------------------------------------------------------------- pages


@pytest.fixture(scope="module")
def pages(sparse: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("pages")
    return {"run": build(sparse), "bench": write(Board(priced()), root / "bench.html")}


def test_the_pages_hold_the_figures(pages: dict[str, Path], sparse: Path) -> None:
    run, bench = read(pages["run"]), read(pages["bench"])
    assert run.wrong == bench.wrong == []
    heads = [said for _, said in run.headings]
    assert "Against sparsity" in heads and "Confidence on the forget rows" in heads
    assert "Distance to the retrained model against time" in [said for _, said in bench.headings]
    assert "finetune-sparse : disparity 0.10" in bench.text
    shown = context(load(sparse))
    assert len(shown["drawn"]) == 2 and len(shown["histograms"]) == 3 and shown["price"] is None


@pytest.mark.enable_socket
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", ["wide", "narrow"])
@pytest.mark.parametrize("name", ["run", "bench"])
def test_they_are_readable_in_both_schemes(
    browser: Browser, pages: dict[str, Path], tmp_path: Path, name: str, size: str, scheme: str
) -> None:
    page, said, asked = opened(browser, pages[name], size, scheme)
    assert said == [] and asked == [pages[name].as_uri()]
    page.evaluate("document.querySelectorAll('details').forEach((d) => { d.open = true; })")
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    assert page.evaluate(LOW_CONTRAST)["found"] == []
    paper = page.evaluate("getComputedStyle(document.querySelector('figure')).backgroundColor")
    ink = page.evaluate("[...document.querySelectorAll('svg .series, svg .outline')].map((e) => getComputedStyle(e).stroke)")
    assert paper not in ink and "none" not in ink, "every line has a colour of its own"
    shot = tmp_path / "page.png"
    page.screenshot(path=shot, full_page=True)
    assert shot.read_bytes().startswith(b"\x89PNG")
    page.context.close()
