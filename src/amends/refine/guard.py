"""Signs that an answer has degenerated while it was mended: they warn, and never decide.

A loop that is rewarded for constraints alone finds the short way: an apology without a comma has no comma. Four looks at a
version, each against the first answer of the same request: its length, repeated word 4-grams, an apology or refusal in its
opening, and how many of the request's content words are still there. A warning breaks ties between versions and stands in
the ledger; whether it is right (a shorter answer may be what was asked for) is for a person or a quality judge to say.
"""

from __future__ import annotations

import re
from collections import Counter
from typing import NamedTuple

from amends.constraints.constraint import Request

SHORT, LONG = 0.5, 2.5
"""Words of this version over words of the first answer."""
REPEATED = 0.3
"""Share of word 4-grams that repeat an earlier one."""
_SORRY = re.compile(
    r"\b(?:i'?m|i am|we are|we're) (?:very |so |truly )?(?:sorry|afraid|unable|not able)\b|\bi (?:cannot|can'?t|won'?t) "
    r"|\b(?:my|i) apologi[sz]e|\bmy apologies\b|\bas an ai\b|\bi must decline\b",
    re.I,
)
_COMMON = frozenset(
    (  # noqa: SIM905
        "about after again also answer because been before being both between could does each every exactly fewer first from "
        "give have into just least less like list make many more most must need only other over please provide response same "
        "sentence sentences should some such than that their them then there these they this those through under until using "
        "very want what when where which while will with without word words would write your paragraph paragraphs letters"
    ).split()
)


class Guarded(NamedTuple):
    """What the looks found."""

    warnings: tuple[str, ...]
    quality: float
    """Share of the looks that found nothing, in 0..1; an empty answer has 0."""
    length_ratio: float
    """Words over the first answer's words."""
    repetition: float
    """Share of repeated word 4-grams, in 0..1."""
    kept: float
    """Share of the request's content words present here, over the share in the first answer; at most 1."""


def guard(text: str, first: str, request: Request) -> Guarded:
    """Looks at one version of an answer; `first` is the version 0 of the same request."""
    words, before = _words(text), _words(first)
    ratio = len(words) / max(len(before), 1)
    repeated = repetition(text)
    kept = _kept(words, before, request)
    warnings = []
    if not words:
        warnings.append("empty")
    elif not SHORT <= ratio <= LONG:
        warnings.append(f"{ratio:.2g} times as long as the first answer")
    if repeated > REPEATED:
        warnings.append(f"repeats itself: {repeated:.0%} of its word 4-grams")
    if apologises(text) and not re.search(r"apolog|sorry|refus|declin", request.prompt, re.I):
        warnings.append("begins with an apology or a refusal")
    if kept < 0.5:
        warnings.append(f"holds {kept:.0%} of the request's words that the first answer held")
    return Guarded(tuple(warnings), 0.0 if not words else 1 - len(warnings) / 4, ratio, repeated, kept)


def repetition(text: str, n: int = 4) -> float:
    """Share of word n-grams that occurred before; 0 for texts of fewer than 20 n-grams.

    >>> repetition("so it goes and goes on and on")
    0.0
    """
    words = _words(text)
    grams = Counter(tuple(words[i : i + n]) for i in range(len(words) - n + 1))
    return 1 - len(grams) / grams.total() if grams.total() >= 20 else 0.0


def apologises(text: str) -> bool:
    """Whether the first 200 characters apologise or refuse."""
    return bool(_SORRY.search(text[:200].replace("’", "'")))


def _kept(words: list[str], before: list[str], request: Request) -> float:
    """Stems of five letters, so that a plural is the same word. An answer asked for in another language keeps none, so 1."""
    if any(c.category == "language" for c in request.constraints):
        return 1.0
    wanted = {w[:5] for w in _words(request.prompt) if len(w) > 3 and w not in _COMMON}
    had = {w[:5] for w in before} & wanted
    return len({w[:5] for w in words} & had) / len(had) if len(had) >= 3 else 1.0


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())
