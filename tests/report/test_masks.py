"""The picture of a weight mask: which weights were trained, by layer and kind, in numbers and in a sentence."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from parsed_page import Page, read
from sample_run import put, write_run

from amends.report.build import build
from amends.report.load import load
from amends.report.masks import MOST_ROWS, Weights, density, kind_of, layer_of, masks, picture, sentence
from amends.report.words import precise_share

EVIL = '"><img src=x onerror=alert(1)></svg>'


def row(name: str, size: int, kept: int, live: int = 0, frozen: int = 0) -> dict[str, Any]:
    """One parameter of a mask."""
    return {"name": name, "size": size, "kept": kept, "live": live, "live_frozen": frozen}


def table(parameters: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
    """A mask file, its totals added up from its parameters."""
    total = {k: sum(r[k] for r in parameters) for k in ("size", "kept", "live", "live_frozen")}
    return {"schema": 1, "keep": 0.95, "rank": "global", "by": "wagle", "total": total, "parameters": parameters, **more}


ROWS = [
    row("model.embed_tokens.weight", 1000, 200, 100, 0),
    row("model.layers.0.self_attn.q_proj.weight", 100, 50, 90, 45),
    row("model.layers.0.mlp.down_proj.weight", 100, 100, 100, 0),
    row("model.layers.1.self_attn.q_proj.weight", 100, 10, 90, 80),
    row("model.layers.1.input_layernorm.weight", 10, 10, 10, 0),
    row("model.layers.1.post_attention_layernorm.weight", 10, 0, 10, 10),
]
TEXT = "Trained: 28% of 1.3 k weights, chosen by wagle and ranked over the whole model. Frozen: 34% of the live weights"


def numbers(drawn: str) -> list[str]:
    """What stands in the cells of a picture, in order."""
    page = Page(drawn)
    assert page.wrong == []
    labels = [a for a in page.all("text") if "ink" in (a.get("class") or "")]
    assert len(labels) == len([a for a in page.all("rect") if a.get("class") == "heat"]), "a number in every cell"
    values = [t.split(">")[1].split("<")[0] for t in drawn.split("<text")[1:] if 'class="tick ink"' in t]
    assert len(values) == len(labels)
    return values


@pytest.mark.parametrize(
    ("name", "layer", "kind"),
    [
        ("model.layers.3.self_attn.k_proj.weight", 3, "k"), ("model.layers.3.self_attn.v_proj.bias", 3, "v"),
        ("model.layers.3.self_attn.o_proj.weight", 3, "o"), ("model.layers.11.mlp.gate_proj.weight", 11, "gate"),
        ("model.layers.11.mlp.up_proj.weight", 11, "up"), ("model.layers.0.post_attention_layernorm.weight", 0, "norm"),
        ("model.layers.0.self_attn.q_norm.weight", 0, "norm"), ("model.norm.weight", -1, "norm"),
        ("transformer.h.7.attn.c_attn.weight", 7, "qkv"), ("transformer.h.7.attn.c_proj.weight", 7, "o"),
        ("transformer.h.7.mlp.c_proj.weight", 7, "down"), ("transformer.h.7.mlp.c_fc.weight", 7, "up"),
        ("transformer.wte.weight", -1, "embed"), ("lm_head.weight", -1, "head"), ("conv1.weight", -1, "other"),
        ("model.layers.2.self_attn.q_proj.lora_A.default.weight", 2, "q"), ("", -1, "other"),
    ],
)  # fmt: skip
def test_names_tell_layer_and_kind(name: str, layer: int, kind: str) -> None:
    assert (layer_of(name), kind_of(name)) == (layer, kind)


def test_shares_are_of_weights_and_not_of_tensors() -> None:
    cells = density(ROWS)
    assert cells[0] == {"q": Weights(100, 50), "down": Weights(100, 100)}
    assert cells[1] == {"q": Weights(100, 10), "norm": Weights(20, 10)}
    assert cells[-1] == {"embed": Weights(1000, 200)}
    assert cells[1]["norm"].share == 0.5


def test_the_picture_has_every_number_and_leaves_out_what_there_is_not() -> None:
    drawn = str(picture(density(ROWS), "npo"))
    assert numbers(drawn) == ["50", "100", "10", "50", "20"]
    headings = [word for word in ("q", "k", "down", "norm", "embed", "head", "other") if f">{word}</text>" in drawn]
    assert headings == ["q", "down", "norm", "embed"]
    assert [label for label in ("layer 0", "layer 1", "outside") if f">{label}</text>" in drawn] == [
        "layer 0",
        "layer 1",
        "outside",
    ]
    title = Page(drawn).all("svg")[0]["aria-label"] or ""
    assert title.replace("\N{NO-BREAK SPACE}", "") == (
        "Share of weights that npo trains, 28% of all; by kind of matrix: q 30%; down 100%; norm 50%; embed 20%"
    )


def test_a_number_of_little_or_of_almost_all_is_not_rounded_away() -> None:
    rows = [row(f"model.layers.{i}.mlp.up_proj.weight", 1000, kept) for i, kept in enumerate((0, 1, 15, 985, 999, 1000))]
    drawn = str(picture(density(rows), "npo")).replace("&lt;", "<").replace("&gt;", ">")
    assert [t.rpartition('middle">')[2] for t in drawn.split("</text>") if 'tick ink"' in t] == [
        "0",
        "<1",
        "2",
        "98",
        ">99",
        "100",
    ]


def test_shades_grow_with_the_share_and_never_hide_the_number() -> None:
    cells = [a for a in Page(str(picture(density(ROWS), "npo"))).all("rect") if a.get("class") == "heat"]
    shades = [float(a["fill-opacity"] or 0) for a in cells]
    assert shades[1] == max(shades) < 0.5 and shades[2] == min(shades)
    assert shades[0] == shades[3], "the same share, the same shade"


@given(st.integers(1, 200))
def test_a_deep_model_is_drawn_in_few_rows_and_loses_no_layer(layers: int) -> None:
    rows = [row(f"model.layers.{i}.mlp.up_proj.weight", 10, i % 11) for i in range(layers)]
    drawn = str(picture(density(rows), "npo"))
    assert len(numbers(drawn)) <= MOST_ROWS
    sizes = [int(t.split(" of ")[1].split()[0].replace(",", "")) for t in drawn.split("<title>")[2:]]
    assert sum(sizes) == 10 * layers


def test_the_sentence_tells_trained_weights_and_frozen_live_ones_apart() -> None:
    said = sentence(table(ROWS)).replace("\N{NO-BREAK SPACE}", "")
    assert said.startswith(TEXT)
    nothing = sentence(table([row("a", 100, 95, 40, 0)])).replace("\N{NO-BREAK SPACE}", "")
    assert "Frozen: 0% of the live weights" in nothing
    assert "freezes no live weight changes nothing" in nothing
    assert "freezes no live weight" not in said
    few = sentence(table([row("a", 100_000, 95_000, 40_000, 2)])).replace("\N{NO-BREAK SPACE}", "")
    assert "Frozen: < 0.1% of the live weights" in few and "changes nothing" not in few


@pytest.mark.parametrize(
    ("total", "said"),
    [(None, "is not known"), ({"size": 100, "kept": 95}, "is not known"),
     ({"size": 100, "kept": 95, "live": 0, "live_frozen": 0}, "is not known"), ({"size": "many"}, "28% of 1.3 k")],
)  # fmt: skip
def test_totals_that_are_missing_are_added_up_or_said_to_be_missing(total: Any, said: str) -> None:
    assert said in sentence({**table(ROWS), "total": total}).replace("\N{NO-BREAK SPACE}", "")


@given(st.floats(0, 1))
def test_a_share_that_is_not_nought_or_one_is_never_written_so(value: float) -> None:
    said = precise_share(value).replace("\N{NO-BREAK SPACE}", "")
    assert (said == "0%") == (value == 0) and (said == "100%") == (value == 1)
    assert float(said.strip("<>% ")) == pytest.approx(100 * value, abs=0.51)


def with_masks(folder: Path, **files: Any) -> Path:
    """A run with `mask.json` in some stages' folders."""
    run = write_run(folder)
    for place, content in files.items():
        text = content if isinstance(content, str) else json.dumps(content)
        put(run / "stages" / place / "mask.json", text)
    return run


def test_each_stage_with_a_mask_has_its_picture_on_the_page(tmp_path: Path) -> None:
    run = with_masks(
        tmp_path / "run", **{"03-npo": table(ROWS), "03-npo-seed1": table(ROWS[:2]), "03-npo.relearn": table(ROWS)}
    )
    assert [m.stage for m in masks(load(run))] == ["npo", "npo (seed 1)"]
    page = read(build(run))
    assert page.wrong == []
    assert TEXT in page.text.replace(" %", "%")
    assert sum("Share of weights that" in (a.get("aria-label") or "") for a in page.all("svg")) == 2
    assert "Which weights were trained" not in read(build(write_run(tmp_path / "plain"))).text


@pytest.mark.parametrize(
    "odd", ["{", "[]", "3", {"parameters": "none"}, {"parameters": [3, {"name": "a"}, {"size": 0, "kept": 0}]}, {}]
)
def test_a_mask_that_cannot_be_read_is_no_picture_and_no_error(tmp_path: Path, odd: Any) -> None:
    run = with_masks(tmp_path / "run", **{"03-npo": odd})
    assert masks(load(run)) == []
    text = read(build(run)).text
    assert ("mask.json cannot be read" in text) == (odd == "{")


def test_a_row_without_a_number_is_left_out() -> None:
    odd = [*ROWS, {"name": "x", "size": None, "kept": 1}, {"name": "y", "size": float("nan"), "kept": 1}, {"size": 5}]
    assert density(odd) == density(ROWS)


def test_nothing_in_a_mask_is_live(tmp_path: Path) -> None:
    evil = table([row(f"model.layers.0.{EVIL}", 10, 5, 5, 1), row(EVIL, 10, 5)], by=EVIL, rank=EVIL, keep=EVIL)
    run = with_masks(tmp_path / "run", **{"03-npo": evil})
    page = read(build(run))
    assert page.wrong == [] and not page.all("img")
    assert f"chosen by {EVIL}" in page.text
