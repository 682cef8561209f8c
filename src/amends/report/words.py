"""Numbers and metric names in words: how the page, the terminal and `compare` write them."""

from __future__ import annotations

import math
import re
from functools import cache
from itertools import pairwise

from amends.core import catalog
from amends.report.table import Cell, base, form, role

NONE = "\N{EN DASH}"
ARROWS = {"lower": "\N{DOWNWARDS ARROW}", "higher": "\N{UPWARDS ARROW}", "closer": "\N{LEFT RIGHT ARROW}"}
DIRECTIONS = {"lower": "lower is better", "higher": "higher is better", "closer": "closer to the retrained model is better"}
CLOSER_TO_IT = "closer to what it is compared with is better"
"""The same where nothing is forgotten, and so nothing is retrained: the stage that a recipe's `against` names."""
_PAPERS = {"ua": "UA", "ra": "RA", "ta": "TA", "asr": "ASR", "mia_efficacy": "MIA-efficacy", "mia_privacy": "MIA-privacy"}
"""As the papers on classifiers write them."""
_NAMES = {"mia": "membership AUC", "rouge": "ROUGE-L", "privleak": "PrivLeak", "harness": "benchmark score", **_PAPERS}
_ATTACKS = {
    "relearn": "relearning", "relearn-retain": "relearning on the retain rows", "quantise": "quantising",
    "quantise-8bit": "quantising to 8 bits", "prefix": "a jailbreak prefix", "few_shot": "showing answered questions",
    "paraphrase": "asking in other words", "paraphrase-rule": "asking in other words, by rule",
    "probe": "a probe of an inner layer", "logit_lens": "the logit lens",
}  # fmt: skip
"""Names that say nothing more; the others are made of parts, which `attack` puts into words."""
KINDS = {"original": "before unlearning", "retrain": "retrained without the forget set", "unlearned": ""}


def number(value: float | None) -> str:
    """Two decimals, or two figures where that would hide the number.

    >>> [number(v) for v in (0.814, 0.0421, 0.00002, 0.0, 31.416, 1234.5, -0.5)]
    ['0.81', '0.042', '2e-5', '0', '31.4', '1,234', '-0.50']
    """
    if value is None or not math.isfinite(value):
        return NONE
    size = abs(value)
    if size == 0:
        return "0"
    if size >= 1000:
        return f"{value:,.0f}"
    if size >= 10:
        return f"{value:.1f}"
    if size >= 0.095:
        return f"{value:.2f}"
    return f"{value:.2g}" if size >= 0.001 else _exponent(f"{value:.0e}")


def tick(value: float) -> str:
    """A round number on an axis."""
    size = abs(value)
    return _exponent(f"{value:.0e}") if size >= 1e5 or 0 < size < 1e-4 else f"{value:.6g}"


def _exponent(written: str) -> str:
    """`2e-5` of `2e-05`."""
    digits, _, power = written.partition("e")
    return f"{digits}e{int(power)}"


def share(value: float | None) -> str:
    """A share as a percentage, with a space that does not break.

    >>> share(0.6234), share(-0.001)
    ('62\\xa0%', '0\\xa0%')
    """
    return NONE if value is None else f"{round(100 * value)}\N{NO-BREAK SPACE}%"


def precise_share(value: float) -> str:
    """A percentage that never rounds to nothing or to all.

    >>> precise_share(0.95), precise_share(0.0004), precise_share(0.9996), precise_share(1.0), precise_share(0.0)
    ('95\\xa0%', '< 0.1\\xa0%', '> 99.9\\xa0%', '100\\xa0%', '0\\xa0%')
    """
    cent = 100 * value
    if 0 < cent < 0.1 or 99.9 < cent < 100:
        said = "< 0.1" if cent < 1 else "> 99.9"
    else:
        said = f"{cent:.1f}".removesuffix(".0") if cent < 10 or 90 < cent < 100 else f"{cent:.0f}"
    return f"{said}\N{NO-BREAK SPACE}%"


def interval(cell: Cell) -> str:
    """`0.02 to 0.07`, or nothing for a number without an interval."""
    return "" if cell.low is None or cell.high is None else f"{number(cell.low)} to {number(cell.high)}"


def with_interval(cell: Cell | None) -> str:
    """`0.04 [0.02, 0.07]`."""
    if cell is None:
        return NONE
    if cell.low is None or cell.high is None:
        return number(cell.value)
    return f"{number(cell.value)} [{number(cell.low)}, {number(cell.high)}]"


def metric(name: str) -> str:
    """`probability.forget` as `forget probability`.

    >>> metric("probability.forget"), metric("forget_quality"), metric("mia.min_k")
    ('forget probability', 'forget quality', 'membership AUC, min k')
    """
    return f"{plain(role(name))} {column(name)}".strip()


def column(name: str) -> str:
    """A metric without its role: `probability`, `accuracy, paraphrase`."""
    word = _NAMES.get(base(name), plain(base(name)))
    return f"{word}, {plain(form(name))}" if form(name) else word


def attack(name: str) -> str:
    """An attack in words, by its name alone: what results of earlier versions hold, and what was not tried.

    >>> attack("relearn-50-percent"), attack("relearn-4-shot-shortest"), attack("quantise-nf4")
    ('relearning on 50 % of the rows', 'relearning on 4 of the rows, the shortest', 'quantising to 4 bits (NF4)')
    >>> attack("probe-50"), attack("logit_lens-L3"), attack("few_shot-4"), attack("prefix-sure"), attack("my_own")
    ('a probe at 50 % of the depth', 'the logit lens at block 3', 'showing 4 answered questions', "the prefix 'sure'", 'my own')
    """
    name = name.replace("quantize", "quantise")
    if name in _ATTACKS:
        return _ATTACKS[name]
    use, *parts = name.split("-")
    if use == "relearn":
        return _relearned(parts)
    rest = "-".join(parts)
    if use == "quantise" and parts:
        bits = "8 bits" if parts[0] == "8bit" else f"4 bits ({parts[0].upper()})"
        return f"quantising to {bits}{', the output head too' if 'head' in parts[1:] else ''}"
    if use in ("probe", "logit_lens") and re.fullmatch(r"L?\d+", rest):
        what = "a probe" if use == "probe" else "the logit lens"
        return f"{what} at block {rest[1:]}" if rest.startswith("L") else f"{what} at {rest} % of the depth"
    if use == "few_shot" and rest.isdigit():
        return f"showing {rest} answered questions"
    return f"the prefix '{rest}'" if use == "prefix" else plain(name).replace("-", " ")


def _relearned(parts: list[str]) -> str:
    """`50-percent`, `4-shot`, `retain`, `shortest` in any number."""
    role = next((p for p in parts[:1] if not p[0].isdigit() and p != "shortest"), None)
    of = f"the {plain(role)} rows" if role else "the rows"
    some = f" on {of}" if role else ""
    for many, unit in pairwise(parts):
        if unit in ("percent", "shot"):
            some = f" on {many.replace('_', '.')}{' %' if unit == 'percent' else ''} of {of}"
    return f"relearning{some}{', the shortest' if parts[-1] == 'shortest' else ''}"


def plain(name: str) -> str:
    """A key as words."""
    return name.replace("_", " ").replace(".", " ")


@cache
def meaning(name: str) -> str:
    """What a metric measures, from the first line of its class; empty if no class has its name."""
    wanted = catalog.normal(base(name))
    return next((e.summary for e in catalog.list_kind("metrics") if catalog.normal(e.name) == wanted), "")


def seconds(value: float | None) -> str:
    """Seconds, minutes or hours.

    >>> seconds(41.2), seconds(312), seconds(7300)
    ('41 s', '5 min 12 s', '2 h 1 min')
    """
    if value is None:
        return NONE
    if value < 10:
        return f"{value:.1f} s"
    whole = round(value)
    if whole < 60:
        return f"{whole} s"
    return f"{whole // 60} min {whole % 60} s" if whole < 3600 else f"{whole // 3600} h {whole % 3600 // 60} min"


def size(value: float | None) -> str:
    """Bytes in MB or GB (powers of ten).

    >>> size(3.1e9), size(4.5e6)
    ('3.1 GB', '4 MB')
    """
    if value is None or value <= 0:
        return NONE
    return f"{value / 1e9:.1f} GB" if value >= 1e9 else f"{value / 1e6:.0f} MB"


def count(value: float | None) -> str:
    """A number of parameters.

    >>> count(134515008), count(52000)
    ('135 M', '52 k')
    """
    if value is None:
        return NONE
    for limit, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= limit:
            shown = value / limit
            return f"{shown:.1f} {letter}" if shown < 10 else f"{shown:.0f} {letter}"
    return f"{value:.0f}"


def several(n: int, noun: str) -> str:
    """`1 seed`, `3 seeds`."""
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"


def listed(names: list[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}" if names else ""
