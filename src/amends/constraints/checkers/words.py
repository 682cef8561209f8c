"""Words and letters that are asked for, counted or forbidden.

As in IFEval, keywords are found inside longer words (`rock` in "rocket") and forbidden words are not; case never matters.
Different from its code: words are taken literally, not as regular expressions (no word of its data has a sign of those), a
word's edge is where no letter follows rather than `\\b`, so that `C++` can be forbidden, and any character can be counted:
published code takes a letter other than a-z for a wish to draw one at random.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import Field

from amends.constraints.constraint import Finding, Span
from amends.constraints.counted import Counted, Phrase, Phrases, Relation, met, quoted, unmet
from amends.core.spec import Natural, spec


def anywhere(word: str, text: str) -> list[Span]:
    """Where a text stands, inside longer words too, whatever the case."""
    return [found.span() for found in re.finditer(re.escape(word), text, re.IGNORECASE)]


def whole(word: str, text: str) -> list[Span]:
    """Where a text stands with no letter, digit or underscore beside it, whatever the case."""
    return [found.span() for found in re.finditer(rf"(?<!\w){re.escape(word)}(?!\w)", text, re.IGNORECASE)]


@spec
class KeywordExistence:
    """Every one of some keywords stands somewhere, perhaps inside a longer word."""

    keywords: Phrases
    """What has to stand in the answer."""

    def check(self, text: str) -> Finding:
        """Measures which are there."""
        missing = [word for word in self.keywords if not anywhere(word, text)]
        there = [word for word in self.keywords if word not in missing]
        target = f"the keywords {quoted(self.keywords)}"
        if not missing:
            return met(there, target)
        return unmet(there, target, f"The answer lacks {quoted(missing)}: use each at least once.", len(missing))

    def told(self) -> str:
        """The demand as a sentence."""
        return f"Use the keywords {quoted(self.keywords)}."


@spec
class KeywordFrequency(Counted):
    """How often a keyword stands in the answer, inside longer words too."""

    keyword: Phrase
    """What is counted."""
    frequency: Natural
    """How often."""
    relation: Relation
    """How the count is compared with it."""

    def found(self, text: str) -> Sequence[Span]:
        """Where it stands."""
        return anywhere(self.keyword.strip(), text)

    def bound(self) -> tuple[Relation, int]:
        """How often is asked."""
        return self.relation, self.frequency

    def units(self) -> tuple[str, str]:
        """With the keyword."""
        word = quoted([self.keyword.strip()])
        return f"occurrence of {word}", f"occurrences of {word}"

    def of(self) -> tuple[str, ...]:
        """This keyword, whatever its case."""
        return ("keyword", self.keyword.strip().casefold())


@spec
class ForbiddenWords:
    """None of some words stands in the answer; inside longer words they may."""

    forbidden_words: Phrases
    """What may not stand there."""

    def check(self, text: str) -> Finding:
        """Measures which are there; the distance is how often."""
        places = {word: whole(word, text) for word in dict.fromkeys(self.forbidden_words)}
        there = [word for word, spans in places.items() if spans]
        target = f"none of {quoted(self.forbidden_words)}"
        if not there:
            return met(there, target)
        spans = sorted(span for found in places.values() for span in found)
        times = f"{len(spans)} time{'s' * (len(spans) > 1)}"
        return unmet(there, target, f"The answer uses {quoted(there)} ({times}): put other words there.", len(spans), spans[0])

    def told(self) -> str:
        """The demand as a sentence."""
        return f"Do not use the words {quoted(self.forbidden_words)}."


@spec
class LetterFrequency(Counted):
    """How often a character stands in the answer, capital or not."""

    letter: Annotated[str, Field(min_length=1, max_length=1)]
    """The character; a letter, or any other such as `#`."""
    frequency: Natural
    """How often."""
    relation: Relation
    """How the count is compared with it."""

    def found(self, text: str) -> Sequence[Span]:
        """Where it stands."""
        wanted = self.letter.lower()
        return [(i, i + 1) for i, character in enumerate(text) for _ in range(character.lower().count(wanted))]

    def bound(self) -> tuple[Relation, int]:
        """How often is asked."""
        return self.relation, self.frequency

    def units(self) -> tuple[str, str]:
        """With the letter."""
        return f'"{self.letter}"', f'times "{self.letter}"'

    def of(self) -> tuple[str, ...]:
        """This letter, whatever its case."""
        return ("letter", self.letter.lower())


@spec
class Mentions:
    """Some words or phrases stand in the answer as whole words: all of them, or any."""

    words: Phrases
    """What is to be mentioned."""
    how: Literal["all", "any"] = "all"
    """Whether each has to be there or one is enough."""

    def check(self, text: str) -> Finding:
        """Measures which are there."""
        missing = [word for word in self.words if not whole(word, text)]
        there = [word for word in self.words if word not in missing]
        target = f"{self.how} of {quoted(self.words)}"
        if not missing or (self.how == "any" and there):
            return met(there, target)
        which = "each" if self.how == "all" else "at least one"
        lack = len(missing) if self.how == "all" else 1
        return unmet(there, target, f"The answer does not mention {quoted(missing)}: mention {which} of them.", lack)

    def told(self) -> str:
        """The demand as a sentence."""
        return f"Mention {'all' if self.how == 'all' else 'at least one'} of {quoted(self.words)}."
