"""Reads lists of constraints and verdicts out of whatever a model wrote; what cannot be read is None, with a note.

Models wrap JSON in fences and chatter, cut it off, use keys of their own, answer in prose, or change their mind between the
first word and the last. Nothing here raises on any text. A verdict is read only where it is plain: a text that says both yes
and no, without a line that says which of the two is meant, is "cannot tell".
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

LONGEST = 40_000
"""Characters that are looked at; what comes behind is a runaway model."""
TRIES = 40
"""Brackets at which a JSON value is looked for."""
_DECODER = json.JSONDecoder()
_TEXT_KEYS = ("text", "constraint", "demand", "requirement", "description", "instruction", "condition", "rule")
_LIST_KEYS = ("constraints", "demands", "requirements", "items", "list", "result", "output", "answer")
_VERDICT_KEYS = ("verdict", "passed", "pass", "satisfied", "met", "answer", "label", "holds", "judgement", "judgment", "result")
_REASON_KEYS = ("reason", "why", "explanation", "rationale", "because", "comment", "evidence")
_YES = frozenset(("yes", "true", "pass", "passed", "passes", "satisfied", "met", "holds", "fulfilled", "y"))
_NO = frozenset(("no", "false", "fail", "failed", "fails", "violated", "unmet", "unsatisfied", "n"))
_OPEN = frozenset(
    ("cannot tell", "can't tell", "cannot say", "unclear", "unknown", "unsure", "undecided", "n/a", "null", "none")
)
_LABELLED = re.compile(r"\b(?:verdict|final answer|answer|conclusion|judge?ment|result)\b[\s*_`\"']*[:=\-–—]+(.{0,60})", re.I)
_ITEM = re.compile(r"^\s*(?:[-*•–]|\(?\d{1,3}[.):]|\(?[a-z][.)])\s+(\S.*)$", re.I)
_EMPTY = re.compile(
    r"\b(?:no|zero|without(?: any)?) (?:explicit |specific |further )?(?:constraints?|demands?|requirements?)\b|^none\b", re.I
)


@dataclass(frozen=True, slots=True)
class Item:
    """One demand as a model listed it."""

    text: str
    category: str = ""
    hard: bool = True
    depends_on: tuple[str, ...] = ()
    """As written: ids or numbers of other items."""
    id: str = ""


@dataclass(frozen=True, slots=True)
class Said:
    """One verdict as a model wrote it; `note` says why it could not be read."""

    passed: bool | None
    reason: str = ""
    note: str = ""


def read_items(text: str) -> tuple[tuple[Item, ...] | None, tuple[str, ...]]:
    """The listed demands, and notes. None where no list could be found; empty where the text says that there are none."""
    text = text[:LONGEST]
    for value in _values(text):
        found = _items_of(value)
        if found is not None:
            cut = ("the list was cut off: what was whole of it is used",) if isinstance(value, _Cut) else ()
            return found, cut
    listed = tuple(Item(_plain(m[1])) for line in text.splitlines() if (m := _ITEM.match(line)) and _plain(m[1]))
    if listed:
        return listed, ("the demands came as lines and not as JSON",)
    if _EMPTY.search(text.strip()):
        return (), ()
    return None, (f"no list of demands could be read in {_short(text)}",)


def read_verdict(text: str) -> Said:
    """One verdict: of a JSON object, of the last line that is labelled as one, of the last line, or of the first word."""
    text = text[:LONGEST]
    for value in _values(text):
        if isinstance(value, Mapping) and (said := _said_of(value)) is not None:
            return said
    reason = _reason(text)
    labelled = [word for m in _LABELLED.finditer(text) if (word := _word(m[1])) is not _NOTHING]
    if labelled:
        return _final(labelled[-1], reason)
    lines = [line for line in text.splitlines() if line.strip(" \t*_`#>-")]
    if not lines:
        return Said(None, "", "the critic wrote nothing")
    first, last = _word(lines[0]), _word(lines[-1]) if len(lines) > 1 else _NOTHING
    alone = last is not _NOTHING and len(lines[-1].split()) <= 3
    if first is not _NOTHING and alone and first is not last:
        return Said(None, reason, f"the critic says both yes and no: {_short(text)}")
    if alone:
        return _final(last, reason)
    if first is not _NOTHING:
        return _final(first, reason)
    return Said(None, reason, f"no verdict could be read in {_short(text)}")


def read_verdicts(text: str, ids: Sequence[str]) -> dict[str, Said]:
    """One verdict for each id out of one answer; an id that is missing, or that has two unlike ones, is "cannot tell"."""
    text = text[:LONGEST]
    found: dict[str, list[Said]] = {}
    for value in _values(text):
        for key, said in _pairs(value, ids):
            found.setdefault(key, []).append(said)
        if found:
            break
    if not found:
        for line in text.splitlines():
            for key in ids:
                if m := re.match(rf"[\s*_`\[(#-]*{re.escape(key)}\b[\s*_`\])]*[:.)=\-–—]?\s*(.*)", line, re.I):
                    found.setdefault(key, []).append(read_verdict(m[1]))
    return {key: _one(found.get(key, []), key) for key in ids}


# ---------------------------------------------------------------------- JSON in a text


class _Cut(list):  # type: ignore[type-arg]
    """The whole elements of a list that was cut off."""


def _values(text: str) -> Iterator[Any]:
    """JSON objects and lists of the text, outermost first, in order; then what is left of a list that was cut off."""
    at, tries, begun = 0, 0, -1
    while tries < TRIES and (m := re.compile(r"[\[{]").search(text, at)):
        tries += 1
        try:
            value, at = _DECODER.raw_decode(text, m.start())
            yield value
        except (ValueError, RecursionError):
            begun = m.start() if begun < 0 and m[0] == "[" else begun
            at = m.start() + 1
            if begun == m.start() and (whole := _elements(text, begun)):
                yield _Cut(whole)


def _elements(text: str, start: int) -> list[Any]:
    """The elements of the list that begins at `start`, up to the first that is broken."""
    found: list[Any] = []
    at = start + 1
    while len(found) < 200 and (m := re.compile(r"[\s,]*").match(text, at)):
        try:
            value, at = _DECODER.raw_decode(text, m.end())
        except (ValueError, RecursionError):
            break
        found.append(value)
    return found


def _items_of(value: Any, depth: int = 0) -> tuple[Item, ...] | None:
    if isinstance(value, Mapping):
        inner = _get(value, _LIST_KEYS)
        if isinstance(inner, list) and depth < 3:
            return _items_of(inner, depth + 1)
        single = _item(value)
        return (single,) if single else None
    if not isinstance(value, list):
        return None
    if len(value) == 1 and isinstance(value[0], list) and depth < 3:
        return _items_of(value[0], depth + 1)
    found = tuple(item for entry in value if (item := _item(entry)))
    return found if found or not value else None


def _item(value: Any) -> Item | None:
    if isinstance(value, str):
        return Item(_plain(value)) if _plain(value) else None
    if not isinstance(value, Mapping):
        return None
    text = _get(value, _TEXT_KEYS)
    if not isinstance(text, str) or not _plain(text):
        return None
    rests = _get(value, ("depends_on", "depends", "requires"))
    rests = rests if isinstance(rests, list) else [rests]
    return Item(
        _plain(text), _plain(str(_get(value, ("category", "kind", "type")) or "")).lower(),
        _get(value, ("hard", "required")) is not False,
        tuple(str(r) for r in rests if isinstance(r, (str, int)) and not isinstance(r, bool)),
        str(value.get("id", "")),
    )  # fmt: skip


def _pairs(value: Any, ids: Sequence[str]) -> Iterator[tuple[str, Said]]:
    """(id, verdict) of `[{"id": "c1", "verdict": "yes"}, ...]`, `{"c1": "yes"}`, or either inside another object."""
    known = {key.lower(): key for key in ids}
    if isinstance(value, Mapping):
        if (key := known.get(str(_get(value, ("id", "constraint", "number"))).lower())) and (said := _said_of(value)):
            yield key, said
            return
        for name, inner in value.items():
            if key := known.get(str(name).lower()):
                said = _said_of(inner) if isinstance(inner, Mapping) else _final(_word(inner), "")
                yield key, said or Said(None, "", f"no verdict on {key} could be read")
            elif isinstance(inner, list):
                yield from _pairs(inner, ids)
    elif isinstance(value, list):
        for entry in value:
            if isinstance(entry, Mapping):
                yield from _pairs(entry, ids)


def _said_of(value: Mapping[Any, Any]) -> Said | None:
    key = _key(value, _VERDICT_KEYS)
    if key is None:
        return None
    reason = _get(value, _REASON_KEYS)
    return _final(_word(value[key]), _plain(reason) if isinstance(reason, str) else "")


def _key(value: Mapping[Any, Any], names: Sequence[str]) -> Any:
    by_name = {str(key).strip().lower(): key for key in value}
    return next((by_name[name] for name in names if name in by_name), None)


def _get(value: Mapping[Any, Any], names: Sequence[str]) -> Any:
    key = _key(value, names)
    return None if key is None else value[key]


# ---------------------------------------------------------------------- words

_NOTHING = object()
"""No verdict at all, unlike None for "cannot tell"."""


def _word(value: Any) -> Any:
    """True, False, None for "cannot tell", or `_NOTHING`, by how a value begins."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, (int, float)):
        return bool(value) if value in (0, 1) else _NOTHING
    if not isinstance(value, str):
        return _NOTHING
    text = re.sub(r"[’‘“”]", "'", value[:80]).strip(" \t\n*_`\"'#>-–—:.([{").lower()
    if any(text == word or text.startswith((word + " ", word + ".", word + ",")) for word in _OPEN):
        return None
    if re.match(r"(?:it is |is )?not (?:met|satisfied|fulfilled|passed)\b", text):
        return False
    first = m[0] if (m := re.match(r"[a-z]+", text)) else ""
    if first in _YES and not re.match(r"yes\s*(?:/|or|\|)\s*no\b", text):
        return True
    return False if first in _NO and not re.match(r"no (?:one|doubt|wonder|matter)\b", text) else _NOTHING


def _final(word: Any, reason: str) -> Said:
    if word is _NOTHING:
        return Said(None, reason, "the verdict is neither yes nor no")
    return Said(word, reason)


def _one(said: list[Said], key: str) -> Said:
    if not said:
        return Said(None, "", f"the critic says nothing on {key}")
    if len({s.passed for s in said}) > 1:
        return Said(None, said[0].reason, f"the critic says both yes and no on {key}")
    return said[-1]


def _reason(text: str) -> str:
    """The prose in front of the verdict, or behind a first word that is one, on one line."""
    body = _LABELLED.split(text)[0] if _LABELLED.search(text) else text
    body = re.sub(r"^\W*(?:yes|no)\b[\s,.:;*_-]*(?:because\b\s*)?", "", body.strip(), flags=re.I)
    body = re.sub(r"^\W*reason\W*:\s*", "", body, flags=re.I)
    lines = [line for line in body.splitlines() if _word(line) is _NOTHING or len(line.split()) > 3]
    return _plain(" ".join(lines))[:300]


def _plain(text: str) -> str:
    text = re.sub(r"[\ud800-\udfff]", "\ufffd", text)  # half a character, which no file and no terminal takes
    return " ".join(text.split()).strip(" \t*_`").strip().strip('"').strip()


def _short(text: str) -> str:
    line = " ".join(text.split())
    return repr(line if len(line) <= 60 else line[:57] + "...")
