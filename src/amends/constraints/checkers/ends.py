"""How an answer begins and how it ends.

As in IFEval, case does not matter, blank ends do not count, and quotation marks may stand behind the last phrase.
"""

from __future__ import annotations

import re

from amends.constraints.constraint import Finding
from amends.constraints.counted import Phrase, kept, met, quoted, unmet
from amends.core.spec import spec


def _agree(text: str, start: str) -> int:
    """How many characters at the front are equal, whatever the case; of lower-cased texts."""
    return next((i for i, (a, b) in enumerate(zip(text, start, strict=False)) if a != b), min(len(text), len(start)))


def _begins(text: str, start: str, what: str) -> Finding:
    wanted = start.strip().lower()
    same = _agree(text.strip().lower(), wanted)
    target = f"to begin with {what}"
    if same == len(wanted):
        return met(same, target)
    place = min(len(text) - len(text.lstrip()) + same, len(text))
    begin = f"departs from it behind {same} of {len(wanted)} characters" if same else "begins with something else"
    feedback = f"The answer is {target} and {begin}: put {quoted([start.strip()])} at the very beginning, unchanged."
    return unmet(same, target, feedback, len(wanted) - same, (place, min(place + 1, len(text))))


@spec
class RepeatPrompt:
    """The answer begins with the request, word for word, whatever the case."""

    prompt_to_repeat: Phrase
    """What it begins with."""

    def check(self, text: str) -> Finding:
        """Measures for how many characters it agrees."""
        return _begins(text, self.prompt_to_repeat, "the request word for word")

    def told(self) -> str:
        """The demand as a sentence."""
        return f"First repeat the request word for word ({quoted([self.prompt_to_repeat.strip()])}), then answer."

    def repair(self, text: str) -> str | None:
        """Puts the request in front, in place of one that differs in quotation marks, asterisks or spaces alone."""
        prompt = self.prompt_to_repeat.strip()
        junk = r"[\s\"'“”‘’*>#_]*"
        near = re.match(junk + r"\s+".join(map(re.escape, prompt.split())) + junk, text, re.IGNORECASE)
        rest = text[near.end() :] if near else text
        return kept(self, text, f"{prompt}\n\n{rest.strip()}".strip())


@spec
class StartsWith:
    """The answer begins with a phrase, whatever the case."""

    start: Phrase
    """What it begins with."""

    def check(self, text: str) -> Finding:
        """Measures for how many characters it agrees."""
        return _begins(text, self.start, quoted([self.start.strip()]))

    def told(self) -> str:
        """The demand as a sentence."""
        return f"Begin with {quoted([self.start.strip()])}."

    def repair(self, text: str) -> str | None:
        """Puts the phrase in front."""
        return kept(self, text, f"{self.start.strip()} {text.strip()}".strip())


@spec
class EndChecker:
    """The answer ends with a phrase, whatever the case; quotation marks may stand behind it."""

    end_phrase: Phrase
    """What it ends with."""

    def check(self, text: str) -> Finding:
        """Measures how the answer ends."""
        phrase = self.end_phrase.strip()
        ending = text.strip().strip('"')
        target = f"to end with {quoted([phrase])}"
        last = ending[-len(phrase) :]
        if ending.lower().endswith(phrase.lower()):
            return met(last, target)
        end = text.rfind(last) + len(last) if last else len(text)
        feedback = f"The answer ends with {quoted([last[-60:]])}: end with {quoted([phrase])} and let nothing follow."
        return unmet(last, target, feedback, span=(max(end - len(last), 0), end))

    def told(self) -> str:
        """The demand as a sentence."""
        return f"End with {quoted([self.end_phrase.strip()])} and let nothing follow."

    def repair(self, text: str) -> str | None:
        """Takes away marks behind the phrase, or adds the phrase: before a closing quotation mark if one opens the answer."""
        phrase, body = self.end_phrase.strip(), text.strip()
        cut = re.search(rf"{re.escape(phrase)}\W{{0,8}}\Z", body, re.IGNORECASE)
        closing = '"' if len(body) > 1 and body[0] == body[-1] == '"' else ""
        shorter = f"{body[: cut.start() + len(phrase)]}{closing}" if cut else None
        longer = f"{body[:-1].rstrip() if closing else body}\n\n{phrase}{closing}".strip()
        return kept(self, text, shorter, longer)


@spec
class Quotation:
    """The whole answer stands in straight double quotation marks."""

    def check(self, text: str) -> Finding:
        """Measures the first and the last character."""
        body = text.strip()
        target = 'to begin and end with "'
        ends = [body[:1], body[-1:]]
        if len(body) > 1 and ends == ['"', '"']:
            return met(ends, target)
        missing = sum(end != '"' for end in ends) or 1
        feedback = (
            f'The answer begins with {ends[0] or "nothing"} and ends with {ends[1] or "nothing"}: put " around the whole of it.'
        )
        return unmet(ends, target, feedback, missing)

    def told(self) -> str:
        """The demand as a sentence."""
        return 'Put the whole answer in double quotation marks, "like this".'

    def repair(self, text: str) -> str | None:
        """Puts marks around, in place of curly ones that are there."""
        body = text.strip()
        if body[:1] + body[-1:] == "“”":
            body = body[1:-1]
        elif body[:1] == '"' and body.count('"') == 1:
            body = body[1:]
        return kept(self, text, f'"{body}"')
