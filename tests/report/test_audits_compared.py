"""Auditors of several runs in one table: means, spreads, runs that know of no bad row, and names from files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from parsed_page import read

from amends.report.compare import compare, write

EVIL = "<img src=x onerror=alert(1)>"


def run(folder: Path, profile: str | None, **values: dict[str, list[float]]) -> Path:
    """A run whose auditors have these numbers, one a seed."""
    folder.mkdir(parents=True)
    flags = [
        {"auditor": who, "name": what, "seed": seed, "value": value, "better": "higher", "n": 10, "version": 1}
        for who, numbers in values.items()
        for what, each in numbers.items()
        for seed, value in enumerate(each)
    ]
    manifest = {"schema": 1, "name": "planted", "profile": profile, "status": "ok", "seeds": [0, 1]}
    for name, value in {"manifest": manifest, "results": {"flags": flags}, "claims": []}.items():
        (folder / f"{name}.json").write_text(json.dumps(value))
    return folder


@pytest.fixture
def three(tmp_path: Path) -> list[Path]:
    """Two attacks and a clean control; one auditor looked at one of them only."""
    both = {"auroc": [0.8, 0.9], "auroc_within": [0.5, 0.6], "tpr": [0.5, 0.7], "fpr": [0.1, 0.1], "flagged": [0.2, 0.2]}
    return [
        run(tmp_path / "a", "badnets", spc=both, strip={**both, "auroc": [0.9, 1.0]}),
        run(tmp_path / "b", "blend", spc={**both, "auroc": [0.5, 0.5]}),
        run(tmp_path / "c", None, spc={"flagged": [0.3, 0.5]}, strip={"flagged": [0.0, 0.02]}),
    ]


def test_the_best_mean_comes_first_and_a_clean_run_does_not_count(three: list[Path]) -> None:
    found = compare(three).audits
    assert found is not None and found.runs == ("badnets", "blend", "planted")
    assert [line.auditor for line in found.lines] == ["strip", "spc"]
    strip, spc = found.lines
    assert spc.mean("auroc") == pytest.approx((0.85 + 0.5) / 2) and strip.mean("auroc") == pytest.approx(0.95)
    assert spc.words(0).startswith("0.85 \N{PLUS-MINUS SIGN} 0.071 / 0.55 / 0.60 / 0.10")
    assert spc.words(2) == "flags 0.40" and strip.words(1) == "\N{EN DASH}"


def test_terminal_and_json_say_the_same(three: list[Path]) -> None:
    compared = compare(three)
    text = compared.as_text()
    assert "AUROC / in class / TPR / FPR" in text and text.isascii()
    assert compared.as_dict()["audits"]["spc"]["runs"][1]["auroc"]["by_seed"] == {"0": 0.5, "1": 0.5}


def test_profiles_of_one_name_are_told_apart_and_names_are_escaped(tmp_path: Path) -> None:
    pair = [run(tmp_path / x, EVIL, **{EVIL: {"auroc": [0.5, 0.5]}}) for x in "ab"]
    compared = compare(pair)
    assert compared.audits is not None and compared.audits.runs == (f"{EVIL} A", f"{EVIL} B")
    page = read(write(compared, tmp_path / "page.html"))
    assert page.wrong == [] and not page.all("img")


def test_runs_without_auditors_have_no_such_table(tmp_path: Path) -> None:
    compared = compare([run(tmp_path / x, None) for x in "ab"])
    assert compared.audits is None and "audits" not in compared.as_dict()
