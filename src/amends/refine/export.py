"""What a run of the loop teaches: pairs for preference training, and rows for training a critic, as JSON Lines.

A pair is taken only where one version dominates the other: it meets every constraint that the other meets and at least one
more, wherever they differ both verdicts are known, and the guard warns of nothing in it that it does not see in the other.
A critic's rows are the fixed frame of `refine/frame.py` with "yes" or "no"; hold some out by `request`, or the critic is
tested on requests it has seen.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from itertools import permutations
from pathlib import Path
from typing import Any

from amends.constraints.constraint import Source
from amends.refine.frame import critic_prompt
from amends.refine.parts import Attempt, Refined

EXACT: tuple[Source, ...] = ("checker", "gold")
"""Sources whose verdicts are true; a judge's would teach its mistakes."""


def dominates(a: Attempt, b: Attempt) -> bool:
    """Whether `a` meets all that `b` meets and something more, with nothing unknown where they differ, and looks no worse."""
    said = {v.constraint: v.passed for v in b.verdicts}
    if set(said) != {v.constraint for v in a.verdicts}:
        return False
    unlike = [(v.passed, said[v.constraint]) for v in a.verdicts if v.passed is not said[v.constraint]]
    return bool(unlike) and all(pair == (True, False) for pair in unlike) and _signs(a) <= _signs(b)


def preference_pairs(refined: Refined) -> list[dict[str, Any]]:
    """`{request, prompt, chosen, rejected, met, broken}` of every pair of versions in which one dominates; equal texts once."""
    versions = list({a.text: a for a in reversed(refined.attempts) if a.text.strip()}.values())[::-1]
    return [
        {
            "request": refined.request.id, "prompt": refined.request.prompt, "chosen": a.text, "rejected": b.text,
            "gained": sorted({v.constraint for v in a.verdicts if v.passed} - {v.constraint for v in b.verdicts if v.passed}),
        }
        for a, b in permutations(versions, 2) if dominates(a, b)
    ]  # fmt: skip


def critic_rows(refined: Refined, sources: Sequence[Source] = EXACT) -> list[dict[str, Any]]:
    """`{request, constraint, category, prompt, label, source, how}` of every known verdict of these sources; equal texts once.

    Verdicts that follow from another constraint's (`depends_on`) say nothing about the text and are left out.
    """
    constraints = {c.id: c for c in refined.request.constraints}
    versions = {a.text: a for a in refined.attempts}
    return [
        {
            "request": refined.request.id, "constraint": v.constraint, "category": constraints[v.constraint].category,
            "prompt": critic_prompt(refined.request, constraints[v.constraint], text), "label": "yes" if v.passed else "no",
            "source": v.source, "how": attempt.how,
        }
        for text, attempt in versions.items() for v in attempt.verdicts
        if v.passed is not None and v.source in sources and not v.reason.startswith("rests on ")
    ]  # fmt: skip


def write_rows(rows: Iterable[dict[str, Any]], path: Path) -> int:
    """Writes rows as JSON Lines, and returns how many."""
    lines = list(_lines(rows))
    path.write_text("".join(lines), encoding="utf-8", errors="replace")
    return len(lines)


def _lines(rows: Iterable[dict[str, Any]]) -> Iterator[str]:
    for row in rows:
        yield json.dumps(row, ensure_ascii=False) + "\n"


def _signs(attempt: Attempt) -> set[str]:
    """The guard's warnings by kind: their figures differ from version to version."""
    return {" ".join(w for w in warning.split() if not any(c.isdigit() for c in w)) for warning in attempt.warnings}
