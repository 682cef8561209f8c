"""The panel of an audit: its numbers over seeds, its pictures, and what becomes of a file that is not what it should be."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from parsed_page import read

from amends.core.types import Picture, Scores
from amends.report.audits import audit, picture
from amends.report.build import build
from amends.report.load import load
from amends.runs.audits import keep_pictures
from amends.runs.thumbnails import thumbnail

EVIL = '"><img src=x onerror=alert(1)></svg>'


def write(folder: Path, **changes: Any) -> Path:
    """A run that audited ten rows on two seeds."""
    (folder / "audits" / "spc").mkdir(parents=True)
    line = {"auditor": "spc", "decides": True, "model": "original", "rows": 10, "flagged": 3, "bad": 2, "note": EVIL,
            "classes": [{"class": EVIL, "rows": 10, "flagged": 3, "bad": 2}], **changes}  # fmt: skip
    manifest = {"schema": 1, "name": "found", "status": "ok", "seeds": [0, 1], "audits": [line, {**line, "seed": 1}]}
    one = {"auditor": "spc", "name": "auroc", "low": 0.5, "high": 1.0, "n": 10, "better": "higher", "version": 1}
    flags = [{**one, "seed": 0, "value": 0.8}, {**one, "seed": 1, "value": 0.9}]
    evil = {"id": EVIL, "score": 0.9, "label": EVIL, "flagged": True, "bad": True, "picture": ["ff0000ff0000", "0000ff00ff00"]}
    shown = [evil, {"id": "b", "score": 0.8, "label": "1", "flagged": False, "bad": None, "picture": ["red"]}]
    own = {"name": EVIL, "caption": EVIL, "picture": ["ff0000"]}
    files = {"audits/spc/shown": shown, "audits/spc/pictures": [own, {**own, "picture": [EVIL]}]}
    for name, value in {"manifest": manifest, "results": {"flags": flags}, "claims": [], **files}.items():
        (folder / f"{name}.json").write_text(json.dumps(value))
    return folder


def test_the_panel_shows_means_over_seeds_classes_and_suspects(tmp_path: Path) -> None:
    found = audit(load(write(tmp_path)))
    assert found is not None and found.known
    assert found.sentence.startswith(
        "spc looked at 10 rows, 2 of which are known to be bad, with the model original, and flagged 3 (first seed)."
    )
    (only,) = found.auditors
    assert only.decides and only.cells[0] is not None and only.cells[0].value == pytest.approx(0.85)
    assert only.cells[0].high == 1.0 and only.cells[1:] == (None, None, None, None)
    assert [(p.auditor, p.caption) for p in found.pictures] == [("spc", EVIL)]
    assert [(s.flagged, s.bad, s.picture is None) for s in found.suspects] == [(True, True, False), (False, None, True)]


def test_nothing_in_a_runs_files_gets_into_the_page_as_markup(tmp_path: Path) -> None:
    page = read(build(write(tmp_path)))
    assert page.wrong == [] and not page.all("img")
    assert any(h.get("href") == "#audit" for h in page.all("a"))


def test_a_run_without_an_audit_has_no_panel(tmp_path: Path) -> None:
    write(tmp_path)
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    (tmp_path / "manifest.json").write_text(json.dumps({**manifest, "audits": []}))
    assert audit(load(tmp_path)) is None
    assert 'id="audit"' not in build(tmp_path).read_text(encoding="utf-8")


def test_a_name_that_leads_elsewhere_is_not_followed(tmp_path: Path) -> None:
    found = load(write(tmp_path, auditor="../audits/spc"))
    assert found.suspects == () and found.pictures == ()


def test_pictures_are_squares_of_colour_or_nothing() -> None:
    assert str(picture(["ff0000ff00000000ff"], "row a")).count("<rect") == 2
    assert [picture(bad, "x") for bad in (None, [], ["ff"], ["zzzzzz"], [1], ['"><a>'])] == [None] * 6


def test_an_auditors_pictures_are_kept_in_full_and_small(tmp_path: Path) -> None:
    mask = np.linspace(0, 1, 40 * 40, dtype=np.float32).reshape(40, 40)
    faint = Picture(np.array([[0.0, 0.1, 0.2]]), "faint")
    keep_pictures(Scores({}, frozenset(), "", {"mask": Picture(mask, "a caption"), "faint": faint}), tmp_path)
    assert np.array_equal(np.load(tmp_path / "mask.npy"), mask)
    small, other = json.loads((tmp_path / "pictures.json").read_text())
    assert (small["name"], small["caption"], len(small["picture"])) == ("mask", "a caption", 32)
    assert str(picture(small["picture"], "x")).startswith("<svg") and other["picture"] == ["000000808080ffffff"]
    keep_pictures(Scores({}, frozenset(), "", {"black": Picture(np.zeros((2, 2)), "")}), tmp_path)
    assert json.loads((tmp_path / "pictures.json").read_text())[0]["picture"] == ["000000000000"] * 2
    keep_pictures(Scores({}, frozenset()), tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_thumbnails_average_blocks_and_keep_colour() -> None:
    assert thumbnail(np.array([[[0, 255]]], dtype=np.uint8)) == ["000000ffffff"]
    assert thumbnail(np.stack([np.ones((1, 1)), np.zeros((1, 1)), np.full((1, 1), 0.5)]).astype(np.float32)) == ["ff0080"]
    assert len(thumbnail(np.zeros((1, 40, 40)), 32)) == 32
    checked = np.indices((32, 32)).sum(0)[None] % 2 * 255
    assert thumbnail(checked.astype(np.uint8)) == ["808080" * 16] * 16
