"""The demands of a request that are plain enough for code to find them: no model is asked, and nothing is invented.

A clause is a constraint if `refine/routing.py` has a checker for the whole of it; its text is the request's own wording. What
the rules are not sure of they leave out, so that a request may hold more than is found; `docs/refine.md` says how much. Quoted,
pasted and exemplary text is skipped (`refine/material.py`), and so are clauses about parts, others and conditions
(`refine/clauses.py`).
"""

from __future__ import annotations

import re
from typing import Any

from amends.chat.client import Client, Usage
from amends.constraints.constraint import Constraint, Request
from amends.core.errors import UserError
from amends.core.spec import build_use, spec
from amends.refine import routing
from amends.refine.clauses import Clause, clauses

_RANGE = re.compile(
    r"(?:(?:the answer )?(?:should|must|has to)? ?(?:use|write|be|have|contain|in|with|of|keep it to|keep it)? ?)?(?:between )?"
    r"(?P<low>\d[\d,]*|[a-z]+) ?(?:to|-|–|and) ?(?P<high>\d[\d,]*|[a-z]+) (?P<unit>words|sentences|characters|lines)(?: long)?",
    re.IGNORECASE,
)
_UNITS = {
    "words": ("number_words", "num_words"), "sentences": ("number_sentences", "num_sentences"),
    "characters": ("number_characters", "num_characters"), "lines": ("number_lines", "num_lines"),
}  # fmt: skip
_LENGTHS = frozenset(use for use, _ in _UNITS.values())
_VERBS = {
    "mentions": r"\b(?:include|mention|contain|use)\b",
    "forbidden_words": r"\b(?:not|don't|never|avoid|without|cannot)\b",
    "response_language": r"\b(?:answer|respond|reply|write|in)\b",
    "json_format": r"\b(?:answer|respond|reply|return|output|format|wrap\w*|only)\b",
    "english_capital": r"\b(?:letters?|all|only|in)\b",
    "english_lowercase": r"\b(?:letters?|all|only|in|lower ?-?case)\b",
}
"""What a clause has to say besides, where a bare phrase could be something else: "Spanish" in a list of languages."""
_PROGRAMS = frozenset(
    ("json_format", "english_capital", "english_lowercase", "mentions", "forbidden_words", "starts_with", "end_checker")
)
_STATED = re.compile(
    r"^(?:it|this|the answer) (?:starts|begins|opens|ends|finishes|contains|has|uses|consists|is)\b", re.IGNORECASE
)


@spec
class Plain:
    """Rules without a model take over the clauses of a request that a checker surely decides, in its own words."""

    always: bool = False
    """Whether the rules look even where the request comes with constraints, which are then set aside."""

    async def decompose(self, request: Request, client: Client) -> tuple[tuple[Constraint, ...], Usage, tuple[str, ...]]:
        """What the rules are sure of; the client is not asked."""
        if request.constraints and not self.always:
            return request.constraints, Usage(), ()
        return demands(request.prompt, request.context), Usage(), ()


def demands(prompt: str, context: str = "") -> tuple[Constraint, ...]:
    """The constraints `c1`, `c2`, ... that the rules are sure of; a request of any kind is read, none raises.

    >>> [c.text for c in demands("Write two sentences about tea. At most 60 words, no commas.")]
    ['Write two sentences', 'At most 60 words', 'no commas']
    """
    found: dict[Any, tuple[str, Any, str]] = {}
    for clause in clauses(prompt, context):
        for use, category in _uses(clause):
            try:
                checker = build_use("checkers", use, "constraint")
            except UserError:
                continue
            found.setdefault(checker, (clause.text, checker, category))
    if sum(type(checker).__name__ == "ResponseLanguage" for _, checker, _ in found.values()) > 1:
        found = {k: v for k, v in found.items() if type(k).__name__ != "ResponseLanguage"}  # a translation, or a lesson
    return tuple(
        Constraint(id=f"c{n}", text=text, checker=checker, category=category, depends_on=())
        for n, (text, checker, category) in enumerate(found.values(), 1)
    )


def _uses(clause: Clause) -> list[tuple[routing.Use, str]]:
    if _STATED.match(clause.said):
        return []
    if ranged := _ranged(clause):
        return ranged
    found = routing.plain(clause.said)
    if found is None:
        return []
    use = found[0]
    name = use["use"]
    if name in _VERBS and not re.search(_VERBS[name], clause.said.split('"')[0], re.IGNORECASE):
        return []
    if name in ("mentions", "forbidden_words") and re.search(
        r"\b(?:(?:key)?words|terms|phrases) [^\W_]\w*$", clause.said, re.IGNORECASE
    ):
        return []  # the first of several that were cut apart
    if clause.software and (name in _PROGRAMS or not clause.addressed):
        return []
    return [] if clause.several and name in _LENGTHS else [found]


def _ranged(clause: Clause) -> list[tuple[routing.Use, str]]:
    """Both ends of "120 to 150 words", which one checker cannot hold."""
    m = _RANGE.fullmatch(clause.said.strip())
    if m is None or clause.several or (clause.software and not clause.addressed):
        return []
    low, high = routing.number(m["low"]), routing.number(m["high"])
    if low is None or high is None or low >= high:
        return []
    use, key = _UNITS[m["unit"].lower()]
    return [({"use": use, key: n, "relation": r}, "length") for n, r in ((low, "at least"), (high, "at most"))]
