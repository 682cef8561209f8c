"""A bundle: rows in roles under stable ids. Training and evaluation read the same object."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from amends.core import fingerprint
from amends.core.errors import UserError, nearest
from amends.core.types import Role, Sample


@dataclass(frozen=True)
class Bundle:
    """Roles and their rows; `alternatives` holds another answer for some rows, by the row's id."""

    roles: Mapping[Role, tuple[Sample, ...]]
    alternatives: Mapping[str, Sample] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    """What a reader of the results must know about the data, for instance which role was made up."""
    classes: tuple[str, ...] = ()
    """Names of the classes in the order of their labels, where rows are labelled; else empty."""

    def __getitem__(self, role: Role) -> tuple[Sample, ...]:
        if role not in self.roles:
            raise UserError(f"data has no role '{role}'{nearest(role, self.roles)}")
        return self.roles[role]

    def __contains__(self, role: Role) -> bool:
        return role in self.roles

    def together(self, roles: Sequence[Role]) -> tuple[Sample, ...]:
        """The rows of several roles, each row once."""
        return tuple({s.id: s for role in roles for s in self[role]}.values())

    @property
    def labelled(self) -> bool:
        """Whether rows are to be told a class rather than asked for an answer."""
        return any("label" in rows[0].data for rows in self.roles.values() if rows)

    def with_role(self, role: Role, samples: Sequence[Sample]) -> Bundle:
        """The same bundle with one role added or replaced."""
        return replace(self, roles={**self.roles, role: tuple(samples)})

    def fingerprint(self) -> str:
        """16 hex digits over every row's id and content."""
        return fingerprint.of({r: [(s.id, _content(s)) for s in rows] for r, rows in self.roles.items()})

    def check(self) -> Bundle:
        """Raises UserError for an empty forget set, an id of two rows, or rows that are both forgotten and retained."""
        for role, rows in self.roles.items():
            twice = [(i, n) for i, n in Counter(s.id for s in rows).items() if n > 1]
            if twice:
                raise UserError(f"role '{role}': id {twice[0][0]!r} stands on {twice[0][1]} rows; ids must be unique")
        self._one_row_an_id()
        if "forget" in self.roles and not self.roles["forget"]:
            raise UserError("the forget set is empty: nothing to forget")
        if "retain" in self.roles:
            for role in filter(asked_to_go, self.roles):
                self._no_overlap(role)
        return self

    def _one_row_an_id(self) -> None:
        """Scores are kept by id, so two roles may share an id only where they share the row."""
        seen: dict[str, tuple[Role, Sample]] = {}
        for role, sample in [(role, s) for role, rows in self.roles.items() for s in rows]:
            other, first = seen.setdefault(sample.id, (role, sample))
            if first is not sample and _content(first) != _content(sample):
                raise UserError(
                    f"id {sample.id!r} names one row in role '{other}' and another in role '{role}': "
                    "make ids unique over all files, or leave them out"
                )

    def _no_overlap(self, role: Role) -> None:
        forget = {row_print(s): s.id for s in self.roles[role]}
        kept = (*self.roles["retain"], *self.roles.get("retain_aside", ()))
        both = [(forget[key], s.id) for s in kept if (key := row_print(s)) in forget]
        if both:
            pairs = ", ".join(f"{a} = {b}" for a, b in both[:3])
            raise UserError(
                f"{len(both)} row(s) stand in both the {role} and the retain set ({pairs}"
                f"{', ...' if len(both) > 3 else ''}): remove them from one of the two"
            )


def asked_to_go(role: Role) -> bool:
    """Whether a role's rows are to be forgotten, now (`forget`) or in another request (`forget_a`, `forget_r001`).

    >>> asked_to_go("forget"), asked_to_go("forget_r001"), asked_to_go("retain")
    (True, True, False)
    """
    return role == "forget" or role.startswith("forget_")


def row_print(sample: Sample) -> str:
    """16 hex digits over what makes two rows the same row, whatever their ids and the spaces between their words."""
    return fingerprint.of(_content(sample))


def _content(sample: Sample) -> dict[str, object]:
    """What makes two rows the same row: prompt and answer, or the bytes of an image; and the label or constraints if any."""
    keys = ("question", "prompt", "answer", "text")
    if any(k in sample.data for k in keys):
        labels = {k: sample.data[k] for k in ("label", "constraints") if k in sample.data}
        return {k: " ".join(str(sample.data[k]).split()) for k in keys if k in sample.data} | labels
    return {k: _plain(v) for k, v in sample.data.items()}


def _plain(value: object) -> object:
    """A tensor or array by its type, shape and a hash of its bytes; anything else as it is."""
    array = value.numpy() if hasattr(value, "numpy") else value  # type: ignore[operator]
    if not hasattr(array, "tobytes"):
        return value
    return f"{array.dtype}{array.shape}{hashlib.sha256(array.tobytes()).hexdigest()}"  # type: ignore[attr-defined]
