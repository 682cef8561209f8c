"""The page in a real browser: no sideways scrolling, nothing fetched, readable without scripts, in both colour schemes."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, sync_playwright
from sample_run import edit, put, write_run

from amends.report.build import build
from amends.report.compare import compare, write

pytestmark = pytest.mark.enable_socket

ARGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
        "--disable-component-update", "--disable-sync"]  # fmt: skip
SIZES = {"wide": (1280, 800), "narrow": (390, 844)}

LOW_CONTRAST = """() => {
  const rgba = (s) => { const v = s.match(/[\\d.]+/g).map(Number); return [v[0], v[1], v[2], v.length > 3 ? v[3] : 1]; };
  const linear = (v) => v / 255 <= 0.04045 ? v / 255 / 12.92 : ((v / 255 + 0.055) / 1.055) ** 2.4;
  const light = (c) => 0.2126 * linear(c[0]) + 0.7152 * linear(c[1]) + 0.0722 * linear(c[2]);
  const behind = (e) => {
    for (; e; e = e.parentElement) {
      const c = rgba(getComputedStyle(e).backgroundColor);
      if (c[3] > 0.99) return c;
    }
    return [255, 255, 255, 1];
  };
  const found = [], walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  let seen = 0;
  for (let n = walker.nextNode(); n; n = walker.nextNode()) {
    const e = n.parentElement;
    if (!n.data.trim() || ["SCRIPT", "STYLE", "title"].includes(e.tagName)) continue;
    const style = getComputedStyle(e), ink = rgba(e.closest("svg") ? style.fill : style.color), paper = behind(e);
    const [a, b] = [light(ink), light(paper)].sort((x, y) => y - x);
    seen += 1;
    if ((a + 0.05) / (b + 0.05) < 4.5) found.push(n.data.trim() + ": " + ((a + 0.05) / (b + 0.05)).toFixed(2));
  }
  return { seen, found };
}"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Chromium, which must be there: a report nobody has looked at is not tested."""
    found = next((p for name in ("chromium", "chromium-browser", "google-chrome") if (p := shutil.which(name))), None)
    if found is None:
        pytest.fail("no Chromium on this machine, so the report cannot be looked at: run `make browser`")
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=found, args=ARGS)
        yield running
        running.close()


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A whole run, one with seeds, one that failed early, and a comparison; names and notes are long on purpose."""
    root = tmp_path_factory.mktemp("runs")
    long = "a_method_with_a_very_long_name_" * 4
    whole, seeds = (
        write_run(root / "whole"),
        write_run(root / "seeds", seeds=(0, 1, 2), title=long, argv=["amends", "run", long * 3]),
    )
    put(whole / "stages" / "03-npo" / "mask.json", mask())
    manifest = json.loads((seeds / "manifest.json").read_text(encoding="utf-8"))
    edit(
        seeds,
        "manifest.json",
        {"stages": [{**s, "suppression": long} if s["kind"] == "unlearned" else s for s in manifest["stages"]]},
    )
    failed = write_run(root / "failed", without=("results.json", "claims.json", "metrics.jsonl"), status="failed", error=long)
    made = {folder.name: build(folder) for folder in (whole, seeds, failed)}
    return {**made, "compare": write(compare([whole, seeds]), root / "compare.html")}


def mask() -> str:
    """A mask over forty layers, every kind of matrix in each."""
    kinds = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj", "input_layernorm")
    rows = [
        {"name": f"model.layers.{i}.{kind}.weight", "size": 100, "kept": (7 * i + j) % 101, "live": 90, "live_frozen": 5}
        for i in range(40) for j, kind in enumerate(kinds)
    ]  # fmt: skip
    outside = [
        {"name": n, "size": 1000, "kept": 999, "live": 900, "live_frozen": 1}
        for n in ("model.embed_tokens.weight", "lm_head.weight", "x")
    ]
    return json.dumps({"schema": 1, "keep": 0.5, "rank": "global", "by": "wagle", "parameters": [*rows, *outside]})


def opened(browser: Browser, path: Path, size: str, scheme: str, scripts: bool = True) -> tuple[Page, list[str], list[str]]:
    """The page, what it complained about, what it asked for."""
    wide, high = SIZES[size]
    context = browser.new_context(viewport={"width": wide, "height": high}, color_scheme=scheme, java_script_enabled=scripts)  # type: ignore[arg-type]
    page = context.new_page()
    said: list[str] = []
    asked: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(path.as_uri())
    return page, said, asked


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", ["whole", "seeds", "failed", "compare"])
def test_it_fits_the_screen_and_asks_for_nothing(
    browser: Browser, pages: dict[str, Path], tmp_path: Path, name: str, size: str, scheme: str
) -> None:
    page, said, asked = opened(browser, pages[name], size, scheme)
    assert said == [] and asked == [pages[name].as_uri()]
    for _ in range(2):
        assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
        page.evaluate("document.querySelectorAll('details').forEach((d) => { d.open = true; })")
    contrast = page.evaluate(LOW_CONTRAST)
    assert contrast["seen"] > 30 and contrast["found"] == []
    shot = tmp_path / f"{name}-{size}-{scheme}.png"
    page.screenshot(path=shot, full_page=True)
    assert shot.read_bytes().startswith(b"\x89PNG")
    page.context.close()


def test_the_two_schemes_differ(browser: Browser, pages: dict[str, Path]) -> None:
    papers = []
    for scheme in ("light", "dark"):
        page, _, _ = opened(browser, pages["whole"], "wide", scheme)
        papers.append(page.evaluate("getComputedStyle(document.body).backgroundColor"))
        page.context.close()
    assert papers[0] != papers[1]


def test_a_summary_opens_what_it_folds(browser: Browser, pages: dict[str, Path]) -> None:
    page, _, _ = opened(browser, pages["whole"], "narrow", "light")
    recipe = page.locator("#rerun details")
    assert not recipe.locator("pre").is_visible()
    recipe.locator("summary").click()
    assert recipe.locator("pre").is_visible() and "use: npo" in recipe.locator("pre").inner_text()
    page.context.close()


def test_it_reads_without_scripts(browser: Browser, pages: dict[str, Path]) -> None:
    page, _, asked = opened(browser, pages["whole"], "wide", "light", scripts=False)
    assert asked == [pages["whole"].as_uri()]
    for section in ("scorecard", "claims", "methods", "figures", "attacks", "answers", "controls", "limits", "rerun"):
        assert page.locator(f"#{section} h2").is_visible()
    assert page.locator("#figures svg[role=img]").first.is_visible()
    assert page.locator("#find").count() == 0, "a box that could not filter is not shown"
    more = page.locator("#answers details").first
    more.locator("summary").click()
    assert more.locator("[data-row]").first.is_visible()
    page.context.close()


def test_the_filter_hides_rows_that_do_not_match(browser: Browser, pages: dict[str, Path]) -> None:
    page, said, _ = opened(browser, pages["whole"], "wide", "light")
    assert page.locator("[data-row]").count() == 12
    page.fill("#find", "LOCK keeper")
    assert page.locator("[data-row]:visible").count() == 2 and "2 of 12" in page.locator(".filter").inner_text()
    page.fill("#find", "")
    assert page.locator("[data-row][hidden]").count() == 0 and said == []
    page.context.close()


def test_keyboard_focus_is_visible_and_reaches_the_tables(browser: Browser, pages: dict[str, Path]) -> None:
    page, _, _ = opened(browser, pages["whole"], "narrow", "light")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the results"
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    assert page.locator("#methods .scroll").first.get_attribute("tabindex") == "0"
    page.context.close()


def test_the_scorecard_is_read_without_scrolling(browser: Browser, pages: dict[str, Path]) -> None:
    page, _, _ = opened(browser, pages["whole"], "wide", "light")
    box = page.locator("#scorecard table").bounding_box()
    assert box is not None and box["y"] > 0 and box["y"] + box["height"] <= SIZES["wide"][1]
    assert page.locator("#scorecard .weakest").count() == 2
    assert page.evaluate(
        "document.querySelector('#scorecard .scroll').scrollWidth <= document.querySelector('#scorecard .scroll').clientWidth"
    )
    page.context.close()


@pytest.mark.parametrize("name", ["whole", "seeds"])
def test_on_a_phone_the_scorecard_needs_no_sideways_scrolling(browser: Browser, pages: dict[str, Path], name: str) -> None:
    page, _, _ = opened(browser, pages[name], "narrow", "light")
    wide = page.evaluate(
        "[...document.querySelectorAll('#scorecard, #scorecard *')].map((e) => e.getBoundingClientRect().right)"
    )
    assert max(wide) <= SIZES["narrow"][0]
    named = page.evaluate("getComputedStyle(document.querySelector('#scorecard td'), '::before').content")
    assert named == '"original"', "each number has its model's name beside it"
    assert page.get_by_role("table").first.get_by_role("rowheader").count() == 4, "it is still a table to a screen reader"
    page.context.close()


def test_the_numbers_of_a_mask_are_large_enough_to_read(browser: Browser, pages: dict[str, Path]) -> None:
    for size in SIZES:
        page, _, _ = opened(browser, pages["whole"], size, "light")
        heights = page.evaluate("[...document.querySelectorAll('svg .tick.ink')].map((e) => e.getBoundingClientRect().height)")
        assert len(heights) == 20 * 8 + 3 and min(heights) >= 8.5
        page.context.close()


def test_it_prints_with_everything_open(browser: Browser, pages: dict[str, Path], tmp_path: Path) -> None:
    page, _, _ = opened(browser, pages["whole"], "wide", "dark")
    page.emulate_media(media="print")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert page.locator("#rerun details pre").bounding_box() is not None
    assert len(page.pdf(path=tmp_path / "report.pdf")) > 10_000
    page.context.close()
