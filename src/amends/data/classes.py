"""Finding a class by its name or number."""

from __future__ import annotations

from collections.abc import Sequence

from amends.core.errors import UserError, nearest


def class_index(classes: Sequence[str], wanted: int | str, at: str) -> int:
    """The label of a class; raises UserError with the nearest name, or with the numbers there are.

    >>> class_index(("cat", "dog"), "dog", "data.target"), class_index(("cat", "dog"), 0, "data.target")
    (1, 0)
    """
    if wanted in classes:
        return list(classes).index(str(wanted))
    number = int(wanted) if str(wanted).isdigit() else None
    if number is None:
        raise UserError(f"{at}: the data has no class '{wanted}'{nearest(str(wanted), classes)}")
    if number >= len(classes):
        raise UserError(f"{at}: there is no class {number}: the data has {len(classes)}, 0 to {len(classes) - 1}")
    return number
