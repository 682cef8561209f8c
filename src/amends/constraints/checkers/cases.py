"""Capitals, small letters, commas, and the language.

IFEval's traps, kept: a text of one digit is neither in capitals nor in small letters; "I", "A" and acronyms are words in
capitals, and DON'T is two of them; short texts in capitals are often taken for another language; full-width commas pass. What
has no letters has no language and passes as any. Different from published code: the language is the same each time (see
`text.py`).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator

from amends.constraints.constraint import Finding, Span
from amends.constraints.counted import Counted, Relation, kept, met, unmet
from amends.constraints.text import UNKNOWN, language, tokens
from amends.core.errors import nearest
from amends.core.spec import Natural, spec

LANGUAGES = {
    "af": "Afrikaans", "ar": "Arabic", "bg": "Bulgarian", "bn": "Bengali", "ca": "Catalan", "cs": "Czech", "cy": "Welsh",
    "da": "Danish", "de": "German", "el": "Greek", "en": "English", "es": "Spanish", "et": "Estonian", "fa": "Persian",
    "fi": "Finnish", "fr": "French", "gu": "Gujarati", "he": "Hebrew", "hi": "Hindi", "hr": "Croatian", "hu": "Hungarian",
    "id": "Indonesian", "it": "Italian", "ja": "Japanese", "kn": "Kannada", "ko": "Korean", "lt": "Lithuanian", "lv": "Latvian",
    "mk": "Macedonian", "ml": "Malayalam", "mr": "Marathi", "ne": "Nepali", "nl": "Dutch", "no": "Norwegian", "pa": "Punjabi",
    "pl": "Polish", "pt": "Portuguese", "ro": "Romanian", "ru": "Russian", "sk": "Slovak", "sl": "Slovenian", "so": "Somali",
    "sq": "Albanian", "sv": "Swedish", "sw": "Swahili", "ta": "Tamil", "te": "Telugu", "th": "Thai", "tl": "Tagalog",
    "tr": "Turkish", "uk": "Ukrainian", "ur": "Urdu", "vi": "Vietnamese", "zh": "Chinese", "zh-cn": "Chinese (simplified)",
    "zh-tw": "Chinese (traditional)",
}  # fmt: skip
"""The codes that langdetect can return, and `zh` for either Chinese."""


def _known(code: str) -> str:
    if code not in LANGUAGES:
        raise ValueError(f"no language that can be detected has this code{nearest(code, LANGUAGES)}")
    return code


def _is(detected: str, wanted: str) -> bool:
    return detected in (wanted, UNKNOWN) or (wanted == "zh" and detected.startswith("zh-"))


@spec
class ResponseLanguage:
    """The answer is in one language, by langdetect's likeliest one."""

    language: Annotated[str, AfterValidator(_known)]
    """ISO 639-1 code, such as `de`; `zh` is either Chinese."""

    def check(self, text: str) -> Finding:
        """Measures the code."""
        detected, name = language(text), LANGUAGES[self.language]
        if _is(detected, self.language):
            return met(detected, name)
        other = LANGUAGES.get(detected, detected)
        return unmet(detected, name, f"The answer reads as {other} where {name} is asked for: write all of it in {name}.")

    def told(self) -> str:
        """The demand as a sentence."""
        return f"Write the whole answer in {LANGUAGES[self.language]}."


def _cased(text: str, upper: bool) -> Finding:
    """All letters of one case, at least one, and English."""
    target = f"English in {'capital' if upper else 'lowercase'} letters only"
    wrong = [i for i, c in enumerate(text) if (c.islower() if upper else c.isupper()) or (c.istitle() and not c.isupper())]
    right = not wrong and any(c.isupper() if upper else c.islower() for c in text)
    detected = language(text) if right else None
    measured = {"wrong_case": len(wrong), "language": detected}
    if detected is not None and _is(detected, "en"):
        return met(measured, target)
    case = "capital" if upper else "lowercase"
    if wrong:
        first = text[wrong[0]]
        said = f'{len(wrong)} letters are not {case}, the first is "{first}": change them'
    elif not right:
        said = f"There is no {case} letter: write words"
    else:
        other = LANGUAGES.get(str(detected), detected)
        said = f"The answer reads as {other} where English is asked for: use plain English sentences"
    return unmet(measured, target, f"{said}.", max(len(wrong), 1), (wrong[0], wrong[0] + 1) if wrong else None)


@spec
class EnglishCapital:
    """The answer is in English and all in capital letters."""

    def check(self, text: str) -> Finding:
        """Measures letters of the other case, and the language."""
        return _cased(text, upper=True)

    def told(self) -> str:
        """The demand as a sentence."""
        return "Write in English and in capital letters only."

    def repair(self, text: str) -> str | None:
        """All in capitals, where that reads as English."""
        return kept(self, text, text.upper())


@spec
class EnglishLowercase:
    """The answer is in English and all in lowercase letters."""

    def check(self, text: str) -> Finding:
        """Measures letters of the other case, and the language."""
        return _cased(text, upper=False)

    def told(self) -> str:
        """The demand as a sentence."""
        return "Write in English and in lowercase letters only."

    def repair(self, text: str) -> str | None:
        """All in small letters, where that reads as English."""
        return kept(self, text, text.lower())


@spec
class CapitalWordFrequency(Counted):
    """How many words are all in capitals."""

    unit: ClassVar[tuple[str, str]] = ("word all in capitals", "words all in capitals")
    frequency: Natural
    """How many."""
    relation: Relation
    """How the count is compared with it."""

    def found(self, text: str) -> Sequence[Span]:
        """Treebank tokens whose letters are all capital."""
        return [(a, b) for a, b in tokens(text) if text[a:b].isupper()]

    def bound(self) -> tuple[Relation, int]:
        """How many are asked for."""
        return self.relation, self.frequency


@spec
class NoComma(Counted):
    """No comma anywhere."""

    unit: ClassVar[tuple[str, str]] = ("comma", "commas")

    def found(self, text: str) -> Sequence[Span]:
        """Each comma."""
        return [comma.span() for comma in re.finditer(",", text)]

    def bound(self) -> tuple[Literal["exactly"], int]:
        """None."""
        return "exactly", 0

    def target(self) -> str:
        """In words."""
        return "no commas"

    def told(self) -> str:
        """The demand as a sentence."""
        return "Do not use any commas."

    def repair(self, text: str) -> str | None:
        """Takes commas away; one between two words becomes a space, one in a number nothing."""
        return kept(self, text, re.sub(r"(?<=\w),(?=[^\W\d])|(?<=[^\W\d]),(?=\w)", " ", text).replace(",", ""))
