"""Several requests to forget out of one: the forget rows of any source, split into parts that are asked for one by one.

MUSE's sixth criterion (arXiv 2407.06460, "sustainability") sends requests of equal size to one model after another and
looks at utility after each; the fifth ("scalability") makes one request larger. Here both rest on the same rows: the
role `forget` keeps all of them, and forget_a, forget_b, ... are its parts under the same ids, so that every part can be
measured after every request. What differs from MUSE: rows of one author or document stay in one part, since a fact about
somebody half forgotten is neither kept nor gone, and the earlier parts are measured again after each later request.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from string import ascii_lowercase
from typing import Annotated, Any, Literal

from pydantic import Field, SkipValidation

from amends.core.errors import UserError
from amends.core.spec import Part, spec
from amends.core.types import Role, Sample
from amends.data.bundle import Bundle


@spec
class Requests:
    """Splits the forget rows of another source into requests that are made one after another."""

    of: Annotated[Any, Part("data"), SkipValidation]
    """The source whose forget rows are split."""
    parts: Annotated[int, Field(ge=2, le=len(ascii_lowercase))] = 3
    """How many requests there are; their roles are forget_a, forget_b, ..."""
    by: Literal["group", "row"] = "group"
    """`group`: rows whose ids agree up to the last `-`, such as an author's, stay together; `row`: each row by itself."""

    def load(self, seed: int) -> Bundle:
        """The source's roles, and one for each request. Raises UserError when there are too few rows for so many."""
        whole = self.of.load(seed)
        groups = list(grouped(whole["forget"]).values()) if self.by == "group" else [(row,) for row in whole["forget"]]
        if len(groups) < self.parts:
            what = "rows" if self.by == "row" else "groups of rows (ids that agree up to the last '-')"
            raise UserError(
                f"data.parts: {self.parts} requests were asked for, and the forget set has {len(groups)} {what}: "
                f"lower `parts`, forget more{'' if self.by == 'row' else ', or set `by: row`'}"
            )
        parts = {name: _flat(_share(groups, i, self.parts)) for i, name in enumerate(names(self.parts))}
        taken = next((name for name in parts if name in whole), None)
        if taken is not None:
            raise UserError(f"data.of: has a role '{taken}' already, which is the name of a request: rename it")
        return replace(whole, roles={**whole.roles, **parts}).check()


def names(parts: int) -> tuple[Role, ...]:
    """The roles of so many requests.

    >>> names(3)
    ('forget_a', 'forget_b', 'forget_c')
    """
    return tuple(f"forget_{letter}" for letter in ascii_lowercase[:parts])


def grouped(rows: Sequence[Sample]) -> Mapping[str, tuple[Sample, ...]]:
    """Rows by their id without its last part, in the order of their first row."""
    found: dict[str, tuple[Sample, ...]] = {}
    for row in rows:
        key = row.id.rpartition("-")[0] or row.id
        found[key] = (*found.get(key, ()), row)
    return found


def _share(groups: Sequence[tuple[Sample, ...]], part: int, parts: int) -> Sequence[tuple[Sample, ...]]:
    """The groups of one request: neighbours in the file, as many for each request as can be."""
    return groups[part * len(groups) // parts : (part + 1) * len(groups) // parts]


def _flat(groups: Sequence[tuple[Sample, ...]]) -> tuple[Sample, ...]:
    return tuple(row for group in groups for row in group)
