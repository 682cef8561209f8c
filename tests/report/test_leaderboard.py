"""The leaderboard: the order and its rule, the front, gaps that are named, and a page that fits a phone and hides nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import test_browser
from parsed_page import read
from playwright.sync_api import Browser
from sample_bench import LEVELS, back, bench, rows
from test_browser import LOW_CONTRAST, opened

from amends.report import pareto
from amends.report.leaderboard import Board
from amends.report.leaderboard_page import compact, write
from amends.report.svg import place
from amends.report.table import Cell, t_interval

browser = test_browser.browser
EVIL = "<script>alert(1)</script>"
GONE = {"idk": {1: "UserError: the disk is full", 2: "it was not started"}, "ascent": dict.fromkeys((0, 1, 2), f"x {EVIL}")}


def board(**changes: Any) -> Board:
    """A board of the sample."""
    return Board(bench(**changes))


# ---------------------------------------------------------------------- the order


def test_those_that_keep_enough_come_first_by_what_is_gone() -> None:
    found = board().standings
    assert [s.name for s in found] == ["simnpo", "npo", "npo-kl", "graddiff", "idk", "ascent"]
    assert [s.place for s in found] == [1, 2, 3, 4, 5, 6]
    assert [s.able for s in found] == [True] * 5 + [False], "ascent keeps 0.05 of 0.71, and forgets more than nothing"
    assert found[0].kept == pytest.approx(0.63 / 0.71)


def test_the_rest_follows_by_the_share_it_keeps() -> None:
    found = board(rank={"forgetting": "forget_distance", "keeping": "utility", "at_least": 0.95}).standings
    assert [(s.name, s.able) for s in found] == [
        ("npo-kl", True), ("graddiff", True), ("npo", False), ("idk", False), ("simnpo", False), ("ascent", False),
    ]  # fmt: skip
    assert found[2].kept == pytest.approx(0.66 / 0.71)


def test_a_measurement_of_which_more_is_better_turns_the_order_round() -> None:
    values = bench()
    for row in values["measurements"]:
        if row["name"] == "forget_distance":
            row["better"] = "higher"
    assert [s.name for s in Board(values).standings][:5] == ["idk", "graddiff", "npo-kl", "npo", "simnpo"]


def test_the_front_is_what_no_other_method_beats_in_both() -> None:
    assert {s.name for s in board().standings if s.front} == {"simnpo", "npo", "npo-kl", "graddiff"}
    twins = {"a": (0.3, 0.6, 0.1), "b": (0.3, 0.6, 0.2), "c": (0.3, 0.5, 0.2)}
    assert {s.name for s in board(levels=twins).standings if s.front} == {"a", "b"}, "equal points do not beat each other"


def test_the_mean_its_interval_and_every_seed_are_kept() -> None:
    line = next(x for x in board().as_dict()["leaderboard"] if x["method"] == "npo")
    cell = line["metrics"]["forget_distance"]
    low, high = t_interval([0.30, 0.31, 0.32])
    assert cell["by_seed"] == pytest.approx({"0": 0.30, "1": 0.31, "2": 0.32})
    assert (cell["mean"], cell["low"], cell["high"]) == pytest.approx((0.31, low, high))
    assert high - 0.31 == pytest.approx(4.302653 * 0.01 / 3**0.5, rel=1e-5), "t(0.975, 2) s / sqrt(3)"
    assert line["cost"]["seconds"]["mean"] == 21.0
    assert line["cost"]["peak_bytes"]["mean"] == 9e8
    assert line["cost"]["steps"] == [150]
    assert line["worst_attack"]["recovered"]["mean"] == pytest.approx(0.42)
    assert line["worst_attack"]["control"]["mean"] == pytest.approx(0.1)


def test_the_worst_of_several_attacks_is_shown() -> None:
    values = bench()
    values["recovered"] += [{**back("npo", s, 0.8), "attack": "paraphrase"} for s in (0, 1, 2)]
    lines = {s.name: s.worst for s in Board(values).standings}
    assert lines["npo"].attack == "paraphrase" and lines["simnpo"].attack == "relearn"
    assert lines["npo"].recovered.value == pytest.approx(0.8)


def test_the_first_method_is_held_against_the_baseline_under_each_attack() -> None:
    (line,) = Board(bench()).robustness
    assert (
        line.startswith("Relearning brings back 0.36 ")
        and "of what simnpo forgot, less than of what graddiff forgot (0.71" in line
    )
    levels = {**LEVELS, "simnpo": (0.27, 0.63, 0.71), "graddiff": (0.44, 0.69, 0.71)}
    (line,) = Board(bench(levels)).robustness
    assert "no less than" in line and line.endswith("which these seeds cannot tell apart.")
    only = {name: level for name, level in LEVELS.items() if name != "graddiff"}
    assert Board(bench(only)).robustness == ()
    assert Board(bench({"graddiff": LEVELS["graddiff"]})).robustness == (), "it is the baseline itself"


def test_methods_that_cannot_be_told_apart_are_said_to_be() -> None:
    assert board().tied == ("npo",), "0.27 and 0.31 with half-widths of 0.025"
    assert "its interval overlaps with that of npo: the order among them is not settled" in board().verdict
    apart = board(levels={**LEVELS, "npo": (0.33, 0.66, 0.4)})
    assert apart.tied == () and "settled" not in apart.verdict


# ---------------------------------------------------------------------- what is missing


def test_a_missing_seed_and_a_missing_method_are_named() -> None:
    found = board(missing=GONE)
    last = found.standings[-1]
    assert (last.name, last.place, last.kept, last.front) == ("ascent", None, None, False)
    assert found.missing == [
        ("idk", "1", "UserError: the disk is full"), ("idk", "2", "it was not started"), ("ascent", "0, 1, 2", f"x {EVIL}"),
    ]  # fmt: skip
    lines = {x["method"]: x for x in found.as_dict()["leaderboard"]}
    assert lines["ascent"]["missing"] == [{"seeds": "0, 1, 2", "why": f"x {EVIL}"}]
    assert lines["ascent"]["metrics"]["utility"] is None
    assert lines["npo"]["missing"] == []
    assert "missing: idk, seed 1: UserError: the disk is full" in found.as_text()


def test_a_number_that_a_finished_seed_lacks_is_named() -> None:
    values = bench()
    for row in values["measurements"]:
        if (row["subject"], row["seed"], row["name"]) == ("npo", 1, "utility"):
            row["value"] = None
    found = Board(values)
    assert found.missing == [("npo", "1", "utility is not a number")]
    assert "npo, seed 1: utility is not a number" in found.as_text()


def test_a_method_that_only_holds_its_output_back_is_marked(tmp_path: Path) -> None:
    values = bench()
    for made in values["stages"]:
        if made["name"] == "npo":
            made["suppression"] = "An assistant is subtracted."
    found = Board(values)
    assert {x["method"]: x["suppression"] for x in found.as_dict()["leaderboard"]}["npo"] == "An assistant is subtracted."
    assert read(write(found, tmp_path / "page.html")).text.count("suppresses: its weights are unchanged") == 1


def test_a_bench_of_which_nothing_is_left_still_has_a_board(tmp_path: Path) -> None:
    found = board(levels={"npo": (0.3, 0.6, 0.4)}, missing={"npo": {0: "a", 1: "a", 2: "a"}})
    assert found.verdict == "No method left the two numbers that the order is by."
    page = read(write(found, tmp_path / "page.html"))
    assert page.wrong == [] and "npo has no numbers for seed 0, 1, 2: a" in page.text


def test_an_original_that_knows_nothing_gives_no_order() -> None:
    values = bench()
    for row in values["measurements"]:
        if (row["subject"], row["name"]) == ("original", "utility"):
            row["value"] = 0.0
    assert Board(values).verdict.startswith("The original's utility is 0 or was not measured")


# ---------------------------------------------------------------------- for machines and terminals


def test_the_json_is_json_and_makes_the_same_board_again() -> None:
    first = board(missing=GONE)
    text = json.dumps(first.as_dict(), allow_nan=False)
    again = Board(json.loads(text))
    assert again.as_dict() == json.loads(text)
    assert again.as_text() == first.as_text()


def test_the_terminal_gets_plain_text_with_the_rule_and_the_intervals() -> None:
    said = board(missing=GONE).as_text().replace(EVIL, "")
    said.encode("ascii")
    lines = said.splitlines()
    assert any(x.startswith("1*  simnpo") and "0.27 [0.25, 0.29]" in x and "36 % relearn" in x and "900 MB" in x for x in lines)
    assert any(x.startswith("-   ascent") for x in lines)
    plain = " ".join(said.split())
    assert "Methods that keep at least 80 % of the original's utility come first, by forget distance (lower is better)" in plain
    assert "a mean over 3 seeds with a 95 % t-interval over seeds (mean +- t(0.975, 2) s / sqrt 3)" in plain
    assert "One seed: each number has a 95 % interval over the rows" in " ".join(board(seeds=(0,)).as_text().split())


# ---------------------------------------------------------------------- the figure


def cell(value: float) -> Cell:
    """A number with an interval."""
    return Cell(value, value - 0.02, value + 0.02, 36, {0: value})


def test_the_front_is_drawn_as_steps_through_its_points() -> None:
    points = [
        pareto.Point("c", "unlearned", 3, True, cell(0.6), cell(0.8)),
        pareto.Point("a", "unlearned", 1, True, cell(0.2), cell(0.4)),
        pareto.Point("b", "unlearned", 2, False, cell(0.5), cell(0.3)),
        pareto.Point("original", "original", None, False, cell(0.9), cell(0.9)),
    ]
    drawn = str(pareto.plot(points, "gone", "kept", "lower"))
    line = drawn.partition('<polyline points="')[2].partition('"')[0]
    (x0, y0), (x1, y1), (x2, y2), *_ = [tuple(map(float, p.split(","))) for p in line.split()]
    assert x0 < x1 == x2 and y0 == y1 > y2, "right at the first point's height, then up to the second"
    assert drawn.count('class="mark behind"') == 1 and drawn.count('class="mark method"') == 2
    assert "On the front: c and a" in drawn or "On the front: a and c" in drawn
    assert "1 a" in drawn and "3 c" in drawn and ">original<" in drawn
    turned = str(pareto.plot(points, "gone", "kept", "higher"))
    first = turned.partition('<polyline points="')[2].split(",")[0]
    assert float(first) > x0, "where more is better the steps begin at the right"


def test_a_label_without_room_is_cut_to_its_number() -> None:
    spots = [(100.0, 100.0 + i % 2) for i in range(14)]
    labels = place(spots, [f"{i} a-long-name" for i in range(14)], (0, 0, 250, 200), (), [str(i) for i in range(14)])
    shown = [str(x).partition(">")[2].partition("<")[0] for x in labels]
    assert shown[0] == "0 a-long-name"
    assert any(x.isdecimal() for x in shown)
    assert [x.split()[0] for x in shown] == [str(i) for i in range(14)]


def test_a_stage_is_told_in_one_line() -> None:
    stage = {"use": "gradient", "from": "original", "steps": 3, "optim": {"use": "adamw", "lr": 1e-4},
             "objective": [{"use": "npo", "role": "forget", "beta": 0.1}, {"use": "nll", "weight": 5.0}]}  # fmt: skip
    assert compact(stage) == "gradient, steps 3, optim: adamw (lr 0.0001), objective: npo (role forget, beta 0.1) + 5 x nll"


# ---------------------------------------------------------------------- the page


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A board with gaps and long names, one with many methods, and one of a single seed."""
    root = tmp_path_factory.mktemp("boards")
    long = {"a-method-with-a-very-long-name-" * 3: (0.3, 0.6, 0.5), EVIL: (0.4, 0.65, 0.2)}
    many = {f"m{i}": (0.2 + 0.02 * i, 0.55 + 0.03 * (i % 5), 0.1 * (i % 7)) for i in range(24)}
    made = {
        "gaps": board(levels={**LEVELS, **long}, missing=GONE, title=f"{EVIL} at small scale"),
        "many": board(levels={**LEVELS, **many}), "one": board(seeds=(0,)),
    }  # fmt: skip
    return {name: write(each, root / f"{name}.html") for name, each in made.items()}


def test_the_page_says_everything_and_escapes_what_it_is_given(pages: dict[str, Path]) -> None:
    page = read(pages["gaps"])
    assert page.wrong == []
    assert len(page.all("script")) == 1 and "alert" not in page.scripts[0]
    assert not page.all("link") and not page.all("img")
    addresses = [str(v) for _, attrs in page.tags for name, v in attrs.items() if name in ("src", "href")]
    assert addresses and all(a.startswith("#") for a in addresses)
    assert EVIL in page.text, "as words"
    for said in (
        "simnpo comes first, forget distance 0.27 [0.25, 0.29]", "0.25 to 0.29", "on the Pareto front", "150 steps", "36 %",
        "idk has no numbers for seed 1: UserError: the disk is full", "ascent , seed 0, 1, 2:", "t-interval over seeds",
        "while up to 2 runs shared the machine", "amends bench tofu --methods all --seeds 3", "chosen for this bench",
        "gradient, epochs 30, objective: npo (beta 0.02)",
    ):  # fmt: skip
        assert said in page.text, said
    sections = [a["id"] for a in page.all("section")]
    assert sections == ["order", "front", "attacks", "missing", "settings", "rerun"]
    assert [a["href"] for a in page.all("a")] == ["#main", *(f"#{s}" for s in sections)]
    assert "Nothing: every method that was asked for left every number" in read(pages["many"]).text


@pytest.mark.enable_socket
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", ["wide", "narrow"])
@pytest.mark.parametrize("name", ["gaps", "many", "one"])
def test_it_fits_a_phone_and_a_desk_and_asks_for_nothing(
    browser: Browser, pages: dict[str, Path], tmp_path: Path, name: str, size: str, scheme: str
) -> None:
    page, said, asked = opened(browser, pages[name], size, scheme)
    assert said == [] and asked == [pages[name].as_uri()]
    for _ in range(2):
        assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
        page.evaluate("document.querySelectorAll('details').forEach((d) => { d.open = true; })")
    contrast = page.evaluate(LOW_CONTRAST)
    assert contrast["seen"] > 60 and contrast["found"] == []
    shot = tmp_path / "page.png"
    page.screenshot(path=shot, full_page=True)
    assert shot.read_bytes().startswith(b"\x89PNG")
    page.context.close()


def test_rows_of_the_sample_are_what_a_run_writes() -> None:
    assert {"subject", "seed", "attack", "name", "value", "low", "high", "n", "better"} <= set(rows("npo", 1, (0.3, 0.6))[0])
