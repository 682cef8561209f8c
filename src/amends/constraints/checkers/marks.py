"""Marks in the text: placeholders, bullets, highlights, numbered sections, a title, a postscript.

IFEval's traps, kept: a markdown link counts as a placeholder, a rule `---` as a bullet, a stray pair of asterisks as a
highlight, and a postscript may stand anywhere. Its patterns take time in the square of a text of nothing but blank lines or
brackets; these find the same and read each line once. Section words and markers are taken literally.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import ClassVar

from amends.constraints.constraint import Finding, Span
from amends.constraints.counted import Counted, Phrase, Relation, kept, met, quoted, unmet
from amends.core.spec import Natural, spec


@spec
class NumberPlaceholders(Counted):
    """At least so many placeholders in square brackets, such as [address]."""

    unit: ClassVar[tuple[str, str]] = ("placeholder in square brackets", "placeholders in square brackets")
    num_placeholders: Natural
    """How many."""

    def found(self, text: str) -> Sequence[Span]:
        """From each `[` to the next `]` of its line."""
        spans, start = [], 0
        for line in text.split("\n"):
            opened = line.find("[")
            while opened >= 0 and (closed := line.find("]", opened)) >= 0:
                spans.append((start + opened, start + closed + 1))
                opened = line.find("[", closed)
            start += len(line) + 1
        return spans

    def bound(self) -> tuple[Relation, int]:
        """How many are asked for."""
        return "at least", self.num_placeholders


_OTHER_BULLETS = re.compile(r"^([^\S\n]*)[•◦‣+–·](?=\s)", re.MULTILINE)
_RULES = re.compile(r"^[^\S\n]*-(?:[^\S\n]*-){2,}[^\S\n]*$\n?", re.MULTILINE)


@spec
class NumberBulletLists(Counted):
    """Exactly so many bullet points: lines that begin with `* ` or `-`."""

    unit: ClassVar[tuple[str, str]] = ("bullet point", "bullet points")
    num_bullets: Natural
    """How many."""

    def found(self, text: str) -> Sequence[Span]:
        """Each line that begins so; `**bold**` is none, `---` is one."""
        stars = re.finditer(r"^[^\S\n]*\*[^*].*$", text, re.MULTILINE)
        dashes = re.finditer(r"^[^\S\n]*-.*$", text, re.MULTILINE)
        return sorted(line.span() for lines in (stars, dashes) for line in lines)

    def bound(self) -> tuple[Relation, int]:
        """How many are asked for."""
        return "exactly", self.num_bullets

    def repair(self, text: str) -> str | None:
        """Writes other bullets (`•`, `+`) as `*`, takes away rules `---`, or both, where that makes the number."""
        starred, unruled = _OTHER_BULLETS.sub(r"\1*", text), _RULES.sub("", text)
        return kept(self, text, starred, unruled, _OTHER_BULLETS.sub(r"\1*", unruled))


@spec
class NumberHighlightedSections(Counted):
    """At least so many stretches in markdown's `*emphasis*` or `**strong emphasis**`, each on one line."""

    unit: ClassVar[tuple[str, str]] = ("highlighted section, *such as this*", "highlighted sections, *such as this*")
    num_highlights: Natural
    """How many."""

    def found(self, text: str) -> Sequence[Span]:
        """Each pair of asterisks with something between."""
        once = [found.span() for found in re.finditer(r"\*[^\n*]*\*", text) if found.group().strip("*").strip()]
        twice = [found.span() for found in re.finditer(r"\*\*[^\n*]*\*\*", text) if found.group()[2:-2].strip()]
        return sorted([*once, *twice])

    def bound(self) -> tuple[Relation, int]:
        """How many are asked for."""
        return "at least", self.num_highlights


@spec
class MultipleSections(Counted):
    """At least so many sections, each headed by a word and a number: `Section 1`."""

    section_splitter: Phrase
    """The word, in this case: `Section`, `SECTION`, `Day`."""
    num_sections: Natural
    """How many."""

    def found(self, text: str) -> Sequence[Span]:
        """Each heading; only Arabic digits count."""
        return [found.span() for found in re.finditer(rf"\s?{re.escape(self.section_splitter.strip())}\s?\d+\s?", text)]

    def bound(self) -> tuple[Relation, int]:
        """How many are asked for."""
        return "at least", self.num_sections

    def units(self) -> tuple[str, str]:
        """With the heading's word."""
        word = self.section_splitter.strip()
        return f'section headed "{word} 1"', f'sections headed "{word} 1", "{word} 2" and so on'

    def of(self) -> tuple[str, ...]:
        """Sections of this word."""
        return ("section", self.section_splitter.strip())


def _titles(text: str) -> list[Span]:
    """Each `<<...>>` with something in it: of a line, from the first `<<` to the last `>>`."""
    spans, start = [], 0
    for line in text.split("\n"):
        a, b = line.find("<<"), line.rfind(">>")
        if 0 <= a < b - 2 and line[a : b + 2].lstrip("<").rstrip(">").strip():
            spans.append((start + a, start + b + 2))
        start += len(line) + 1
    return spans


_HEADING = re.compile(
    r"\A\s*(?:#+[^\S\n]*(?P<hash>[^\n]+?)[^\S\n]*#*|\*\*(?P<bold>[^\n*]+)\*\*|(?P<plain>[^\n]{1,80}))[^\S\n]*(?=\n)"
)


@spec
class Title:
    """A title in double angular brackets on one line: <<poem of joy>>."""

    def check(self, text: str) -> Finding:
        """Measures the first title."""
        target = "a title such as <<poem of joy>>"
        titles = _titles(text)
        if titles:
            return met(text[slice(*titles[0])][:200], target)
        return unmet(None, target, "The answer has no title in double angular brackets: put one on a line, <<such as this>>.")

    def told(self) -> str:
        """The demand as a sentence."""
        return "Give the answer a title in double angular brackets, <<such as this>>."

    def repair(self, text: str) -> str | None:
        """Puts brackets around a first line that is a heading: marked as one, or short, without a full stop, blank below."""
        heading = _HEADING.match(text)
        if heading is None:
            return kept(self, text)
        words = heading["hash"] or heading["bold"] or heading["plain"].strip()
        marked = heading["plain"] is None
        alone = text[heading.end() :].startswith("\n\n") and words[-1:] not in ".,;:!?" and len(words.split()) <= 12
        return kept(self, text, f"<<{words.strip()}>>{text[heading.end() :]}" if marked or alone else None)


def _postscript(marker: str) -> re.Pattern[str]:
    letters = re.sub(r"[.\s]", "", marker).lower()
    known = {"ps": r"[pP]\.\s?[sS]\.", "pps": r"[pP]\.\s?[pP]\.\s?[sS]"}
    return re.compile(known.get(letters, re.escape(marker.strip().lower())))


@spec
class Postscript:
    """A postscript that begins with a marker, `P.S.` or `P.P.S`, anywhere in the answer."""

    marker: Phrase
    """What it begins with; spaces between the letters and their case do not matter."""

    def check(self, text: str) -> Finding:
        """Measures whether the marker is there."""
        target = f"a postscript that begins with {quoted([self.marker])}"
        if _postscript(self.marker).search(text) or _postscript(self.marker).search(text.lower()):
            return met(True, target)
        feedback = f"The answer has no postscript: add one at the end that begins with {quoted([self.marker])}."
        return unmet(False, target, feedback)

    def told(self) -> str:
        """The demand as a sentence."""
        return f"Add a postscript at the end that begins with {quoted([self.marker])}."

    def repair(self, text: str) -> str | None:
        """Corrects a marker at a line's start that is spelt differently (`PS:`); no postscript is made up."""
        letters = re.sub(r"[.\s]", "", self.marker).lower()
        if letters not in ("ps", "pps"):
            return kept(self, text)
        loose = r"^([^\S\n]*)" + r"\.?[^\S\n]?".join(letters) + r"[.:][.:]?(?=\s)"
        fixed = re.sub(loose, lambda found: found[1] + self.marker.strip(), text, flags=re.MULTILINE | re.IGNORECASE)
        return kept(self, text, fixed)
