"""How often the plain decomposer is right, and how much it finds: `python docs/count_plain.py`, for a table of docs/refine.md.

What it finds in a request is compared with the request's annotated checkers: the packaged requests in English, and IFEval's
prompts where AMENDS_IFEVAL names `input_data.jsonl`. A demand counts as right if the request has the same kind with the same
arguments: equal counts allowed, equal words, the same language. `--show` prints what differs.
"""

from __future__ import annotations

import json
import os
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from amends.constraints.counted import Counted
from amends.constraints.ifeval import request_of
from amends.core.spec import build_use
from amends.data.real_requests import PACKAGED
from amends.refine.decomposers.plain import demands

Key = tuple[Any, ...]
_WORDS = {"KeywordExistence": "words that have to be there", "Mentions": "words that have to be there"}

ENGLISH: Key = ("ResponseLanguage", "responselanguage(language='en')")
_IN_ENGLISH = ("EnglishCapital", "EnglishLowercase")
"""IFEval's labels for letters hold that the answer is in English, which most of their prompts ask for in so many words."""


def key(checker: Any) -> Key:
    """What two checkers have in common that ask for the same."""
    name = type(checker).__name__
    if isinstance(checker, Counted):
        return (name, tuple(str(part).lower() for part in checker.of()), checker.allowed())
    if name == "ForbiddenWords":
        return (name, frozenset(w.lower() for w in checker.forbidden_words))
    if name in _WORDS:
        return (_WORDS[name], frozenset(w.lower() for w in getattr(checker, "keywords", ()) or getattr(checker, "words", ())))
    if name in ("EndChecker", "StartsWith"):
        return (name, (getattr(checker, "end_phrase", "") or getattr(checker, "start", "")).strip(" .").lower())
    return (name, repr(checker).replace("P.P.S.", "P.P.S").lower())


def same(found: Key, gold: Key) -> bool:
    """Equal, or for forbidden words: those that are named, of which an annotation may add other forms."""
    if found[0] == "ForbiddenWords":
        return (gold[0] == found[0] and found[1] <= gold[1]) or gold == ("KeywordFrequency", ("keyword", *found[1]), (0, 0))
    return found == gold


def _halves(one: Key) -> set[Key]:
    """The two bounds of an exact count; what nothing equals where it is none."""
    low, high = one[2] if len(one) == 3 else (0, None)
    return {(*one[:2], (0, high)), (*one[:2], (low, None))} if low == high else {("no", "halves")}


def packaged(split: str) -> Iterator[tuple[str, str, list[Key]]]:
    """The packaged requests in English of a split."""
    for row in map(json.loads, PACKAGED.read_text(encoding="utf-8").splitlines()):
        if row["split"] == split and row["lang"] == "en":
            uses = [c["checker"] for c in row["constraints"] if "checker" in c]
            yield row["id"], row["request"], [key(build_use("checkers", use, row["id"])) for use in uses]


def ifeval(path: str, seen: bool) -> Iterator[tuple[str, str, list[Key]]]:
    """IFEval's prompts with repaired labels; those whose key four divides were looked at while the rules were written."""
    for row in map(json.loads, Path(path).read_text(encoding="utf-8").splitlines()):
        if (row["key"] % 4 == 0) is seen:
            yield str(row["key"]), row["prompt"], [key(c.checker) for c in request_of(row, "repaired").constraints]


def counted(rows: Sequence[tuple[str, str, list[Key]]], show: bool = False) -> dict[str, Counter[str]]:
    """For each kind how many demands there are, were found, and were right."""
    by: dict[str, Counter[str]] = {}
    for name, prompt, gold in rows:
        left = [*gold, *[ENGLISH for _ in range(1) if any(kind[0] in _IN_ENGLISH for kind in gold)]]
        for kind in gold:
            by.setdefault(kind[0], Counter())["there"] += 1
        for constraint in demands(prompt):
            one = key(constraint.checker)
            tally = by.setdefault(one[0], Counter())
            tally["found"] += 1
            halves = _halves(one)
            if halves <= set(left):
                tally["found"] += 1
                tally["right"] += 2
                left = [g for g in left if g not in halves]
                continue
            match = next((g for g in left if same(one, g)), None)
            tally["right"] += match is not None
            if match is not None:
                left.remove(match)
            elif show:
                print(f"WRONG {name}: {constraint.text!r} -> {one}\n    {prompt[:500]!r}\n    {gold}")  # noqa: T201
        if show and left:
            print(f"missed {name}: {left}\n    {prompt[:400]!r}")  # noqa: T201
    return by


def table(title: str, by: dict[str, Counter[str]], each: bool = False) -> list[str]:
    """One line for all kinds, or one a kind besides."""
    total: Counter[str] = Counter()
    for tally in by.values():
        total.update(tally)
    rows = [(title, total), *(sorted(by.items(), key=lambda kv: -kv[1]["there"]) if each else [])]
    return [_line(name, tally) for name, tally in rows]


def _line(name: str, tally: Counter[str]) -> str:
    precision = f"{tally['right'] / tally['found']:.0%}" if tally["found"] else "-"
    recall = f"{tally['right'] / tally['there']:.0%}" if tally["there"] else "-"
    return f"| {name} | {tally['there']} | {tally['found']} | {tally['right']} | {precision} | {recall} |"


def tables(show: bool = False) -> str:
    """The markdown table of the page."""
    lines = ["| set or kind | demands | found | right | precision | recall |", "|---|---|---|---|---|---|"]
    for split in ("dev", "test"):
        lines += table(f"packaged, English, {split}", counted(list(packaged(split)), show))
    if path := os.environ.get("AMENDS_IFEVAL"):
        lines += table("IFEval, prompts that were looked at", counted(list(ifeval(path, True)), show))
        lines += table("IFEval, the others", counted(list(ifeval(path, False)), show), each=True)
    return "\n".join(lines)


if __name__ == "__main__":
    print(tables("--show" in sys.argv))  # noqa: T201 (what it is for)
