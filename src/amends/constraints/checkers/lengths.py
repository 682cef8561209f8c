"""How long an answer is, in sentences, words, characters, lines or paragraphs.

IFEval's traps, kept: a word is a run of letters, digits and underscores, so that "don't" is two; a list without full stops is
one sentence; paragraphs of NumberParagraphs stand between dividers `***`, those of NthParagraphFirstWord between blank lines.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import ClassVar

from amends.constraints.constraint import Finding, Span
from amends.constraints.counted import Counted, Phrase, Relation, kept, met, number_of, quoted, unmet
from amends.constraints.text import sentences
from amends.core.spec import Count, Natural, spec


@spec
class NumberSentences(Counted):
    """How many sentences the answer has, by the Punkt model for English."""

    unit: ClassVar[tuple[str, str]] = ("sentence", "sentences")
    num_sentences: Natural
    """How many."""
    relation: Relation
    """How the count is compared with it."""

    def found(self, text: str) -> Sequence[Span]:
        """Where each stands."""
        return sentences(text)

    def bound(self) -> tuple[Relation, int]:
        """How many are asked for."""
        return self.relation, self.num_sentences


@spec
class NumberWords(Counted):
    """How many words the answer has: runs of letters, digits and underscores."""

    unit: ClassVar[tuple[str, str]] = ("word", "words")
    num_words: Natural
    """How many."""
    relation: Relation
    """How the count is compared with it."""

    def found(self, text: str) -> Sequence[Span]:
        """Where each stands."""
        return [word.span() for word in re.finditer(r"\w+", text)]

    def bound(self) -> tuple[Relation, int]:
        """How many are asked for."""
        return self.relation, self.num_words


@spec
class NumberCharacters(Counted):
    """How many characters the answer has, spaces included, blank ends not."""

    unit: ClassVar[tuple[str, str]] = ("character", "characters")
    num_characters: Natural
    """How many."""
    relation: Relation
    """How the count is compared with it."""

    def found(self, text: str) -> Sequence[Span]:
        """Each character's place."""
        start = len(text) - len(text.lstrip())
        return [(i, i + 1) for i in range(start, start + len(text.strip()))]

    def bound(self) -> tuple[Relation, int]:
        """How many are asked for."""
        return self.relation, self.num_characters


@spec
class NumberLines(Counted):
    """How many lines the answer has, blank ones not counted."""

    unit: ClassVar[tuple[str, str]] = ("line", "lines")
    num_lines: Natural
    """How many."""
    relation: Relation
    """How the count is compared with it."""

    def found(self, text: str) -> Sequence[Span]:
        """Where each stands."""
        return [line.span() for line in re.finditer(r"[^\n]+", text) if line.group().strip()]

    def bound(self) -> tuple[Relation, int]:
        """How many are asked for."""
        return self.relation, self.num_lines


_DIVIDER = re.compile(r"\s?\*\*\*\s?")


def divided(text: str) -> tuple[list[Span], list[Span]]:
    """The paragraphs between dividers `***`, and the empty pieces that do not stand at an end."""
    edges = [0, *(place for found in _DIVIDER.finditer(text) for place in found.span()), len(text)]
    pieces = list(zip(edges[::2], edges[1::2], strict=True))
    full = [(a, b) for a, b in pieces if text[a:b].strip()]
    return full, [(a, b) for a, b in pieces[1:-1] if not text[a:b].strip()]


@spec
class NumberParagraphs:
    """Exactly so many paragraphs, divided by `***`; between two dividers something has to stand."""

    num_paragraphs: Natural
    """How many."""

    def check(self, text: str) -> Finding:
        """Counts pieces between dividers."""
        full, empty = divided(text)
        target = f"exactly {number_of(self.num_paragraphs, ('paragraph', 'paragraphs'))}, divided by ***"
        wrong = len(full) - self.num_paragraphs
        if not wrong and not empty:
            return met(len(full), target)
        told = [
            f"{number_of(len(full), ('paragraph', 'paragraphs'))} where exactly {self.num_paragraphs} are asked for"
        ] * bool(wrong)
        told += [f"{number_of(len(empty), ('pair', 'pairs'))} of dividers with nothing between"] * bool(empty)
        feedback = f"The answer has {' and '.join(told)}: put the divider *** between paragraphs, and only there."
        span = full[self.num_paragraphs] if wrong > 0 else (empty[0] if empty else None)
        return unmet(len(full), target, feedback, abs(wrong) + len(empty), span)

    def told(self) -> str:
        """The demand as a sentence."""
        return f"Write exactly {number_of(self.num_paragraphs, ('paragraph', 'paragraphs'))}, divided by ***."

    def repair(self, text: str) -> str | None:
        """Puts dividers in place of blank lines where those make as many paragraphs; merges dividers that stand together."""
        full, _ = divided(text)
        parts = [text[a:b].strip() for a, b in full]
        blank = [part for part in re.split(r"\n\s*\n", text.strip()) if part.strip()] if "***" not in text else []
        return kept(self, text, "\n\n***\n\n".join(parts), "\n\n***\n\n".join(blank))


_CUT = re.compile(r"[.,?!'\"]")


def first_word(paragraph: str) -> str:
    """The first word without quotation marks before and punctuation behind, in lower case."""
    words = paragraph.split()
    return _CUT.split(words[0].lstrip("'").lstrip('"'))[0].lower() if words else ""


@spec
class NthParagraphFirstWord:
    """So many paragraphs with blank lines between, and one of them begins with a word."""

    num_paragraphs: Count
    """How many paragraphs."""
    nth_paragraph: Count
    """Which one, from 1."""
    first_word: Phrase
    """Its first word."""

    def check(self, text: str) -> Finding:
        """Measures the number of paragraphs and the first word."""
        full, nth = self._paragraphs(text)
        word = first_word(text[nth[0] : nth[1]]) if nth else ""
        wrong, other = abs(full - self.num_paragraphs), word != first_word(self.first_word)
        measured = {"paragraphs": full, "first_word": word}
        if not wrong and not other:
            return met(measured, self._target())
        said = [
            f"The answer has {number_of(full, ('paragraph', 'paragraphs'))} where {self.num_paragraphs} are asked for"
        ] * bool(wrong)
        begin = f"begins with {quoted([word])}" if word else "has no first word"
        said += [f"paragraph {self.nth_paragraph} {begin} where {quoted([self.first_word])} is asked for"] * other
        feedback = f"{', and '.join(said)}: put one blank line between paragraphs and mind the first word."
        return unmet(measured, self._target(), feedback[0].upper() + feedback[1:], wrong + other, nth if other else None)

    def _paragraphs(self, text: str) -> tuple[int, Span | None]:
        """How many are not blank, and where the nth piece stands, blank ones counted: both as IFEval does."""
        edges = [0, *(place for found in re.finditer(r"\n\n", text) for place in found.span()), len(text)]
        pieces = list(zip(edges[::2], edges[1::2], strict=True))
        full = sum(bool(text[a:b].strip()) for a, b in pieces)
        if self.nth_paragraph > full:
            return full, None
        a, b = pieces[self.nth_paragraph - 1]
        return full, (a, b) if text[a:b].strip() else None

    def _target(self) -> str:
        return f"{self.num_paragraphs} paragraphs, number {self.nth_paragraph} beginning with {quoted([self.first_word])}"

    def told(self) -> str:
        """The demand as a sentence."""
        return f"Write {self._target()}; put one blank line between paragraphs."
