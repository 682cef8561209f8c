"""`compare` and the terminal summary: differences, overlaps, what differs in recipe and setting, widths, plain ASCII."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from parsed_page import read
from sample_run import RECIPE, edit, put, write_run

from amends.core.errors import UserError
from amends.report.compare import ABSENT, Comparison, Line, compare, write
from amends.report.text import summary


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    """Two runs: the second has another beta, one stage fewer, other data, another torch, and a better npo."""
    a = write_run(tmp_path / "a" / "1")
    b = write_run(tmp_path / "b" / "2", without=("ascent",))
    put(b / "recipe.yaml", RECIPE.replace("beta: 0.1", "beta: 0.05").replace("  - {use: nll, role: retain, weight: 1.0}\n", ""))
    edit(b, "manifest.json", {"versions": {"amends": "0.1.0", "torch": "2.10.0"}, "data": {"fingerprint": "other"}})
    found = json.loads((b / "results.json").read_text())["measurements"]
    for m in found:
        if (m["subject"], m["name"], m["attack"]) == ("npo", "utility", None):
            m |= {"value": 0.9, "low": 0.85, "high": 0.95}
    edit(b, "results.json", {"measurements": found})
    return a, b


def line(c: Comparison, metric: str, subject: str, attack: str | None = None) -> Line:
    return next(x for x in c.lines if (x.metric, x.subject, x.attack) == (metric, subject, attack))


def test_numbers_are_set_against_the_first_run(pair: tuple[Path, Path]) -> None:
    c = compare(pair)
    utility = line(c, "utility", "npo")
    assert utility.differences == (0.0, pytest.approx(0.24)) and utility.overlaps == (True, False)
    assert (utility.word(0), utility.word(1)) == ("", "better")
    same = line(c, "probability.forget", "npo")
    assert same.differences[1] == 0 and same.word(1) == "overlap"
    gone = line(c, "utility", "ascent")
    assert gone.cells[1] is None and gone.differences[1] is None and gone.word(1) == ""
    assert line(c, "recovered.probability.forget", "npo", "relearn").word(1) == "overlap"
    assert line(c, "seconds", "npo").differences[1] == 0


def test_the_direction_decides_what_is_better(pair: tuple[Path, Path]) -> None:
    a, b = pair
    assert line(compare([b, a]), "utility", "npo").word(1) == "worse"
    for better, word in (("lower", "worse"), ("closer", "apart")):
        for run in pair:
            found = json.loads((run / "results.json").read_text())["measurements"]
            edit(run, "results.json", {"measurements": [{**m, "better": better} for m in found]})
        assert line(compare(pair), "utility", "npo").word(1) == word


def test_differing_keys_are_found_by_dotted_path(pair: tuple[Path, Path]) -> None:
    c = compare(pair)
    recipe = {d.key: d.values for d in c.recipe}
    assert recipe["stages.npo.objective.0.beta"] == ("0.1", "0.05")
    assert recipe["stages.npo.objective.1.use"] == ("nll", ABSENT)
    assert set(recipe) == {"stages.npo.objective.0.beta", *(f"stages.npo.objective.1.{k}" for k in ("use", "role", "weight"))}
    setting = {d.key: d.values for d in c.setting}
    assert setting["data fingerprint"] == ("a1b2c3d4e5f60718", "other")
    assert setting["version of torch"] == ("2.9.0", "2.10.0") and setting["version of transformers"] == ("5.0.0", ABSENT)
    assert "version of amends" not in setting


def test_a_run_is_the_same_as_itself(pair: tuple[Path, Path]) -> None:
    c = compare([pair[0], pair[0]])
    assert c.recipe == () and c.setting == () and c.lines
    assert all(x.differences == (0.0, 0.0) for x in c.lines)
    assert "recipe: the same" in c.as_text() and "setting: the same" in c.as_text()


def test_three_runs_with_seeds_can_be_compared(pair: tuple[Path, Path], tmp_path: Path) -> None:
    c = compare([*pair, write_run(tmp_path / "c" / "3", seeds=(0, 1, 2))])
    assert [r.label for r in c.runs] == ["A", "B", "C"]
    third = line(c, "utility", "npo").cells[2]
    assert third is not None and third.seeds == 3
    assert {d.key: d.values for d in c.setting}["seeds"] == ("0", "0", "0, 1, 2")


def test_json_holds_everything(pair: tuple[Path, Path]) -> None:
    found = json.loads(json.dumps(compare(pair).as_dict(), allow_nan=False))
    assert [r["label"] for r in found["runs"]] == ["A", "B"]
    utility = next(x for x in found["lines"] if (x["metric"], x["subject"]) == ("utility", "npo"))
    assert utility["runs"][1] == {"value": 0.9, "low": 0.85, "high": 0.95, "n": 36, "by_seed": {"0": 0.9}}
    assert utility["intervals_overlap"] == [True, False]


def test_the_page_is_self_contained_and_escaped(pair: tuple[Path, Path], tmp_path: Path) -> None:
    edit(pair[0], "manifest.json", {"name": "<script>alert(1)</script>", "device": '"><img src=x onerror=alert(1)>'})
    put(pair[1] / "recipe.yaml", 'name: "</td><script>alert(2)</script>"\n')
    page = read(write(compare(pair), tmp_path / "compare.html"))
    assert page.wrong == [] and len(page.all("script")) == 1 and not page.all("img") and not page.all("link")
    assert "✓ better" in page.text and "alert(2)" in page.text and "onerror" in page.text
    assert not list(tmp_path.glob("*.tmp"))


def test_too_few_runs_or_none_are_the_users_mistake(pair: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="two"):
        compare(pair[:1])
    with pytest.raises(UserError, match="no such run folder"):
        compare([pair[0], tmp_path / "absent"])


def test_a_page_that_cannot_be_written_names_its_path(pair: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"absent/c\.html"):
        write(compare(pair), tmp_path / "absent" / "c.html")


@pytest.mark.parametrize("width", [60, 100, 200])
@pytest.mark.parametrize("without", [(), ("retrain", "attack"), ("results.json",), ("claims.json", "original")])
def test_the_summary_is_plain_and_fits_the_terminal(tmp_path: Path, width: int, without: tuple[str, ...]) -> None:
    said = summary(write_run(tmp_path / "run", without=without), width)
    said.encode("ascii")
    table = [x for x in said.splitlines() if "[0." in x]
    assert all(len(x) <= max(width, 28 + 22) for x in table), "one model is the least that a line can hold"


def test_the_summary_says_what_the_page_says(tmp_path: Path) -> None:
    said = summary(write_run(tmp_path / "run"), 200)
    assert "forget probability 0.81 -> 0.042" in said
    assert "0.042 [0.021, 0.063]" in said and "62 % [56, 68]" in said and "3.1 GB" in said
    assert said.index("missed      npo.recovered   0.62  needed <= 0.3") < said.index("met         npo.utility")
    assert summary(write_run(tmp_path / "failed", status="failed", error="out of memory")).startswith(
        "The run failed: out of memory"
    )
