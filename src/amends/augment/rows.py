"""What the augments share: which rows can be asked, and one copy of a row for each other answer it gets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from amends.core.errors import UserError
from amends.core.types import Role, Sample
from amends.data.bundle import Bundle


def asking(data: Bundle, role: Role, use: str, keys: Sequence[str] = ("question", "prompt")) -> tuple[Sample, ...]:
    """The rows of a role; raises UserError unless each has one of `keys` (and so an answer of its own)."""
    for row in data[role]:
        if not any(key in row.data for key in keys):
            raise UserError(f"{use}: row {row.id} of '{role}' has no {' or '.join(keys)}: it needs rows that ask something")
    return data[role]


def labelled(data: Bundle, role: Role, use: str) -> tuple[Sample, ...]:
    """The rows of a role; raises UserError unless each has a class."""
    for row in data[role]:
        if "label" not in row.data:
            raise UserError(f"{use}: row {row.id} of '{role}' has no label: it needs rows that have a class")
    return data[role]


def with_alternatives(data: Bundle, role: Role, answers: Mapping[str, Sequence[Any]], key: str = "answer") -> Bundle:
    """The role's rows once for each of their other answers, as `id/alt-k`, with that answer (or label) as the alternative."""
    copies = [(row.with_(f"alt-{k}"), text) for row in data[role] for k, text in enumerate(answers[row.id])]
    others = {copy.id: copy.with_("other", **{key: text}) for copy, text in copies}
    return replace(data.with_role(role, [copy for copy, _ in copies]), alternatives={**data.alternatives, **others})
