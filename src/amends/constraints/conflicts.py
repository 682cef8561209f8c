"""Constraints that cannot all be met, and words that nobody can decide by: notes for a person before a call is paid for.

Every note is one sentence that names the constraints by their ids. "cannot both hold" is certain as far as the checkers go;
"hardly" is a trap in which an answer can still be found. Counts in words of judged constraints, and of the prompt where it
is given, are compared with the checkers' (`exactly one bullet point` with `a few bullet points`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import combinations
from typing import Any

from amends.constraints.checkers.cases import (
    CapitalWordFrequency,
    EnglishCapital,
    EnglishLowercase,
    NoComma,
    ResponseLanguage,
)
from amends.constraints.checkers.ends import EndChecker, Quotation, RepeatPrompt, StartsWith
from amends.constraints.checkers.lengths import NumberParagraphs, NumberSentences, NumberWords
from amends.constraints.checkers.marks import MultipleSections, NumberBulletLists
from amends.constraints.checkers.shapes import ConstrainedResponse, JsonFormat, TwoResponses
from amends.constraints.checkers.words import ForbiddenWords, KeywordExistence, KeywordFrequency, Mentions, whole
from amends.constraints.constraint import Constraint
from amends.constraints.counted import Counted, Range, quoted

PROMPT = "the prompt"
"""What notes call the prompt's own words, beside ids."""


def notes(constraints: Sequence[Constraint], prompt: str = "") -> tuple[str, ...]:
    """What a person should know of these constraints: contradictions first, then vague words."""
    found: list[str] = []
    for a, b in combinations([c for c in constraints if c.verifiable], 2):
        why = next((why for x, y in ((a, b), (b, a)) for why in _between(x.checker, y.checker)), None)
        if why:
            found.append(f"{a.id} and {b.id} {why}.")
    return (*found, *_said(constraints, prompt), *_vague(constraints))


def _between(a: Any, b: Any) -> Iterator[str]:
    """Why two checkers, in this order, cannot both be met, or hardly."""
    yield from _counts(a, b)
    yield from _words(a, b)
    yield from _letters(a, b)
    yield from _ends(a, b)
    yield from _shapes(a, b)


def _apart(a: Range, b: Range) -> bool:
    low, high = max(a[0], b[0]), min((h for h in (a[1], b[1]) if h is not None), default=None)
    return high is not None and low > high


def _range(checker: Any) -> tuple[tuple[str, ...], Range, str] | None:
    """What a checker counts, the counts that it allows, and that in words."""
    if isinstance(checker, Counted):
        return checker.of(), checker.allowed(), checker.target()
    if isinstance(checker, NumberParagraphs):
        n = checker.num_paragraphs
        return ("NumberParagraphs",), (n, n), f"exactly {n} paragraphs"
    return None


def _counts(a: Any, b: Any) -> Iterator[str]:
    one, two = _range(a), _range(b)
    if one and two and one[0] == two[0] and _apart(one[1], two[1]):
        yield f"cannot both hold: {one[2]} and {two[2]}"
    if isinstance(a, NumberWords) and isinstance(b, (NumberSentences, KeywordFrequency)):
        most, least = a.allowed()[1], b.allowed()[0]
        if most is not None and most < least:
            yield f"cannot both hold: {a.target()} have no room for {b.target()}"


def _needed(checker: Any) -> tuple[str, ...]:
    """Texts that stand in every answer that a checker passes."""
    match checker:
        case KeywordExistence():
            return checker.keywords
        case Mentions(how="all"):
            return checker.words
        case KeywordFrequency() if checker.allowed()[0] > 0:
            return (checker.keyword,)
        case RepeatPrompt():
            return (checker.prompt_to_repeat,)
        case StartsWith():
            return (checker.start,)
        case EndChecker():
            return (checker.end_phrase,)
        case _:
            return ()


def _words(a: Any, b: Any) -> Iterator[str]:
    if isinstance(a, ForbiddenWords):
        both = [word for word in a.forbidden_words if any(whole(word, text) for text in _needed(b))]
        if both:
            yield f"cannot both hold: {quoted(both)} may not stand in the answer and has to"
    if isinstance(a, KeywordFrequency) and a.allowed()[1] == 0:
        word = a.keyword.strip().casefold()
        if any(word in text.casefold() for text in _needed(b)):
            yield f"cannot both hold: {quoted([a.keyword])} may not stand in the answer and has to"
    if isinstance(a, NoComma) and any("," in text for text in _needed(b)):
        yield "cannot both hold: the text that one asks for has a comma, and the other allows none"


def _letters(a: Any, b: Any) -> Iterator[str]:
    lower, upper = isinstance(a, EnglishLowercase), isinstance(a, EnglishCapital)
    if lower and isinstance(b, EnglishCapital):
        yield "cannot both hold: small letters only and capital letters only"
    if lower and isinstance(b, CapitalWordFrequency) and b.allowed()[0] > 0:
        yield f"cannot both hold: small letters only and {b.target()}"
    if (lower or upper) and isinstance(b, ConstrainedResponse):
        yield f'cannot both hold: {"small" if lower else "capital"} letters only and a sentence such as "My answer is yes."'
    if isinstance(b, MultipleSections) and b.num_sections:
        word = b.section_splitter
        if (lower and any(c.isupper() for c in word)) or (upper and any(c.islower() for c in word)):
            yield f"cannot both hold: headings are {quoted([word])} in this case, and letters of another case are asked for"
    if isinstance(a, ResponseLanguage):
        if isinstance(b, ResponseLanguage) and a.language[:2] != b.language[:2]:
            yield f"cannot both hold: they ask for different languages, {a.told()[23:-1]} and {b.told()[23:-1]}"
        if isinstance(b, (EnglishCapital, EnglishLowercase)) and a.language != "en":
            yield f"cannot both hold: English and {a.told()[23:-1]}"


def _ends(a: Any, b: Any) -> Iterator[str]:
    for place, kinds in (("beginning", (RepeatPrompt, StartsWith)), ("end", (EndChecker,))):
        if isinstance(a, kinds) and isinstance(b, kinds):
            one, two = (_needed(c)[0].strip().casefold()[:: 1 if place == "beginning" else -1] for c in (a, b))
            if not one.startswith(two) and not two.startswith(one):
                yield f"cannot both hold: an answer has one {place}, and they ask for two"
    if isinstance(a, Quotation) and isinstance(b, (RepeatPrompt, StartsWith)) and not _needed(b)[0].strip().startswith('"'):
        yield "cannot both hold: one wants a quotation mark at the very beginning, the other a text without"
    if isinstance(a, Quotation) and isinstance(b, EndChecker):
        yield "hardly go together: the closing quotation mark has to stand behind the phrase that nothing is to follow"


def _shapes(a: Any, b: Any) -> Iterator[str]:
    if isinstance(a, TwoResponses) and isinstance(b, NumberParagraphs):
        yield "cannot both hold: the six asterisks between answers are two dividers of paragraphs with nothing between"
    if not isinstance(a, JsonFormat):
        return
    if isinstance(b, NoComma):
        yield "hardly go together: JSON with more than one field or item needs commas"
    if isinstance(b, (RepeatPrompt, StartsWith)):
        yield "hardly go together: JSON does not begin with a sentence"
    if isinstance(b, EndChecker):
        yield "hardly go together: JSON ends with a bracket, unless all of it is one quoted text"
    if isinstance(b, NumberBulletLists) and b.num_bullets:
        yield "hardly go together: a line of JSON does not begin with a bullet"
    if isinstance(b, Quotation):
        yield "hardly go together: the only JSON in quotation marks is one quoted text"


_WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")
_NUMBERS = {word: i for i, word in enumerate(_WORDS)}
_VAGUE_COUNTS: dict[str, Range] = {"a few": (2, None), "several": (3, None), "multiple": (2, None), "a couple of": (2, 2)}
_COUNTED = re.compile(
    r"\b(?:(?P<how>exactly|at least|at most|no more than|fewer than|less than|more than)\s+)?"
    rf"(?P<n>\d+|{'|'.join(_NUMBERS)}|{'|'.join(_VAGUE_COUNTS)})\s+"
    r"(?P<unit>bullet(?:\s+points?|s)?|sentences?|words?|paragraphs?)\b(?!\s+(?:per|each|in each|in every|long))",
    re.IGNORECASE,
)
_EACH = re.compile(r"\b(?:each|every|per)\b[^.!?\n]*$", re.IGNORECASE)
_UNITS = {"bullet": "NumberBulletLists", "senten": "NumberSentences", "word": "NumberWords", "paragr": "NumberParagraphs"}


def _stated(text: str) -> Iterator[tuple[tuple[str, ...], Range, str]]:
    """Counts that a text asks for in words: of what, how many, and the words. A bare number may be no limit and is left out."""
    for found in _COUNTED.finditer(text):
        if _EACH.search(text[: found.start()]):
            continue  # of every line, not of the answer
        said, how = found["n"].lower(), (found["how"] or "").lower()
        unit = next(name for start, name in _UNITS.items() if found["unit"].lower().startswith(start))
        if said in _VAGUE_COUNTS:
            yield (unit,), _VAGUE_COUNTS[said], found.group()
        elif how:
            n = _NUMBERS[said] if said in _NUMBERS else int(said)
            ranges: dict[str, Range] = {
                "exactly": (n, n), "at least": (n, None), "more than": (n + 1, None), "at most": (0, n), "no more than": (0, n),
            }  # fmt: skip
            yield (unit,), ranges.get(how, (0, n - 1)), found.group()


def _said(constraints: Sequence[Constraint], prompt: str) -> Iterator[str]:
    """Counts in words against the checkers' counts."""
    counted = [(c.id, ranged) for c in constraints if (ranged := _range(c.checker))]
    texts = [(c.id, c.text) for c in constraints if not c.verifiable] + [(PROMPT, prompt)] * bool(prompt)
    stated = [(name, said) for name, text in texts for said in _stated(text)]
    pairs = [(one, two) for one in counted for two in stated] + [
        (one, two) for one, two in combinations(stated, 2) if one[0] != two[0]
    ]
    for (name, (what, allowed, words)), (other, (kind, asked, phrase)) in pairs:
        if what == kind and _apart(allowed, asked):
            yield f"{name} and {other} cannot both hold: {words} and {phrase!r}."


_VAGUE = re.compile(
    r"\b(a few|several|some|many|a couple of|short|brief|briefly|concise|long|detailed|simple|appropriate|good|nice|interesting"
    r"|as needed|if possible|etc)\b",
    re.IGNORECASE,
)


def _vague(constraints: Sequence[Constraint]) -> Iterator[str]:
    for constraint in [c for c in constraints if not c.verifiable]:
        words = list(dict.fromkeys(found.group().lower() for found in _VAGUE.finditer(constraint.text)))
        if words:
            yield f"{constraint.id} says {quoted(words)}, which judges read differently: say how many or by what sign."
