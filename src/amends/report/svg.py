"""Just enough SVG: escaped elements, a linear axis with round ticks, labels that keep out of each other's way.

Figures are drawn at phone width (380 units) so that their text stays readable when they shrink, and take every colour
from the page's style sheet, so that they follow light, dark and print.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

WIDTH = 380
_GLYPH = 7.2
"""Width of one character of a 12-unit label, generous."""


def el(name: str, *children: object, **attrs: object) -> Markup:
    """One element; `cls` is its class, an underscore in a name becomes a dash, numbers are rounded.

    >>> str(el("text", "a < b", x=1.23456, cls="tick"))
    '<text x="1.23" class="tick">a &lt; b</text>'
    """
    names = {"cls": "class", "viewBox": "viewBox"}
    said = "".join(f' {names.get(k, k.replace("_", "-"))}="{escape(_short(v))}"' for k, v in attrs.items() if v is not None)
    inner = Markup("").join(escape(c) for c in children)
    return Markup(f"<{name}{said}>{inner}</{name}>")


def svg(title: str, width: float, height: float, *children: object) -> Markup:
    """A picture with an accessible name."""
    return el(
        "svg", el("title", title), *children, viewBox=f"0 0 {width:g} {height:g}", role="img", aria_label=title,
        style=f"--w:{width:g}px", focusable="false",
    )  # fmt: skip


def line(x1: float, y1: float, x2: float, y2: float, cls: str) -> Markup:
    """A straight line."""
    return el("line", x1=x1, y1=y1, x2=x2, y2=y2, cls=cls)


def text(x: float, y: float, words: object, cls: str = "label", anchor: str | None = None) -> Markup:
    """A line of text on its baseline."""
    return el("text", words, x=x, y=y, cls=cls, text_anchor=anchor)


def shape(kind: str, x: float, y: float, said: str = "", r: float = 5) -> Markup:
    """A subject's mark: ring for the original, diamond for the retrained model, disc for a method."""
    tip = (el("title", said),) if said else ()
    if kind == "retrain":
        return el(
            "path", *tip, d=f"M{x:.2f} {y - r - 1:.2f}l{r + 1} {r + 1}l-{r + 1} {r + 1}l-{r + 1} -{r + 1}z", cls="mark retrain"
        )
    return el("circle", *tip, cx=x, cy=y, r=r, cls=f"mark {'original' if kind == 'original' else 'method'}")


def square(x: float, y: float, said: str, cls: str) -> Markup:
    """A square mark, as large as a disc."""
    return el("rect", el("title", said), x=x - 4.5, y=y - 4.5, width=9, height=9, cls=f"mark {cls}")


def shorten(words: str, most: int) -> str:
    """Cuts a long name in the middle, where names differ least.

    >>> shorten("simnpo-with-a-long-name", 11)
    'simnp…-name'
    """
    head = (most - 1) // 2
    return words if len(words) <= most else f"{words[:head]}…{words[len(words) - (most - 1 - head) :]}"


@dataclass(frozen=True)
class Axis:
    """Maps low..high to start..stop; values outside are put on the edge."""

    low: float
    high: float
    start: float
    stop: float

    def __call__(self, value: float) -> float:
        share = (min(max(value, self.low), self.high) - self.low) / (self.high - self.low)
        return self.start + share * (self.stop - self.start)

    def ticks(self, most: int = 6) -> list[float]:
        """Round values within the range."""
        step = _step(self.high - self.low, most)
        first = math.ceil(self.low / step - 1e-9)
        return [i * step for i in range(first, math.floor(self.high / step + 1e-9) + 1)]


@dataclass(frozen=True)
class LogAxis:
    """Maps low..high, both above 0, to start..stop by their logarithm; values outside are put on the edge."""

    low: float
    high: float
    start: float
    stop: float

    def __call__(self, value: float) -> float:
        share = math.log(min(max(value, self.low), self.high) / self.low) / math.log(self.high / self.low)
        return self.start + share * (self.stop - self.start)

    def ticks(self, most: int = 6) -> list[float]:
        """Powers of ten within the range, with their two- and fivefold where there is room."""
        powers = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
        for steps in ((1, 2, 5), (1, 3), (1,)):
            found = [m * 10.0**p for p in powers for m in steps if self.low * 0.999 <= m * 10.0**p <= self.high * 1.001]
            if len(found) <= most:
                return found
        return found[:: -(-len(found) // most)]


Scale = Axis | LogAxis


def log_axis(values: Iterable[float], start: float, stop: float) -> LogAxis:
    """A logarithmic axis that holds the values above 0, with a margin; at least a factor of four from end to end."""
    known = [v for v in values if math.isfinite(v) and v > 0] or [1.0]
    low, high = min(known) / 1.3, max(known) * 1.3
    wider = max(1.0, math.sqrt(4 * low / high))
    return LogAxis(low / wider, high * wider, start, stop)


def axis(values: Iterable[float], start: float, stop: float, *, unit_range: bool = False) -> Axis:
    """An axis that holds the values; 0 to 1 for shares and probabilities, else out to round numbers."""
    known = [v for v in values if math.isfinite(v)]
    low, high = (min(known), max(known)) if known else (0.0, 1.0)
    if unit_range and low >= 0 and high <= 1:
        return Axis(0.0, 1.0, start, stop)
    if high - low < 1e-9 * max(1.0, abs(high)):
        low, high = low - 0.5, high + 0.5
    step = _step(high - low, 5)
    return Axis(math.floor(low / step) * step, math.ceil(high / step) * step, start, stop)


def within_reach(value: float, low: float | None, high: float | None, span: float) -> list[float]:
    """A value and its interval for sizing an axis: ends further away than `span` may leave the plot."""
    ends = [max(low, value - span)] if low is not None else []
    return [value, *ends, *([min(high, value + span)] if high is not None else [])]


Box = tuple[float, float, float, float]
"""Left, top, right, bottom."""


def place(
    points: Sequence[tuple[float, float]], words: Sequence[str], frame: Box, avoid: Sequence[Box] = (),
    brief: Sequence[str] | None = None,
) -> list[Markup]:  # fmt: skip
    """A label for each point, on the first side where it meets no point, no label, nothing to avoid and no edge.

    Args:
        brief: what is written where there is no room for the words; where that is empty, nothing.
    """
    taken = [*avoid, *((x - 6, y - 6, x + 6, y + 6) for x, y in points)]
    labels = []
    for (x, y), *choices in zip(points, words, *([] if brief is None else [brief]), strict=True):
        for word in choices:
            spots = _around(x, y, len(word) * _GLYPH)
            free = [s for s in spots if _inside(s, frame) and not any(_meet(s, t) for t in taken)]
            if free:
                break
        spot = (free or spots)[0]
        taken.append(spot)
        labels += [text(spot[0], spot[3] - 3, word, "label strong")] if word else []
    return labels


def _around(x: float, y: float, wide: float) -> list[Box]:
    sides = [(x + 9 + dx, y + 4 + dy) for dy in (0, -13, 13, -26, 26, -39, 39) for dx in (0, -18 - wide)]
    return [(left, base - 10, left + wide, base + 3) for left, base in sides]


def _inside(spot: Box, box: Box) -> bool:
    return spot[0] >= box[0] and spot[1] >= box[1] and spot[2] <= box[2] and spot[3] <= box[3]


def _meet(a: Box, b: Box) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def _step(span: float, most: int) -> float:
    raw = span / most
    power = 10.0 ** math.floor(math.log10(raw))
    return next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= raw * (1 - 1e-9))


def _short(value: object) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)
