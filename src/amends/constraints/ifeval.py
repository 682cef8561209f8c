"""IFEval (Zhou et al. 2023, arXiv 2311.07911): its rows as constraints, and its four accuracies under plain names.

A row holds `key`, `prompt`, `instruction_id_list` and `kwargs`, one mapping an id. Here its "prompt-level" accuracy is
`all_pass`, its "instruction-level" accuracy `constraint_rate` (the mean over all constraints of all rows, however many a row
has). *Strict* looks at the answer as it is. *Loose* passes a constraint if one of eight variants passes: with and without
asterisks, times as it is, without its first line, without its last, without both. An empty answer fails everything.

Different from published code: a keyword that is missing is an error and no random draw, a keyword that nobody reads is an
error, the denominators come from the rows alone, and the answer is taken as it is (some code strips it and takes out thinking
first).

`repaired` mends labels that contradict their prompts, as long as a row still has the published label: 1174 asks for *at least*
6 letters o and says "less than"; 337 asks for 400 words and says 336; 30 asks for lower case, which is not checked, and for
quotation marks, which are checked twice. 2078 asks for exactly one bullet point and for a few, and is left out. 1122 and 1129
count `#` and `!`: published code draws a random letter instead, here the character is counted with either labels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

from amends.constraints.constraint import Constraint, Request
from amends.constraints.looked import passes
from amends.core import catalog
from amends.core.errors import UserError, nearest
from amends.core.spec import build

Labels = Literal["as_published", "repaired"]

TYPES: dict[str, tuple[str, dict[str, str]]] = {
    "keywords:existence": ("keyword_existence", {"keywords": "keywords"}),
    "keywords:frequency": (
        "keyword_frequency", {"keyword": "keyword", "frequency": "frequency", "relation": "relation"},
    ),
    "keywords:forbidden_words": ("forbidden_words", {"forbidden_words": "forbidden_words"}),
    "keywords:letter_frequency": (
        "letter_frequency", {"letter": "letter", "let_frequency": "frequency", "let_relation": "relation"},
    ),
    "language:response_language": ("response_language", {"language": "language"}),
    "length_constraints:number_sentences": (
        "number_sentences", {"num_sentences": "num_sentences", "relation": "relation"},
    ),
    "length_constraints:number_paragraphs": ("number_paragraphs", {"num_paragraphs": "num_paragraphs"}),
    "length_constraints:number_words": ("number_words", {"num_words": "num_words", "relation": "relation"}),
    "length_constraints:nth_paragraph_first_word": (
        "nth_paragraph_first_word",
        {"num_paragraphs": "num_paragraphs", "nth_paragraph": "nth_paragraph", "first_word": "first_word"},
    ),
    "detectable_content:number_placeholders": ("number_placeholders", {"num_placeholders": "num_placeholders"}),
    "detectable_content:postscript": ("postscript", {"postscript_marker": "marker"}),
    "detectable_format:number_bullet_lists": ("number_bullet_lists", {"num_bullets": "num_bullets"}),
    "detectable_format:constrained_response": ("constrained_response", {}),
    "detectable_format:number_highlighted_sections": ("number_highlighted_sections", {"num_highlights": "num_highlights"}),
    "detectable_format:multiple_sections": (
        "multiple_sections", {"section_spliter": "section_splitter", "num_sections": "num_sections"},
    ),
    "detectable_format:json_format": ("json_format", {}),
    "detectable_format:title": ("title", {}),
    "combination:two_responses": ("two_responses", {}),
    "combination:repeat_prompt": ("repeat_prompt", {"prompt_to_repeat": "prompt_to_repeat"}),
    "startend:end_checker": ("end_checker", {"end_phrase": "end_phrase"}),
    "startend:quotation": ("quotation", {}),
    "change_case:capital_word_frequency": (
        "capital_word_frequency", {"capital_frequency": "frequency", "capital_relation": "relation"},
    ),
    "change_case:english_capital": ("english_capital", {}),
    "change_case:english_lowercase": ("english_lowercase", {}),
    "punctuation:no_comma": ("no_comma", {}),
}  # fmt: skip
"""Each id with its checker, and the checker's field behind each published keyword, its spelling included."""


def checker_of(identifier: str, kwargs: Mapping[str, Any] | None, at: str) -> Any:
    """The checker of an id with its keywords; those that are None are padding. `at` is the place that errors name."""
    if identifier not in TYPES:
        raise UserError(f"{at}: IFEval has no type {identifier!r}{nearest(identifier, TYPES)}")
    name, fields = TYPES[identifier]
    given = {key: value for key, value in (kwargs or {}).items() if value is not None}
    for key in given:
        if key not in fields:
            raise UserError(f"{at}.{key}: {identifier} has no such keyword{nearest(key, fields) or ' (it has none)'}")
    missing = [key for key in fields if key not in given]
    if missing:
        raise UserError(f"{at}: {identifier} needs {', '.join(missing)}, and none is drawn at random")
    return build(_checker(name), {fields[key]: value for key, value in given.items()}, at)


@cache
def _checker(name: str) -> type:
    return catalog.find("checkers", name, name).load()


def request_of(row: Mapping[str, Any], labels: Labels = "as_published") -> Request:
    """A row as a request with constraints `c1`, `c2`, ...; a row that no label can mend has none in `repaired`."""
    at = f"IFEval row {row.get('key', '?')}"
    for key in ("key", "prompt", "instruction_id_list", "kwargs"):
        if key not in row:
            raise UserError(f"{at}: it has no {key!r}")
    identifiers, kwargs = list(row["instruction_id_list"]), list(row["kwargs"])
    if len(identifiers) != len(kwargs):
        raise UserError(f"{at}: {len(identifiers)} ids and {len(kwargs)} kwargs; give one mapping for each id")
    pairs = list(zip(identifiers, kwargs, strict=True))
    if labels == "repaired":
        pairs = _repaired(int(row["key"]), pairs)
    constraints = []
    for i, (identifier, given) in enumerate(pairs):
        checker = checker_of(identifier, given, f"{at}, kwargs[{i}]")
        category = identifier.partition(":")[0]
        constraints.append(Constraint(id=f"c{i + 1}", text=checker.told(), checker=checker, category=category, depends_on=()))
    return Request(str(row["key"]), row["prompt"], tuple(constraints))


Pair = tuple[str, Mapping[str, Any] | None]


def _repaired(key: int, pairs: list[Pair]) -> list[Pair]:
    mend = _MENDED.get(key)
    return mend(pairs) if mend else pairs


def _changed(identifier: str, keyword: str, old: Any, new: Any) -> Callable[[list[Pair]], list[Pair]]:
    def mend(pairs: list[Pair]) -> list[Pair]:
        wrong = [(i, kw) for i, kw in pairs if i == identifier and kw and kw.get(keyword) == old]
        return [(i, {**(kw or {}), keyword: new}) if (i, kw) in wrong else (i, kw) for i, kw in pairs]

    return mend


def _lower_case(pairs: list[Pair]) -> list[Pair]:
    names = [name for name, _ in pairs]
    if names.count("startend:quotation") == 2 and "change_case:english_lowercase" not in names:
        return [("change_case:english_lowercase", {}), *pairs[1:]] if names[0] == "startend:quotation" else pairs
    return pairs


_MENDED: dict[int, Callable[[list[Pair]], list[Pair]]] = {
    1174: _changed("keywords:letter_frequency", "let_relation", "less than", "at least"),
    337: _changed("length_constraints:number_words", "num_words", 336, 400),
    30: _lower_case,
    2078: lambda pairs: [] if [name for name, _ in pairs] == ["detectable_format:number_bullet_lists"] else pairs,
}


@dataclass(frozen=True, slots=True)
class Scores:
    """IFEval's four accuracies, in 0..1, and what they are of."""

    all_pass_strict: float
    """Share of requests whose constraints all pass ("prompt-level strict")."""
    all_pass_loose: float
    constraint_rate_strict: float
    """Share of constraints that pass ("instruction-level strict")."""
    constraint_rate_loose: float
    num_requests: int
    num_constraints: int


def scores(
    rows: Iterable[Mapping[str, Any]], answers: Mapping[Any, str] | Sequence[str], labels: Labels = "as_published"
) -> Scores:
    """The accuracies of answers, by a row's `key` or in the rows' order. Every row needs one; leave rows out to score fewer."""
    rows = list(rows)
    by_row = [_answer(row, answers) for row in rows] if isinstance(answers, Mapping) else list(answers)
    if len(by_row) != len(rows):
        raise UserError(f"answers: {len(by_row)} were given for {len(rows)} rows; give one for each, empty where there is none")
    requests = [request_of(row, labels) for row in rows]
    scored = [[passes(c.checker, text) for c in request.constraints] for request, text in zip(requests, by_row, strict=True)]
    return totals([row for row in scored if row])


def _answer(row: Mapping[str, Any], answers: Mapping[Any, str]) -> str:
    key = row.get("key")
    for name in (key, str(key)):
        if name in answers:
            return answers[name]
    raise UserError(f"answers: there is none for row {key}; give an empty one, which fails, or leave the row out")


def totals(scored: Sequence[Sequence[tuple[bool, bool]]]) -> Scores:
    """The accuracies of (strict, loose) verdicts, by request and constraint.

    >>> totals([[(True, True)], [(False, True), (False, False)]]).constraint_rate_loose
    0.6666666666666666
    """
    flat = [pair for row in scored for pair in row]
    if not flat:
        raise UserError("rows: there is no constraint to score")
    strict, loose = (sum(all(pair[k] for pair in row) for row in scored) / len(scored) for k in (0, 1))
    each, each_loose = (sum(pair[k] for pair in flat) / len(flat) for k in (0, 1))
    return Scores(strict, loose, each, each_loose, len(scored), len(flat))
