"""report.html: one well-formed, self-contained page for every kind of run, in which nothing of a model's is live."""

from __future__ import annotations

import base64
import hashlib
import itertools
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from parsed_page import Page, read
from sample_run import answers, edit, lines, put, write_run

from amends.core.errors import UserError
from amends.report.build import build

EVIL = ("<script>alert(1)</script>", '"><img src=x onerror=alert(1)>', "'-->{{ 7*7 }}</style></title></svg>")
SECTIONS = ["scorecard", "claims", "methods", "figures", "attacks", "answers", "controls", "limits", "rerun"]
FILES = ["manifest.json", "results.json", "claims.json", "recipe.yaml", "metrics.jsonl", "samples/answers.jsonl", "log.txt"]
PARTS = ["original", "retrain", "ascent", "attack"]


def page_of(folder: Path) -> Page:
    return read(build(folder))


def check(page: Page) -> None:
    """What holds for every page."""
    assert page.wrong == []
    levels = [level for level, _ in page.headings]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(b - a <= 1 for a, b in itertools.pairwise(levels)), page.headings
    assert page.all("html")[0]["lang"] == "en"
    assert all(th.get("scope") in ("col", "row", "colgroup") for th in page.all("th"))
    figures = [a for a in page.all("svg") if a.get("aria-hidden") != "true"]
    assert all(a.get("role") == "img" and a.get("aria-label") for a in figures)
    for _, attrs in page.tags:
        assert not {"src", "srcset", "action", "data", "poster"} & attrs.keys()
        assert (attrs.get("href") or "#").startswith("#")
        assert not [name for name in attrs if name.startswith("on")]
    assert not page.all("link") and not page.all("img") and not page.all("iframe")
    assert not re.search(r"url\(|@import|https?:|src=", page.source)


@pytest.mark.parametrize("seeds", [(0,), (0, 1), (3, 5, 7)])
def test_a_whole_run_has_every_section_in_order(tmp_path: Path, seeds: tuple[int, ...]) -> None:
    page = page_of(write_run(tmp_path / "run", seeds=seeds))
    check(page)
    ids = [attrs["id"] for attrs in page.all("section")]
    assert ids == SECTIONS
    assert [a["href"] for a in page.all("a")][1:] == [f"#{i}" for i in SECTIONS]
    assert "npo: relearn" in page.text and "Does NPO forget six invented authors" in page.text
    assert f"{len(seeds)} ({', '.join(map(str, seeds))})" in page.text
    assert ("smallest … largest seed" in page.text) == (len(seeds) > 1)


@pytest.mark.parametrize(
    "absent", [*([f] for f in FILES), *([p] for p in PARTS), FILES[1:], [*FILES[2:], *PARTS], ["original", "npo", "ascent"]]
)
def test_whatever_is_missing_a_page_is_written(tmp_path: Path, absent: list[str]) -> None:
    page = page_of(write_run(tmp_path / "run", without=absent))
    check(page)
    assert [attrs["id"] for attrs in page.all("section")] == SECTIONS
    for name in set(absent) & set(FILES) - {"log.txt"}:
        assert f"{Path(name).name} is missing." in page.text


def test_unknown_keys_and_odd_values_are_tolerated(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    odd = {
        "tomorrow": {"a": 1},
        "git": None,
        "seconds": "long",
        "seeds": "all",
        "data": {"roles": {"forget": None}},
        "paper": 3,
    }
    edit(run, "manifest.json", odd)
    found = json.loads((run / "results.json").read_text())
    found["measurements"] += [
        {"subject": "npo", "seed": 0, "attack": None, "name": "probability.world", "value": None, "low": None, "high": None},
        {"subject": "npo", "seed": 0, "attack": None, "name": "kl.retain", "value": float("nan"), "n": 3},
        {"subject": "npo", "name": "plain", "value": 3, "surprise": []}, {"no": "subject"}, "not a row",
    ]  # fmt: skip
    put(run / "results.json", json.dumps(found))
    put(run / "claims.json", json.dumps([{"that": "npo.x", "verdict": "perhaps"}, 7]))
    put(run / "metrics.jsonl", lines([{"stage": "npo", "step": 1, "loss": None}, {"step": "two"}, {"loss": 1.0}]))
    page = page_of(run)
    check(page)
    assert "npo.x" in page.text


def test_nothing_that_a_model_or_a_recipe_says_is_live(tmp_path: Path) -> None:
    evil = " ".join(EVIL)
    run = write_run(
        tmp_path / "run", name=evil, title=evil, question=evil, profile=evil, status=evil, error=evil, device=evil,
        argv=["amends", evil],
        platform=evil, recipe_hash=evil, versions={evil: evil}, git={"sha": evil, "dirty": True}, started=evil,
        paper={"title": evil, "arxiv": evil, "where": evil}, data={"fingerprint": evil, "roles": {evil: 3}, "notes": [evil]},
        stages=[{"name": evil, "seed": 0, "kind": "unlearned", "method": evil, "stopped": evil, "weights": evil,
                 "suppression": evil, "from": evil}],
    )  # fmt: skip
    row = {
        "seed": 0,
        "attack": None,
        "name": f"probability.{evil}",
        "value": 0.5,
        "low": 0.4,
        "high": 0.6,
        "n": 3,
        "better": evil,
    }
    measured = [{**row, "subject": s, "unit": evil, "note": evil} for s in ("original", "retrain", evil)]
    measured += [
        {**m, "name": name, "better": b}
        for m in measured
        for name, b in (("probability.forget", "lower"), ("utility", "higher"))
    ]
    back = [{"subject": evil, "seed": 0, "attack": evil, "metric": evil, "value": 0.4, "low": 0.3, "high": 0.5}]
    put(run / "results.json", json.dumps({"measurements": measured, "recovered": [*back, {**back[0], "value": None}]}))
    claim = {
        "that": evil,
        "observed": 1.0,
        "needed": evil,
        "verdict": "missed",
        "because": f"control {evil}",
        "per_seed": [evil, 1.0],
    }
    put(run / "claims.json", json.dumps([claim, {**claim, "verdict": evil}]))
    said = [
        {"role": r, "id": evil, "question": evil, "expected": f"x {evil}", "answers": {evil: evil, "npo": evil}}
        for r in ("forget", evil)
    ]
    put(run / "samples/answers.jsonl", lines(said))
    put(
        run / "metrics.jsonl", lines([{"stage": evil, "seed": 0, "step": i, "loss": 1.0 / i, f"0.{evil}": 1.0} for i in (1, 2)])
    )
    put(run / "recipe.yaml", evil)
    page = read(build(run))
    assert page.wrong == []
    assert len(page.all("script")) == 1 and len(page.all("style")) == 1 and len(page.all("title")) >= 2
    assert not page.all("img") and not [n for _, attrs in page.tags for n in attrs if n.startswith("on")]
    assert "49" not in page.text.replace("0.49", "")
    assert page.text.count(EVIL[0]) > 20 and page.text.count(EVIL[1]) > 20, "escaped, not removed"


def test_only_this_pages_own_script_may_run(tmp_path: Path) -> None:
    page = page_of(write_run(tmp_path / "run"))
    digest = base64.b64encode(hashlib.sha256("".join(page.scripts).encode()).digest()).decode()
    policy = next(m["content"] for m in page.all("meta") if m.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None and f"script-src 'sha256-{digest}'" in policy and policy.startswith("default-src 'none'")


def test_missed_claims_come_first_with_word_and_symbol(tmp_path: Path) -> None:
    text = page_of(write_run(tmp_path / "run")).text
    order = [text.index(x) for x in ("✗ missed npo.recovered observed 0.62", "? not tested npo.quantised", "✓ met npo.utility")]
    assert order == sorted(order)
    assert "✗ 1 missed ? 1 not tested ✓ 2 met" in text
    assert "≥ 0.8 × original.utility = 0.57" in text


@pytest.mark.parametrize(
    ("status", "said"),
    [
        ("failed", "The run failed: the disk is full."),
        ("cancelled", "The run was cancelled"),
        ("running", "The run has not ended"),
    ],
)
def test_a_run_that_did_not_end_well_says_so_first(tmp_path: Path, status: str, said: str) -> None:
    run = write_run(
        tmp_path / "run", without=FILES[1:], status=status, error="the disk is full" if status == "failed" else None
    )
    text = page_of(run).text
    assert text.index(said) < text.index("Methods side by side")
    assert "No method left a number" in text


def test_a_torn_last_line_is_counted_not_fatal(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    put(run / "metrics.jsonl", (run / "metrics.jsonl").read_text() + '{"stage": "npo", "st')
    put(run / "claims.json", "[{")
    text = page_of(run).text
    assert "metrics.jsonl: 1 line(s) cannot be read" in text and "claims.json cannot be read (line 1" in text


def test_a_folder_that_is_no_run_is_the_users_mistake(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for folder in (tmp_path / "empty", tmp_path / "absent"):
        with pytest.raises(UserError, match=re.escape(str(folder))):
            build(folder)
    assert list((tmp_path / "empty").iterdir()) == []


def test_the_page_replaces_the_old_one_whole(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    first = build(run)
    before = first.read_bytes()
    assert build(run) == first == run / "report.html"
    assert first.read_bytes() == before, "the same folder gives the same page, byte for byte"
    assert not list(run.glob("*.tmp"))


def test_a_guard_that_stopped_a_stage_is_named(tmp_path: Path) -> None:
    assert "ascent was stopped by a guard: utility budget spent" in page_of(write_run(tmp_path / "run")).text


def test_long_groups_are_folded_and_cut_with_a_word(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    many = [{**row, "id": f"forget-{i}"} for i in range(100) for row in answers(["original", "npo"]) if row["role"] == "forget"]
    put(run / "samples/answers.jsonl", lines(many))
    text = page_of(run).text
    assert "(600 rows)" in text and "147 more" in text and "The first 150 of 600 rows" in text
    assert "original 600 of 600, npo 0 of 600" in text, "counted over all rows, not over those that are shown"


def test_reading_a_run_needs_no_torch(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", seeds=(0, 1))
    code = (
        "import sys, pathlib; from amends.report import build, compare, text; p = pathlib.Path(sys.argv[1]);"
        "build.build(p); text.summary(p); compare.compare([p, p]).as_text(); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code, str(run)], check=True, timeout=120)


def test_an_edited_manifest_shows(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    edit(run, "manifest.json", {"profile": "smoke"})
    text = page_of(run).text
    assert "profile smoke" in text and "The profile 'smoke' was run" in text


def test_requests_without_an_expected_answer_are_not_said_to_differ_from_one(tmp_path: Path) -> None:
    run = write_run(tmp_path)
    said = [
        {"role": "test", "id": "r1", "question": "A poem.", "expected": "", "answers": {"single": "A <b>", "decrim": "B"}},
        {"role": "test", "id": "r2", "question": "Write a list.", "expected": "", "answers": {"single": "A", "decrim": ""}},
    ]
    put(run / "samples/answers.jsonl", lines(said))
    section = build(run).read_text(encoding="utf-8").split('<section id="answers">')[1].split("</section>")[0]
    assert "A &lt;b&gt;" in section and "(nothing)" in section
    assert not [word for word in ("differs", "expected", "Telling", "before and after", "\N{WHITE CIRCLE}") if word in section]
