"""The refiner: what it is told, and what of its reply is the answer.

It sees the request, the version at hand, the violated constraints alone with what was measured ("213 words; fewer than 150
asked for"), and the constraints that hold, to be left alone. Its reply is cleaned only where that is safe: a preface such
as "Here is the revised answer:" that the request does not ask for, and a code fence round the whole reply that the version
before it did not have. A person's answer is never shortened on a guess. A reply that recites what was sent with the answer,
the order and the list of constraints, is no answer: small models hand it back, and "no commas" may well hold for it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from amends.chat.client import Message
from amends.constraints.constraint import Constraint, Request, Verdict
from amends.refine.frame import data_note, delimiter, fenced

_PREFACE = re.compile(
    r"^\W*(?:(?:sure|certainly|of course|absolutely|okay|ok)\b[,.!:]*\s*)?"
    r"(?:(?:here(?:'s| is| are)|below is|this is)\b[^\n]{0,60}\b(?:answer|version|response|text|revision|rewrite)\b[^\n]{0,60}"
    r"|(?:the )?(?:revised|rewritten|new|improved|updated|corrected|final)"
    r"(?: and (?:improved|final))? (?:answer|version|response|text))\s*[*_]*:[*_]*\s*$",
    re.I,
)
_THINK = re.compile(r"^\s*<think(?:ing)?>.*?</think(?:ing)?>\s*", re.S | re.I)
_FENCE = re.compile(r"^\s*```[\w+-]*[ \t]*\n(.*?)\n?```\s*$", re.S)


def rewrite_messages(
    request: Request, text: str, violated: Sequence[tuple[Constraint, Verdict]], kept: Sequence[Constraint],
    tried: Sequence[str] = (),
) -> list[Message]:  # fmt: skip
    """The refiner's prompt; `tried` says of earlier rewrites of the same version what they broke."""
    parts = [
        "Mend an answer to the request below. It breaks some constraints of the request; change what has to be changed for "
        "them, and nothing else.",
        f"Request:\n{fenced(request.prompt)}",
        data_note(text),
        f"Current answer:\n{fenced(text)}",
        "Broken constraints:\n" + "\n".join(f"- {_line(c, v)}" for c, v in violated),
    ]
    if kept:
        parts.append("Constraints that hold and must go on holding:\n" + "\n".join(f"- {c.text}" for c in kept))
    if tried:
        parts.append("Rewrites that did not help:\n" + "\n".join(f"- {t}" for t in tried))
    parts.append(
        "The answer must still do what the request asks for, at the same depth; leave nothing of substance out. Return the "
        "whole mended answer and nothing else: no preface, no remarks on what was changed, no delimiter lines."
    )
    return [Message("user", "\n\n".join(parts))]


def _line(constraint: Constraint, verdict: Verdict) -> str:
    """The demand, why it is broken, and the numbers where the reason does not name them."""
    reason = " ".join(verdict.reason.split())
    numbers = ""
    if verdict.target and verdict.measured is not None and str(verdict.measured) not in reason:
        numbers = f" (found: {verdict.measured}; asked: {verdict.target})"
    return f"{constraint.text}{' - ' + reason if reason else ''}{numbers}"


RECITED = 0.5
"""Share of a reply's word 4-grams that were sent to the model, from which it is no answer."""


def answer_in(reply: str, sent: Sequence[Message], before: str, request: Request, *known: str) -> str:
    """What of a reply is the answer; empty where it recites what was sent. `known`: texts that an answer may well repeat."""
    text = cleaned(reply, before, request)
    return "" if recites(text, sent, request.prompt, before, *known) else text


def recites(text: str, sent: Sequence[Message], *known: str) -> bool:
    """Whether a reply is mostly what was sent to the model, apart from texts that an answer may well repeat.

    >>> order = [Message("user", "Mend this answer, and nothing else: It was late.")]
    >>> recites("Mend this answer and nothing else.", order), recites("It was late.", order, "It was late.")
    (True, False)
    """
    order = {gram for m in sent for gram in _grams(m.content)}.difference(*map(_grams, known))
    own = _grams(text)
    return bool(own) and sum(gram in order for gram in own) > RECITED * len(own)


def _grams(text: str, n: int = 4) -> list[tuple[str, ...]]:
    words = re.findall(r"\w+", text.lower())
    return [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]


def cleaned(reply: str, before: str, request: Request) -> str:
    """The answer inside a reply; `before` is the version it was made from."""
    text = _THINK.sub("", reply) if not _THINK.match(before) else reply
    line = delimiter(before)
    text = "\n".join(row for row in text.split("\n") if row.strip() != line) if line in text else text
    text = _without_preface(text, before, request)
    whole = _FENCE.match(text)
    if (
        whole
        and "```" not in whole[1]
        and "```" not in before
        and not re.search(r"```|code|fence|markdown", request.prompt, re.I)
    ):
        text = whole[1]
    return text.strip("\n").rstrip() if text.strip() else ""


def _without_preface(text: str, before: str, request: Request) -> str:
    first, _, rest = text.lstrip().partition("\n")
    known = first.strip().lower()
    if (
        rest.strip()
        and _PREFACE.match(first)
        and known not in before.lower()
        and known.rstrip(":") not in request.prompt.lower()
    ):
        return rest.lstrip("\n")
    return text
