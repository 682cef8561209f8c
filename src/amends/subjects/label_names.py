"""Whether a loaded model's names of classes are the data's, in the same order: a wrong order is wrong in every number.

A name that is a number alone, `LABEL_3` included, names nothing and is not compared.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from amends.core.errors import UserError

_NUMBER = re.compile(r"(label|class)?[ _-]?\d+")


def check_names(model: str, id2label: Mapping[Any, Any] | None, classes: Sequence[str], trusted: bool) -> None:
    """Raises UserError for the first class that model and data name differently, with the way out.

    Args:
        model: the model's name, for the message.
        id2label: the model's names by label; keys may be texts, as in a config.json.
        classes: the data's names in the order of their labels.
        trusted: names may differ, as long as none of them stands elsewhere on the other side.
    """
    theirs = {int(k): str(v) for k, v in (id2label or {}).items()}
    place = {_plain(name): i for i, name in enumerate(classes)}
    for i, name in enumerate(classes):
        other = theirs.get(i, "")
        if _plain(other) == _plain(name) or any(_NUMBER.fullmatch(_plain(n)) or not n for n in (other, name)):
            continue
        said = f"{model}: class {i} is '{other}' to the model and '{name}' in the data"
        if _plain(other) in place or _plain(name) in map(_plain, theirs.values()):
            raise UserError(f"{said}: give the data's source its `classes` in the model's order")
        if not trusted:
            raise UserError(
                f"{said}: set subject.trust_order: true if they are one class, or new_head: true and train the head"
            )


def _plain(name: str) -> str:
    return name.strip().lower()
