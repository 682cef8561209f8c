"""Asks rows in another way: what attacks share that change a question and leave the model alone.

A changed row keeps its id, because its score is compared with the score of the same row before the attack.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from amends.core.errors import UserError
from amends.core.protocols import Context
from amends.core.types import Role, Sample
from amends.data.bundle import Bundle


def tag(role: Role) -> str:
    """A role's name as part of an attack's name: letters, digits, `-` and `_`.

    >>> tag("real authors")
    'real_authors'
    """
    return re.sub(r"[^A-Za-z0-9_-]+", "_", role)


def asks(sample: Sample) -> bool:
    """Whether a row asks something and says what the answer is."""
    return bool(sample.data.get("question") or sample.data.get("prompt")) and bool(sample.data.get("answer"))


def questions(data: Bundle, role: Role) -> tuple[Sample, ...]:
    """The rows of a role; raises UserError for the first one that asks nothing."""
    rows = data[role]
    silent = next((s.id for s in rows if not asks(s)), None)
    if silent is not None:
        raise UserError(
            f"role '{role}', row {silent}: has no question (or prompt) with an answer, so there is nothing to ask in another "
            "way: leave the attack out, or give rows that ask"
        )
    return rows


def asked_otherwise(
    subject: Any, data: Bundle, role: Role, change: Callable[[Sample], Sequence[Sample]], run: Context
) -> Bundle:
    """The bundle with each row of a role changed, wherever the row stands.

    Args:
        change: a row in its changed forms, the strongest first: the first one that fits the model's context is taken. A
            row of which none fits stays as it was, and that is said.
    """
    changed: dict[str, Sample] = {}
    for row in questions(data, role):
        found = next((form for form in change(row) if fits(subject, form)), None)
        if found is not None:
            changed[row.id] = replace(found, id=row.id)
    left = len(data[role]) - len(changed)
    if left:
        run.say(f"{left} of {len(data[role])} rows are asked as they were: no changed form fits the model's context")
    roles = {r: tuple(changed.get(s.id, s) for s in rows) for r, rows in data.roles.items()}
    return replace(data, roles=roles)


def fits(subject: Any, sample: Sample) -> bool:
    """Whether the model's context holds the row with its answer."""
    try:
        subject.encode(sample)
    except UserError:
        return False
    return True


def told(sample: Sample, **changes: Any) -> Sample:
    """The row with some of its fields changed, under the same id."""
    return Sample(sample.id, {**sample.data, **changes})


def put_before(sample: Sample, text: str) -> Sample:
    """The row with words of the user's before its question, in whatever wording it is asked."""
    keys = [k for k in ("question", "prompt", "paraphrased_question") if k in sample.data]
    return told(sample, **{k: f"{text} {sample.data[k]}" for k in keys}) if text else sample


def put_after(sample: Sample, text: str) -> Sample:
    """The row with words of the user's behind its question, in whatever wording it is asked."""
    keys = [k for k in ("question", "prompt", "paraphrased_question") if k in sample.data]
    return told(sample, **{k: _before_space(sample.data[k], text) for k in keys}) if text else sample


def put_into_mouth(sample: Sample, text: str) -> Sample:
    """The row with words that the model seems to have begun its answer with."""
    if not text:
        return sample
    if "question" in sample.data:
        return told(sample, lead=text)
    return told(sample, prompt=_before_space(sample.data["prompt"], text))


def _before_space(asked: str, text: str) -> str:
    """The words behind the question, and behind them the space that parted the question from its answer."""
    bare = asked.rstrip()
    return f"{bare} {text}{asked[len(bare) :]}"
