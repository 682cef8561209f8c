"""What an answer is as a whole: JSON, one of three sentences, two answers, or whatever a pattern says.

IFEval's traps, kept: a bare number or string is JSON, and the three sentences may stand in others.
"""

from __future__ import annotations

import json
import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator

from amends.constraints.constraint import Finding, Span
from amends.constraints.counted import kept, met, number_of, quoted, unmet
from amends.constraints.text import needs
from amends.core.spec import spec

_FENCES = ("```json", "```Json", "```JSON", "```")


def unfenced(text: str) -> str:
    """The text without a code fence around it."""
    text = text.strip()
    for fence in _FENCES:
        text = text.removeprefix(fence)
    return text.removesuffix("```").strip()


@spec
class JsonFormat:
    """The whole answer is JSON, perhaps inside one code fence."""

    def check(self, text: str) -> Finding:
        """Measures whether it can be read, and where reading ends."""
        inner = unfenced(text)
        try:
            json.loads(inner)
        except json.JSONDecodeError as error:
            return self._unread(f"{error.msg} in line {error.lineno}, column {error.colno}", text, inner, error.pos)
        except (ValueError, RecursionError):
            return self._unread("it is nested too deeply or has a number too long", text, inner, 0)
        return met(True, "JSON")

    def _unread(self, why: str, text: str, inner: str, place: int) -> Finding:
        start = text.find(inner) + place
        span = (start, start + 1) if start < len(text) else None
        return unmet(False, "JSON", f"The answer is not JSON ({why}): answer with one JSON value and nothing else.", span=span)

    def told(self) -> str:
        """The demand as a sentence."""
        return "Answer with JSON and nothing else."

    def repair(self, text: str) -> str | None:
        """Takes away what stands around the only code fence, or around the outermost braces."""
        fenced = re.findall(r"```(?:json)?[^\S\n]*\n(.*?)```", text, re.DOTALL | re.IGNORECASE)
        braces = re.search(r"\{.*\}", text, re.DOTALL)
        return kept(self, text, fenced[0].strip() if len(fenced) == 1 else None, braces.group() if braces else None)


_ANSWERS = ("My answer is yes.", "My answer is no.", "My answer is maybe.")


@spec
class ConstrainedResponse:
    """One of `My answer is yes.`, `My answer is no.` and `My answer is maybe.` stands in the answer."""

    def check(self, text: str) -> Finding:
        """Measures which one."""
        there = [answer for answer in _ANSWERS if answer in text]
        target = f"one of {quoted(_ANSWERS)}"
        if there:
            return met(there[0], target)
        return unmet(None, target, f"The answer holds none of the sentences allowed: answer with one of {quoted(_ANSWERS)}.")

    def told(self) -> str:
        """The demand as a sentence."""
        return f"Answer with one of {quoted(_ANSWERS)}."

    def repair(self, text: str) -> str | None:
        """Spells the one sentence that is there as it should be; makes a sentence of a bare yes, no or maybe."""
        there = list(re.finditer(r"my answer is[:\s]+[\"'*]*(yes|no|maybe)\b[\"'*]*[.!]?", text, re.IGNORECASE))
        if len({found[1].lower() for found in there}) == 1:
            a, b = there[0].span()
            return kept(self, text, f"{text[:a]}My answer is {there[0][1].lower()}.{text[b:]}")
        bare = re.fullmatch(r"\W*(yes|no|maybe)\W*", text, re.IGNORECASE)
        return kept(self, text, f"My answer is {bare[1].lower()}." if bare else None)


def _responses(text: str) -> tuple[list[str], bool]:
    pieces = text.split("******")
    return [piece.strip() for piece in pieces if piece.strip()], any(not piece.strip() for piece in pieces[1:-1])


@spec
class TwoResponses:
    """Two different answers, divided by six asterisks."""

    def check(self, text: str) -> Finding:
        """Counts the answers; between two dividers something has to stand."""
        answers, empty = _responses(text)
        target = "two different answers divided by ******"
        if len(answers) == 2 and not empty and answers[0] != answers[1]:
            return met(2, target)
        same = "twice the same answer" if len(answers) == 2 and answers[0] == answers[1] else ""
        said = same or number_of(len(answers), ("answer", "answers")) + " and two dividers with nothing between" * empty
        feedback = f"There is {said}: write two different answers with one line ****** between them."
        return unmet(len(answers), target, feedback, max(abs(len(answers) - 2), 1))

    def told(self) -> str:
        """The demand as a sentence."""
        return "Give two different answers, divided by a line ******."

    def repair(self, text: str) -> str | None:
        """Writes the only divider (a line of asterisks, dashes or equals signs) as asked; of more answers keeps two."""
        answers, _ = _responses(text)
        drawn = re.split(r"^[^\S\n]*(?:\*(?:[^\S\n]?\*){2,}|-{3,}|={3,})[^\S\n]*$", text.strip(), flags=re.MULTILINE)
        parts = [part.strip() for part in drawn if part.strip()]
        return kept(
            self, text, "\n\n******\n\n".join(answers[:2]), "\n\n******\n\n".join(parts) if len(parts) == 2 else None
        )  # fmt: skip


def _regex() -> Any:
    try:
        import regex
    except ImportError:
        raise needs("regex") from None
    return regex


def _compiles(pattern: str) -> str:
    regex = _regex()
    try:
        regex.compile(pattern)
    except (regex.error, RecursionError) as error:
        raise ValueError(f"is no regular expression ({error})") from None
    return pattern


PATIENCE = 2.0
"""Seconds of computing after which a pattern is given up; an ordinary one takes thousandths."""


@spec
class Matches:
    """A regular expression is found in the answer, or matches all of it."""

    pattern: Annotated[str, AfterValidator(_compiles)]
    """The expression; `^` and `$` are a line's ends."""
    where: Literal["anywhere", "whole"] = "anywhere"
    """Whether it has to match the whole answer, blank ends aside."""

    def check(self, text: str) -> Finding:
        """Measures what was matched. A pattern that backtracks for too long is not met, and the feedback says so."""
        span, late = self._search(text)
        target = f"{'text' if self.where == 'anywhere' else 'all text'} that matches /{self.pattern}/"
        if span is not None:
            return met(text[span[0] : span[1]][:200], target)
        if late:
            feedback = f"The pattern /{self.pattern}/ takes too long on this answer: write it without nested repeats."
        else:
            feedback = f"The answer does not match the pattern /{self.pattern}/: write it so that it does."
        return unmet(None, target, feedback)

    def _search(self, text: str) -> tuple[Span | None, bool]:
        regex = _regex()
        try:
            compiled = regex.compile(self.pattern, regex.MULTILINE)
            how = compiled.search if self.where == "anywhere" else compiled.fullmatch
            found = how(text if self.where == "anywhere" else text.strip(), timeout=PATIENCE)
        except TimeoutError:
            return None, True
        if found is None:
            return None, False
        start = 0 if self.where == "anywhere" else len(text) - len(text.lstrip())
        return (found.start() + start, found.end() + start), False

    def told(self) -> str:
        """The demand as a sentence."""
        return f"Write {'something' if self.where == 'anywhere' else 'the whole answer so'} that matches /{self.pattern}/."
