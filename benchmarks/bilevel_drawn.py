"""The picture of what a hypergradient's memory does as inner steps grow; stands alone, in light and in dark."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from amends.report.svg import WIDTH, Axis, axis, el, line, text

HEIGHT = 260
NAMES = {
    "cg": "implicit (CG)", "unroll": "unroll", "truncated": "unroll, last 5", "checkpointed": "unroll, checkpointed",
}  # fmt: skip
_STYLE = """
svg { --ink: #1d2125; --rule: #dcd8cf; --muted: #5a6068; font-family: system-ui, sans-serif; }
@media (prefers-color-scheme: dark) { svg { --ink: #e9e6e0; --rule: #363c43; --muted: #a5abb3; } }
text { font-size: 12px; fill: var(--ink); } .tick { fill: var(--muted); font-size: 11px; }
.grid { stroke: var(--rule); } .line { fill: none; stroke: var(--ink); stroke-width: 1.6; } .mark { fill: var(--ink); }
"""
_DASHES = {"cg": None, "unroll": "6 3", "truncated": "2 3", "checkpointed": "8 3 2 3"}


def picture(drawn: Mapping[str, Sequence[tuple[int, float]]]) -> str:
    """Lines of (inner steps, MiB), told apart by their dashes, with a key where no line comes."""
    steps = sorted({s for points in drawn.values() for s, _ in points})
    across = Axis(0.0, float(steps[-1]), 44, WIDTH - 14)
    up = axis([0, *(m for points in drawn.values() for _, m in points)], HEIGHT - 40, 26)
    said = "Growth of resident memory, MiB, by inner steps"
    lines = []
    for i, (kind, points) in enumerate(drawn.items()):
        path = "M" + "L".join(f"{across(s):.2f} {up(m):.2f}" for s, m in points)
        lines += [el("path", d=path, cls="line", stroke_dasharray=_DASHES.get(kind))]
        lines += [el("circle", el("title", f"{m:.1f} MiB"), cx=across(s), cy=up(m), r=2.5, cls="mark") for s, m in points]
        key = f"M58 {42 + 18 * i}h34"
        lines += [el("path", d=key, cls="line", stroke_dasharray=_DASHES.get(kind))]
        lines += [text(100, 46 + 18 * i, NAMES.get(kind, kind))]
    whole = el(
        "svg", el("title", said), el("style", _STYLE), text(8, 14, said), *_scales(across, up, steps), *lines,
        xmlns="http://www.w3.org/2000/svg", viewBox=f"0 0 {WIDTH} {HEIGHT}", width=2 * WIDTH, role="img", aria_label=said,
    )  # fmt: skip
    return f"{whole}\n"


def _scales(across: Axis, up: Axis, steps: Sequence[int]) -> list[str]:
    rows = [
        [line(across.start, up(t), across.stop, up(t), "grid"), text(38, up(t) + 4, f"{t:g}", "tick", "end")]
        for t in up.ticks()
    ]
    columns = [[text(across(s), HEIGHT - 24, f"{s}", "tick", "middle")] for s in steps[1:]]  # the first has no room
    return [*(part for row in [*rows, *columns] for part in row), text(WIDTH - 12, HEIGHT - 8, "inner steps", "tick", "end")]
