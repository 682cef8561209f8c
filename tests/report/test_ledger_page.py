"""A ledger's page and its rules: who came back, what was lost; well-formed, escaped, self-contained, on any screen."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import test_browser
from parsed_page import Page, read
from playwright.sync_api import Browser
from test_browser import LOW_CONTRAST, opened
from test_report import EVIL, check

from amends.core.errors import UserError
from amends.report.drift import BACK, load
from amends.report.ledger import build, context, triangle

Json = dict[str, Any]
browser = test_browser.browser
SECTIONS = ["drift", "kept", "requests", "limits", "records"]


def number(value: float, low: float | None = None, high: float | None = None) -> Json:
    """A measurement; its interval is 0.01 to either side by default."""
    return {"value": value, "low": value - 0.01 if low is None else low, "high": value + 0.01 if high is None else high, "n": 8}


def request(i: int, before: Json, after: Json, **changes: Any) -> Json:
    """One request of a book."""
    rows = {"file": "rows/x.jsonl", "content": f"{i:016x}", "count": 8, "given": "f.jsonl"}
    return {
        "id": f"r{i:03d}", "name": f"request {i}", "status": "done", "again": None,
        "start": "base" if i == 1 else f"r{i - 1:03d}",
        "began": "2026-11-22T10:00:00Z", "ended": "2026-11-22T11:00:00Z", "method": "npo", "settings": {}, "hold": i > 2,
        "rows": rows, "kept": {}, "overlaps": {"r001": 1} if i > 1 else {}, "weights": "89abcdef01234567", "steps": 12,
        "stopped": None, "seconds": 41.2, "before": before, "after": after, "recovered": [], **changes,
    }  # fmt: skip


def story(newest_of_first: Json | None = None) -> list[Json]:
    """Three requests: after the third, the first is at `newest_of_first`."""
    first, second = number(0.02), newest_of_first or number(0.025)
    return [
        request(1, {"probability.forget": number(0.9), "probability.neighbour": number(0.8)},
                {"probability.forget": first, "extraction_strength.forget": number(0.1),
                 "probability.neighbour": number(0.78)}),
        request(2, {"probability.forget": number(0.7)},
                {"probability.forget": number(0.03), "probability.forget_r001": number(0.03),
                 "probability.neighbour": number(0.75)}),
        request(3, {"probability.forget": number(0.6)},
                {"probability.forget": number(0.01), "probability.forget_r001": second, "probability.forget_r002": number(0.03),
                 "probability.neighbour": number(0.7)}),
    ]  # fmt: skip


def write_book(folder: Path, requests: list[Json], **changes: Any) -> Path:
    """A ledger's folder with a book and nothing else."""
    folder.mkdir(parents=True, exist_ok=True)
    base = {"name": "/models/tiny", "weights": "0123456789abcdef"}
    book = {
        "schema": 1,
        "created": "2026-11-22T09:00:00Z",
        "base": base,
        "kept": {},
        "requests": requests,
        "tests": [],
        **changes,
    }
    (folder / "ledger.json").write_text(json.dumps(book))
    return folder


def page_of(folder: Path) -> Page:
    return read(build(folder))


# ---------------------------------------------------------------------- rules


@pytest.mark.parametrize(
    ("newest", "state"),
    [
        (number(0.02), "forgotten"),
        (number(0.2, 0.029, 0.4), "forgotten"),  # within a hundredth of 0.02
        (number(0.2, 0.031, 0.4), "came back"),
        (number(0.001, 0.0, 0.002), "forgotten"),
        (number(0.9, 0.85, 0.95), "came back"),
    ],
)
def test_a_request_came_back_when_its_newest_interval_lies_above_its_own_number(
    tmp_path: Path, newest: Json, state: str
) -> None:
    assert BACK == 0.01
    drift = load(write_book(tmp_path, story(newest)))
    assert {i: s for i, (s, _) in drift.states().items()} == {"r001": state, "r002": "forgotten", "r003": "forgotten"}
    lead, more = drift.verdict()
    assert ("r001 came back" in lead) == (state == "came back")
    assert ("3 of 3 forgotten" in lead) == (state == "forgotten")
    assert any(s.startswith("r001 (request 1) came back: probability 0.02 after its own request") for s in more) == (
        state == "came back"
    )


@pytest.mark.parametrize(
    ("before", "after", "state"),
    [
        (number(0.9), number(0.05), "forgotten"),
        (number(0.9, 0.8, 1.0), number(0.75, 0.6, 0.85), "not forgotten"),
        (number(0.9), number(0.95), "not forgotten"),
        (number(0.08, 0.02, 0.2), number(0.05, 0.01, 0.1), "hardly known"),
        (number(0.08, 0.07, 0.09), number(0.01, 0.0, 0.02), "forgotten"),
    ],
)
def test_a_request_was_forgotten_when_its_interval_left_the_one_before(
    tmp_path: Path, before: Json, after: Json, state: str
) -> None:
    book = write_book(tmp_path, [request(1, {"probability.forget": before}, {"probability.forget": after})])
    drift = load(book)
    assert drift.states()["r001"][0] == state
    assert any("was not forgotten" in s for s in drift.verdict()[1]) == (state == "not forgotten")
    assert f"{state}" in page_of(book).text


def test_extraction_strength_alone_can_bring_a_request_back(tmp_path: Path) -> None:
    requests = story()
    requests[2]["after"]["extraction_strength.forget_r001"] = number(0.5, 0.3, 0.7)
    drift = load(write_book(tmp_path, requests))
    assert drift.states()["r001"] == ("came back", ["extraction_strength"])
    assert any("came back: extraction strength 0.10 after its own request" in s for s in drift.verdict()[1])


def test_the_last_test_of_the_newest_model_counts_and_that_of_another_does_not(tmp_path: Path) -> None:
    test = {"model": "r003", "ended": "2026-11-23T10:00:00Z", "run": "tests/x", "recovered": [],
            "measured": {"probability.forget_r002": number(0.4, 0.3, 0.5)}}  # fmt: skip
    drift = load(write_book(tmp_path / "a", story(), tests=[test]))
    assert drift.columns[-1] == "test" and drift.states()["r002"][0] == "came back"
    drift = load(write_book(tmp_path / "b", story(), tests=[{**test, "model": "r002"}]))
    assert drift.columns == ("base", "r001", "r002", "r003") and drift.states()["r002"][0] == "forgotten"


def test_the_triangle_starts_with_the_model_before_each_request(tmp_path: Path) -> None:
    lines = load(write_book(tmp_path, story())).lines("probability")
    shown = [[None if c is None else c.value for c in line.cells] for line in lines]
    assert shown == [[0.9, 0.02, 0.03, 0.025], [None, 0.7, 0.03, 0.03], [None, None, 0.6, 0.01]]
    assert [line.own for line in lines] == [1, 2, 3]


def test_a_request_made_again_goes_on_in_its_own_line(tmp_path: Path) -> None:
    requests = story(number(0.5))
    names = ("forget", "forget_r001", "forget_r002", "forget_r003")
    after = {f"probability.{name}": number(0.01) for name in names}
    requests.append(request(4, {"probability.forget": number(0.5)}, after, again="r001"))
    drift = load(write_book(tmp_path, requests))
    assert [line.label for line in drift.lines("probability")] == ["r001", "r002", "r003"]
    assert drift.states()["r001"][0] == "forgotten"
    assert "the rows of r001 once more" in page_of(tmp_path).text


def test_what_must_survive_is_in_the_verdict_when_it_did_not(tmp_path: Path) -> None:
    drift = load(write_book(tmp_path, story()))
    (kept,) = drift.kept()
    assert [c and c.value for c in kept.cells] == [0.8, 0.78, 0.75, 0.7] and not kept.lost
    assert "lost what must survive" not in drift.verdict()[0]
    requests = story()
    requests[2]["after"]["probability.neighbour"] = number(0.2)
    lead, more = load(write_book(tmp_path, requests)).verdict()
    assert lead.endswith("But neighbour kept only 25\xa0% of its probability: the model has lost what must survive.")
    assert any(s.startswith("neighbour: probability 0.80 with the base, 0.20 [0.19, 0.21] now") for s in more)


def test_other_rows_to_keep_are_said_to_be_other_rows(tmp_path: Path) -> None:
    requests = story()
    for r, content in zip(requests, "aab", strict=True):
        r["kept"] = {"retain": {"content": content}}
    assert load(write_book(tmp_path, requests)).changed_rows() == [
        "From r003 on, other retain rows are measured: the step there is not drift alone."
    ]


# ---------------------------------------------------------------------- the page


def test_a_page_has_every_section_and_is_well_formed(tmp_path: Path) -> None:
    page = page_of(write_book(tmp_path, story(number(0.4, 0.3, 0.5))))
    check(page)
    assert [attrs["id"] for attrs in page.all("section")] == SECTIONS
    assert [a["href"] for a in page.all("a")][1:] == [f"#{i}" for i in SECTIONS]
    assert "came back" in page.text and "2 of 3 forgotten" in page.text
    assert "verdict trouble" in page.source
    labels = [a["aria-label"] or "" for a in page.all("svg") if a.get("role") == "img"]
    assert any(label.startswith("probability with the newest model: r001 0.40") for label in labels)


def test_a_ledger_without_requests_has_a_page(tmp_path: Path) -> None:
    page = page_of(write_book(tmp_path, []))
    check(page)
    assert "No request has been met yet." in page.text and "Nothing that must survive was measured." in page.text


def test_names_are_text_wherever_they_stand(tmp_path: Path) -> None:
    requests = story(number(0.4, 0.3, 0.5))
    for r, evil in zip(requests, EVIL, strict=True):
        r |= {"name": evil, "stopped": evil, "method": evil}
    test = {"model": "r003", "ended": "x", "run": EVIL[0], "measured": {},
            "recovered": [{"attack": EVIL[1], "metric": EVIL[2], "value": 0.5, "low": 0.1, "high": 0.9}]}  # fmt: skip
    page = page_of(write_book(tmp_path, requests, base={"name": EVIL[0], "weights": EVIL[1]}, tests=[test]))
    assert page.wrong == [] and not page.all("img")
    assert len(page.scripts) == 1 and "alert" not in page.scripts[0]
    for evil in EVIL:
        assert evil in page.text
        assert evil not in page.source


def test_odd_books_are_tolerated(tmp_path: Path) -> None:
    requests = story()
    for key in ("rows", "kept", "overlaps", "before", "recovered", "steps", "ended", "name"):
        requests[1][key] = None
    requests[0]["after"] = {"probability.forget": {"value": None}, "probability.neighbour": 3}
    check(page_of(write_book(tmp_path, requests, tests=None, kept=None)))
    for text in ("", "{", "[]", "3"):
        (tmp_path / "ledger.json").write_text(text)
        with pytest.raises(UserError, match="not a ledger's"):
            build(tmp_path)


def test_the_area_of_a_dot_is_its_number(tmp_path: Path) -> None:
    lines = load(write_book(tmp_path, story())).lines("probability")
    source = f"<html lang='en'>{triangle(lines, ('base', 'r001', 'r002', 'r003'), 'probability')}</html>"
    circles = Page(source).all("circle")
    assert [c["class"] for c in circles].count("mark original") == 3 and len(circles) == 9
    radius = {c["class"]: float(c["r"] or 0) for c in circles[:2]}
    assert radius["mark original"] ** 2 / radius["mark method"] ** 2 == pytest.approx(0.9 / 0.02, rel=0.05)


def test_many_requests_still_fit(tmp_path: Path) -> None:
    roles = [f"probability.forget_r{i:03d}" for i in range(1, 31)]
    requests = [
        request(
            i,
            {"probability.forget": number(0.9)},
            {"probability.forget": number(0.1), **{r: number(0.1) for r in roles[: i - 1]}},
        )
        for i in range(1, 31)
    ]
    folder = write_book(tmp_path, requests)
    check(page_of(folder))
    assert len(context(load(folder))["triangles"][0][1]) == 30
    text = load(folder).as_text()
    assert "30 requests; 30 of 30 forgotten" in text


# ---------------------------------------------------------------------- in a browser


@pytest.mark.enable_socket
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", ["wide", "narrow"])
@pytest.mark.parametrize("requests", [0, 3, 30])
def test_it_fits_the_screen_and_asks_for_nothing(
    browser: Browser,
    tmp_path: Path,
    size: str,
    scheme: str,
    requests: int,
) -> None:
    name = "a request with a very long name that says who asks and why, " * 3
    many = [
        request(i, {"probability.forget": number(0.9)}, {"probability.forget": number(0.1)}, name=name) for i in range(1, 31)
    ]
    book = {0: [], 3: story(number(0.4, 0.3, 0.5)), 30: many}[requests]
    path = build(write_book(tmp_path, book))
    page, said, asked = opened(browser, path, size, scheme)
    assert said == [] and asked == [path.as_uri()]
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    contrast = page.evaluate(LOW_CONTRAST)
    assert contrast["seen"] > 15 and contrast["found"] == []
    shot = tmp_path / "page.png"
    page.screenshot(path=shot, full_page=True)
    assert shot.read_bytes().startswith(b"\x89PNG")
    page.context.close()
