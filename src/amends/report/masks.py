"""Which weights a mask let a stage train: the share in each layer and kind of matrix, as a picture and in a sentence.

Reads `stages/NN-name[-seedS]/mask.json`, which a weight mask leaves beside its stage: for every parameter its size, how
many of its weights are trained (`kept`), how many have a score that is not 0 (`live`), and how many of those are frozen.
Frozen weights without a score would hardly have moved anyway, so the sentence tells the frozen LIVE ones apart.

Every cell of the picture has its number; the shade only repeats it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from amends.report import words
from amends.report.load import Row, RunData, mapping, number, rows
from amends.report.svg import el, svg, text

KINDS: Mapping[str, tuple[str, ...]] = {
    "q": ("q_proj", "query", "wq"),
    "k": ("k_proj", "key", "wk"),
    "v": ("v_proj", "value", "wv"),
    "qkv": ("c_attn", "query_key_value", "qkv_proj", "wqkv"),
    "o": ("o_proj", "out_proj", "wo"),
    "gate": ("gate_proj", "w1"),
    "up": ("up_proj", "c_fc", "fc1", "dense_h_to_4h", "w3", "gate_up_proj"),
    "down": ("down_proj", "fc2", "dense_4h_to_h", "w2"),
    "norm": ("norm", "layernorm", "ln_1", "ln_2", "ln_f"),
    "embed": ("embed_tokens", "wte", "wpe", "embed_in", "embedding", "embeddings"),
    "head": ("lm_head", "embed_out", "head"),
}
"""Kind of matrix -> what models call it; a part of a parameter's name between dots, or one that ends in `norm`."""
OTHER = "other"
_OUTSIDE = -1
"""The row of what lies in no layer."""
_LAYER = re.compile(r"(?:^|\.)(?:layers?|h|blocks?)\.(\d+)\.")
MOST_ROWS = 32
"""Rows of the picture; the layers of a deeper model are taken together."""
_LEFT, _TOP, _WIDE, _HIGH = 54, 24, 36, 20


@dataclass(frozen=True)
class Masked:
    """The mask of one stage."""

    stage: str
    sentence: str
    picture: Markup


@dataclass(frozen=True)
class Weights:
    """How many weights there are and how many of them are trained."""

    size: float = 0.0
    kept: float = 0.0

    def __add__(self, other: Weights) -> Weights:
        return Weights(self.size + other.size, self.kept + other.kept)

    @property
    def share(self) -> float:
        """The share that is trained."""
        return self.kept / self.size


def masks(run: RunData) -> list[Masked]:
    """The masks of a run by stage, those that list at least one parameter; of zeros, the stage that pruned has its own."""
    found = []
    for name, table in run.masks:
        cells = density(rows(table.get("parameters")))
        if cells and table.get("by") != "zeros":
            found.append(Masked(name, sentence(table), picture(cells, name)))
    return found


def sentence(table: Row) -> str:
    """`Trained: 95 % of 134 M weights, ranked over the whole model by wagle; 3 % of the live weights are frozen.`"""
    total = mapping(table.get("total"))
    size, kept = number(total.get("size")), number(total.get("kept"))
    if not size or kept is None:
        size, kept = _summed(rows(table.get("parameters")))
    by, rank = str(table.get("by") or ""), str(table.get("rank") or "")
    how = {"global": "ranked over the whole model", "tensor": "ranked within each tensor"}.get(rank, "")
    chosen = " ".join(part for part in ("chosen", f"by {by}" if by else "", how and f"and {how}") if part) if by or how else ""
    said = f"Trained: {words.precise_share(kept / size)} of {words.count(size)} weights{f', {chosen}' if chosen else ''}."
    live, frozen = number(total.get("live")), number(total.get("live_frozen"))
    if not live or frozen is None:
        return f"{said} How many of the frozen weights were live is not known."
    held = f"Frozen: {words.precise_share(frozen / live)} of the live weights (those with a score that is not 0)."
    nothing = " A mask that freezes no live weight changes nothing." if frozen == 0 else ""
    return f"{said} {held}{nothing}"


def density(parameters: Iterable[Row]) -> dict[int, dict[str, Weights]]:
    """Layer -> kind -> weights; what lies in no layer stands under -1. Rows without a size are left out."""
    found: dict[int, dict[str, Weights]] = {}
    for row in parameters:
        size, kept = number(row.get("size")), number(row.get("kept"))
        if size is not None and size > 0 and kept is not None:
            name = str(row.get("name", ""))
            layer = found.setdefault(layer_of(name), {})
            layer[kind_of(name)] = layer.get(kind_of(name), Weights()) + Weights(size, kept)
    return found


def layer_of(name: str) -> int:
    """The number of a parameter's layer, -1 if it lies in none.

    >>> layer_of("model.layers.12.mlp.up_proj.weight"), layer_of("transformer.h.3.ln_1.weight"), layer_of("lm_head.weight")
    (12, 3, -1)
    """
    found = _LAYER.search(name)
    return int(found[1]) if found and len(found[1]) <= 6 else _OUTSIDE


def kind_of(name: str) -> str:
    """The kind of matrix a parameter is.

    >>> kind_of("model.layers.0.self_attn.q_proj.weight"), kind_of("model.norm.weight"), kind_of("x.rotary.scale")
    ('q', 'norm', 'other')
    """
    parts = name.lower().split(".")
    found = (kind for part in reversed(parts) for kind, names in KINDS.items() if part in names or _norm(kind, part))
    return next(found, "o" if "c_proj" in parts and "attn" in parts else "down" if "c_proj" in parts else OTHER)


def _norm(kind: str, part: str) -> bool:
    return kind == "norm" and part.endswith(("norm", "layernorm"))


def picture(cells: Mapping[int, Mapping[str, Weights]], name: str) -> Markup:
    """A table of shares in per cent, a row a layer and a column a kind, each cell shaded by its number."""
    bands = _bands(sorted(i for i in cells if i >= 0))
    lines: list[tuple[str, Mapping[str, Weights]]] = [(_band_name(b), _together(cells[i] for i in b)) for b in bands]
    if _OUTSIDE in cells:
        lines.append(("outside", cells[_OUTSIDE]))
    kinds = [k for k in (*KINDS, OTHER) if any(k in line for _, line in lines)]
    wide, high = _LEFT + _WIDE * len(kinds) + 4, _TOP + _HIGH * len(lines) + 4
    parts = [text(_LEFT + _WIDE * (x + 0.5), _TOP - 8, kind, "tick", "middle") for x, kind in enumerate(kinds)]
    for y, (label, line) in enumerate(lines):
        top = _TOP + _HIGH * y
        parts.append(text(_LEFT - 8, top + _HIGH * 0.7, label, "tick", "end"))
        parts += [_cell(_LEFT + _WIDE * x, top, line[k], f"{label}, {k}") for x, k in enumerate(kinds) if k in line]
    whole = _together(cells.values())
    total = sum(whole.values(), Weights())
    said = "; ".join(f"{kind} {words.precise_share(whole[kind].share)}" for kind in kinds)
    title = f"Share of weights that {name} trains, {words.precise_share(total.share)} of all; by kind of matrix: {said}"
    return svg(title, wide, high, *parts)


def _cell(left: float, top: float, weights: Weights, label: str) -> Markup:
    tip = el("title", f"{label}: {weights.kept:,.0f} of {weights.size:,.0f} weights are trained")
    shade = el("rect", tip, x=left + 1, y=top + 1, width=_WIDE - 2, height=_HIGH - 2, cls="heat", fill_opacity=_shade(weights))
    edge = el("rect", x=left + 1, y=top + 1, width=_WIDE - 2, height=_HIGH - 2, cls="heat-edge")
    value = text(left + _WIDE / 2, top + _HIGH * 0.7, _cent(weights.share), "tick ink", "middle")
    return Markup("").join([shade, edge, value])


def _cent(share: float) -> str:
    """Per cent in at most three characters; neither nothing nor all is said of what is not."""
    if share in (0.0, 1.0):
        return "100" if share else "0"
    return "<1" if share < 0.01 else ">99" if share > 0.99 else f"{100 * share:.0f}"


def _shade(weights: Weights) -> float:
    """At most 0.45, so that the number on it stays readable in both colour schemes."""
    return round(0.45 * weights.share, 3)


def _bands(layers: Sequence[int]) -> list[Sequence[int]]:
    deep = -(-len(layers) // MOST_ROWS) or 1
    return [layers[i : i + deep] for i in range(0, len(layers), deep)]


def _band_name(band: Sequence[int]) -> str:
    return f"layer {band[0]}" if len(band) == 1 else f"{band[0]} to {band[-1]}"


def _together(layers: Iterable[Mapping[str, Weights]]) -> dict[str, Weights]:
    found: dict[str, Weights] = {}
    for layer in layers:
        for kind, weights in layer.items():
            found[kind] = found.get(kind, Weights()) + weights
    return found


def _summed(parameters: Iterable[Row]) -> tuple[float, float]:
    whole = sum((w for kinds in density(parameters).values() for w in kinds.values()), Weights())
    return whole.size, whole.kept
