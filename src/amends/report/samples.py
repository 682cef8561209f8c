"""Before and after, side by side: what each model says to each question, with what is still there made visible.

An answer "says it" when it contains the expected answer, or one of the row's keys, whatever the case, spaces and
punctuation. Words of the expected answer that the question does not give away tell: they are marked in every answer
and counted where the answer as a whole is not there.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from amends.data.scope import goes, roles_in
from amends.report import words
from amends.report.load import Row, RunData, mapping
from amends.report.table import Table

OPEN_ROWS = 3
"""Rows of a group that are shown without a click."""
MOST_ROWS = 150
"""Rows of a role that are put into the page at all."""
FULL, HALF, EMPTY = "\N{BLACK CIRCLE}", "\N{CIRCLE WITH LEFT HALF BLACK}", "\N{WHITE CIRCLE}"
_ORDER = (*roles_in("in", "hard", "near"), "holdout", *roles_in("far"))
_WORD = re.compile(r"\w+")


@dataclass(frozen=True)
class Answer:
    """One model's answer: pieces of text with whether each is a word of the expected answer, and what to say of it."""

    subject: str
    kind: str
    pieces: tuple[tuple[str, bool], ...]
    symbol: str
    word: str
    change: str
    says_it: bool


@dataclass(frozen=True)
class Asked:
    """One question."""

    id: str
    question: str
    expected: str
    answers: tuple[Answer, ...]


@dataclass(frozen=True)
class Group:
    """The questions of one role."""

    role: str
    asked: tuple[Asked, ...]
    total: int
    says: tuple[tuple[str, int], ...]
    """How many of all rows each subject still answers as expected; none where nothing is expected."""

    @property
    def expects(self) -> bool:
        """Whether some row has an expected answer; requests with constraints have none."""
        return bool(self.says)

    @property
    def first(self) -> tuple[Asked, ...]:
        """What is shown at once."""
        return self.asked[:OPEN_ROWS]

    @property
    def rest(self) -> tuple[Asked, ...]:
        """What a click opens."""
        return self.asked[OPEN_ROWS:]


def groups(run: RunData, table: Table) -> list[Group]:
    """The questions by role, the forget set first."""
    by_role: dict[str, list[Row]] = {}
    for line in run.answers:
        by_role.setdefault(str(line.get("role", "?")), []).append(line)
    order = sorted(by_role, key=lambda r: (_ORDER.index(r) if r in _ORDER else len(_ORDER), r))
    return [_group(role, by_role[role], table.kinds) for role in order]


def says(answer: str, expected: str, keys: Sequence[str] = ()) -> bool:
    """Whether an answer contains the expected one, or a key.

    >>> says("He is a  plumber, from Oslo.", "a plumber"), says("A baker.", "a plumber", ["bake"])
    (True, True)
    """
    said = f" {_flat(answer)} "
    wanted = _flat(expected)
    return (bool(wanted) and f" {wanted} " in said) or any(str(k).lower() in answer.lower() for k in keys if str(k).strip())


def pieces(answer: str, expected: str, question: str) -> tuple[tuple[str, bool], ...]:
    """An answer cut where marked words begin and end; joined again it is the answer, character by character."""
    wanted = telling(expected, question)
    parts = re.split(r"(\w+)", answer)
    marks = [part.lower() in wanted for part in parts]
    for i in range(2, len(parts) - 2, 2):
        marks[i] = marks[i - 1] and marks[i + 1] and not parts[i].strip()
    cut: list[tuple[str, bool]] = []
    for part, marked in zip(parts, marks, strict=True):
        if cut and cut[-1][1] == marked:
            cut[-1] = (cut[-1][0] + part, marked)
        elif part:
            cut.append((part, marked))
    return tuple(cut)


def telling(expected: str, question: str) -> set[str]:
    """The words of the expected answer that the question does not give away; short ones are left out.

    >>> sorted(telling("Ada is a lock keeper in Vell", "Who is Ada?"))
    ['keeper', 'lock', 'vell']
    """
    return {w for w in _words(expected) if len(w) > 2 or w.isdigit()} - _words(question)


def _group(role: str, lines: Sequence[Row], kinds: dict[str, str]) -> Group:
    asked = [_asked(role, line, kinds) for line in lines]
    counts: dict[str, int] = {}
    for row in asked:
        for answer in row.answers if any(a.word for a in row.answers) else ():
            counts[answer.subject] = counts.get(answer.subject, 0) + answer.says_it
    return Group(role, tuple(asked[:MOST_ROWS]), len(asked), tuple(counts.items()))


def _asked(role: str, line: Row, kinds: dict[str, str]) -> Asked:
    given = {str(k): str(v) for k, v in mapping(line.get("answers")).items()}
    order = sorted(given, key=lambda s: list(kinds).index(s) if s in kinds else len(kinds))
    question, expected = str(line.get("question", "")), str(line.get("expected", ""))
    keys = line.get("keys") if isinstance(line.get("keys"), list) else []
    before = next((given[s] for s in order if kinds.get(s, s) == "original"), None)
    answers = []
    for subject in order:
        text, kind = given[subject], kinds.get(subject, "unlearned")
        hit = says(text, expected, keys or ())
        word = _word(role, hit, telling(expected, question), text) if expected.strip() or keys else ""
        symbol = _symbol(hit, word) if word else ""
        answers.append(Answer(subject, kind, pieces(text, expected, question), symbol, word, _change(kind, text, before), hit))
    return Asked(str(line.get("id", "")), question, expected, tuple(answers))


def _word(role: str, hit: bool, wanted: set[str], text: str) -> str:
    gone = goes(role)
    if hit:
        return "says it" if gone else "as expected"
    found = len(wanted & _words(text))
    return f"{found} of {len(wanted)} words" if found else "does not say it" if gone else "differs"


def _symbol(hit: bool, word: str) -> str:
    return FULL if hit else HALF if word.endswith("words") else EMPTY


def _change(kind: str, text: str, before: str | None) -> str:
    if kind == "original" or before is None:
        return ""
    return "unchanged" if _flat(text) == _flat(before) else "changed"


def summary(group: Group) -> str:
    """`original 5 of 6, npo 0 of 6`."""
    verb = "say the expected answer" if goes(group.role) else "answer as expected"
    return f"{verb}: " + ", ".join(f"{name} {n} of {group.total}" for name, n in group.says) if group.says else words.NONE


def _flat(text: str) -> str:
    return " ".join(_WORD.findall(text.lower()))


def _words(text: str) -> set[str]:
    return set(_WORD.findall(text.lower()))
