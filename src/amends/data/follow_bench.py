"""FollowBench (Jiang et al. 2023, arXiv 2310.20410): the same request with one demand more at each of five levels.

Files `KIND_constraints.json` of its repository's `data` folder; rows have `example_id`, `category`, `source`, `level`,
`instruction`, `target`. In the file `mixed` the category lists the kind of each demand so far, so the file's name is what
tells kinds apart. What a level adds is written nowhere: a judge compares its wording with the one before, which is what the
constraints here say. A row of level n has n of them, so that the paper's HSR is `all_pass` and its SSR the mean of the rows'
`constraint_rate`; CSL, consecutive levels, follows from `group` and `level`. The kind `example` is different: its levels
make the examples in the prompt more confusing, and code decides whether the answer has the form of theirs.

Not carried over: the code that decides rows of some sources (a summary's words, a sum in dollars) against `target`, which is
kept in the sample.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from itertools import pairwise
from typing import Annotated, Any

from pydantic import Field

from amends.core.errors import UserError
from amends.core.spec import Count, spec
from amends.core.types import Sample
from amends.data.bundle import Bundle
from amends.data.instructed import Located, bundled, chosen, files_of, located, unlike, words_of
from amends.data.text import FilePath, resolve

LEVELS = (1, 2, 3, 4, 5)
Key = tuple[str, str, int]
"""Kind, example and level of a row."""


@spec
class FollowBench:
    """FollowBench: requests that gain one demand at each of five levels; from its repository's data folder."""

    path: FilePath
    """The folder with `content_constraints.json` and the others, or one of these files."""
    kinds: Annotated[tuple[str, ...], Field(default=())]
    """Only these kinds: content, situation, style, format, example, mixed; empty means all that the folder has."""
    levels: Annotated[tuple[Annotated[int, Field(ge=1, le=5)], ...], Field(default=LEVELS)]
    """Only these levels."""
    limit: Count | None = None
    """At most this many rows, drawn by the seed."""
    longest: Count | None = None
    """Only rows of at most this many characters."""

    def load(self, seed: int) -> Bundle:
        """Role test. Raises UserError with file, line and key for bad rows, or where a level is missing."""
        rows: dict[Key, Located] = {}
        for file in files_of(resolve(self.path), "*_constraints.json"):
            for where, row in located(str(file), "", ""):
                key = _key(file.stem.removesuffix("_constraints"), row, where)
                if key in rows:
                    raise UserError(f"{where}: level {key[2]} of example {key[1]} stands at {rows[key][0]} too: remove one")
                rows[key] = (where, row)
        wanted = [key for key in rows if key[2] in self.levels and (not self.kinds or key[0] in self.kinds)]
        seen: dict[str, str] = {}
        samples = [unlike(rows[key][0], _sample(key, rows), seen) for key in wanted]
        return bundled({"test": chosen(samples, seed, limit=self.limit, longest=self.longest)})


def _key(kind: str, row: Mapping[str, Any], where: str) -> Key:
    for key, most in (("example_id", None), ("level", LEVELS[-1])):
        value = row.get(key)
        if not isinstance(value, int) or isinstance(value, bool) or value < 0 or (most is not None and value > most):
            bound = "a whole number" if most is None else f"a whole number from 0 to {most}"
            raise UserError(f"{where}: key '{key}' must be {bound}: mend or remove the row")
    return kind, str(row["example_id"]), row["level"]


def _sample(key: Key, rows: Mapping[Key, Located]) -> Sample:
    kind, example, level = key
    where, row = rows[key]
    group = f"{kind}-{example}"
    constraints = [_form(row, where)] if kind == "example" else _steps(key, rows)
    data = {"prompt": words_of(row, "instruction", where), "constraints": constraints, "level": level, "group": group}
    told = {"kind": kind, "source": str(row.get("source") or ""), "target": str(row.get("target") or "")}
    return Sample(f"follow-{group}-{level}", {**data, **told})


def _steps(key: Key, rows: Mapping[Key, Located]) -> list[dict[str, Any]]:
    """What each level up to this one adds, said by the two wordings of the request."""
    kind, example, level = key
    missing = next((n for n in range(level) if (kind, example, n) not in rows), None)
    if missing is not None:
        raise UserError(f"{rows[key][0]}: level {missing} of example {example} is missing: use the file as published")
    texts = [str(rows[kind, example, n][1].get("instruction") or "") for n in range(level + 1)]
    parts = [part.strip() for part in words_of(rows[key][1], "category", rows[key][0]).split(",")]
    kinds = parts if len(parts) == level else [parts[0]] * level
    steps = zip(pairwise(texts), kinds, strict=True)
    return [{"id": f"level{n}", "text": _added(*pair), "category": name} for n, (pair, name) in enumerate(steps, 1)]


def _added(before: str, now: str) -> str:
    """The demand of one level; a few sets begin with an empty request, and some levels repeat the one before."""
    if not before.strip() or before == now:
        return f"What this request asks for: {now}"
    return f"What the second wording of the request asks for beyond the first.\nFirst: {before}\nSecond: {now}"


def _form(row: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The template of the examples' answers as a constraint with a checker, `{answer}` standing for any text of one line."""
    template = words_of(row, "target", where).replace("{instruction}\n", "").replace("{{", "{").replace("}}", "}")
    pattern = ".*".join(re.escape(part) for part in template.split("{answer}"))
    text = f"The answer has the form of the examples' answers: {template}"
    return {"id": "form", "text": text, "category": "example", "checker": {"use": "matches", "pattern": rf"\A{pattern}\Z"}}
