"""A run folder as one frozen value. Whatever is absent or unreadable is noted, never fatal: a failed run has a report too.

Files grow from version to version, so keys that are not known are ignored and those that are missing have a default.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

from amends.core.errors import UserError
from amends.data.bundle import asked_to_go

SCHEMA = 1
"""The newest version of the run folder this code was written for."""

Row = Mapping[str, Any]
_STAGE = re.compile(r"\d+-(?P<name>[^.]+?)(?:-seed(?P<seed>\d+))?")


@dataclass(frozen=True)
class Stage:
    """One line of the manifest's stages: a model and what it cost to make it."""

    name: str
    seed: int
    kind: str
    """`original`, `retrain` or `unlearned`."""
    method: str
    seconds: float | None
    peak_bytes: float | None
    steps: int | None
    stopped: str | None
    raw: Row


@dataclass(frozen=True)
class RunData:
    """Everything the report knows. The tuples are empty where a file is missing."""

    folder: Path
    manifest: Row
    recipe: str
    stages: tuple[Stage, ...]
    measurements: tuple[Row, ...]
    """Rows of results.json: subject, seed, attack, name, value, low, high, n, better, ..."""
    recovered: tuple[Row, ...]
    claims: tuple[Row, ...]
    answers: tuple[Row, ...]
    steps: tuple[Row, ...]
    """Lines of metrics.jsonl."""
    gaps: tuple[str, ...]
    """What could not be read, in sentences."""
    masks: tuple[tuple[str, Row], ...] = ()
    """What stages/*/mask.json say, by the stage's name and, from the second seed on, the seed."""
    flags: tuple[Row, ...] = ()
    """What was measured of auditors: auditor, seed, name, value, low, high, n, ..."""
    suspects: tuple[Row, ...] = ()
    """The rows that the auditor who decides finds the most suspicious, in the first seed."""
    pictures: tuple[Row, ...] = ()
    """What auditors left to look at, in the first seed: auditor, name, caption, picture."""

    @property
    def name(self) -> str:
        """The recipe's name, or the folder's."""
        return str(self.manifest.get("name") or self.folder.parent.name or self.folder.name)

    @property
    def status(self) -> str:
        """`ok`, `failed`, `running`, `cancelled`, or `unknown` without a manifest."""
        return str(self.manifest.get("status") or "unknown")

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seeds the run was asked for, else those that left a number."""
        asked = self.manifest.get("seeds")
        if isinstance(asked, list) and asked:
            return tuple(sorted({_seed(s) for s in asked}))
        return tuple(sorted({_seed(m.get("seed")) for m in self.measurements}))

    @property
    def kind(self) -> str:
        """`labels` where rows were told a class, `text` where they were asked."""
        return str(mapping(self.manifest.get("data")).get("kind") or "text")

    @property
    def forgets(self) -> bool:
        """Whether anything was to be forgotten; a study of how models learn and an audit alone have no such rows."""
        planted = "triggered" in self.roles and not rows(self.manifest.get("audits"))
        return not self.roles or planted or any(asked_to_go(role) for role in self.roles)

    @property
    def roles(self) -> dict[str, int]:
        """How many rows each role of the data has."""
        roles = mapping(mapping(self.manifest.get("data")).get("roles"))
        return {str(k): int(v) for k, v in roles.items() if number(v) is not None}


def load(folder: Path) -> RunData:
    """Reads a run folder. UserError when the path holds nothing that a run writes."""
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"{folder}: no such run folder (look below runs/ for NAME/STAMP)")
    gaps: list[str] = []
    manifest = mapping(_json(folder / "manifest.json", gaps))
    results = mapping(_json(folder / "results.json", gaps))
    claims = _json(folder / "claims.json", gaps)
    if not manifest and not results:
        raise UserError(f"{folder}: holds neither manifest.json nor results.json: this is not a run folder")
    if (number(manifest.get("schema")) or 0) > SCHEMA:
        gaps.append("The run was written by a newer version of amends: parts of it may be missing here.")
    return RunData(
        folder=folder,
        manifest=manifest,
        recipe=_text(folder / "recipe.yaml", gaps),
        stages=tuple(_stage(row) for row in rows(manifest.get("stages"))),
        measurements=tuple(_with_seed(m) for m in rows(results.get("measurements")) if "name" in m and "subject" in m),
        recovered=tuple(_with_seed(r) for r in rows(results.get("recovered")) if "attack" in r and "subject" in r),
        claims=tuple(rows(claims)),
        answers=tuple(_lines(folder / "samples" / "answers.jsonl", gaps)),
        steps=tuple(_lines(folder / "metrics.jsonl", gaps)),
        masks=tuple(_masks(folder, gaps)),
        flags=_flags(results),
        suspects=tuple(_suspects(folder, manifest, gaps)),
        pictures=tuple(_pictures(folder, manifest, gaps)),
        gaps=tuple(gaps),
    )


def from_value(values: Row) -> RunData:
    """A run that was collected into one value, as `results/` keeps them: manifest, measurements and what came back."""
    return RunData(
        folder=Path(str(values.get("name") or "run")),
        manifest=values,
        recipe="",
        stages=tuple(_stage(row) for row in rows(values.get("stages"))),
        measurements=tuple(_with_seed(m) for m in rows(values.get("measurements")) if "name" in m and "subject" in m),
        recovered=tuple(_with_seed(r) for r in rows(values.get("recovered")) if "attack" in r and "subject" in r),
        claims=tuple(rows(values.get("claims"))),
        flags=_flags(values),
        answers=(),
        steps=(),
        gaps=(),
    )


def _flags(values: Row) -> tuple[Row, ...]:
    found = (m for m in rows(values.get("flags")) if "name" in m and "auditor" in m)
    return tuple({**m, "seed": _seed(m.get("seed"))} for m in found)


def _suspects(folder: Path, manifest: Row, gaps: list[str]) -> list[Row]:
    """`shown.json` of the auditor who decides; a name that is no plain folder name is not followed."""
    name = next((line.get("auditor") for line in rows(manifest.get("audits")) if line.get("decides")), None)
    return rows(_json(folder / "audits" / name / "shown.json", gaps)) if _plain(name) else []


def _pictures(folder: Path, manifest: Row, gaps: list[str]) -> list[Row]:
    """`pictures.json` of every auditor that has one."""
    names = dict.fromkeys(name for line in rows(manifest.get("audits")) if _plain(name := line.get("auditor")))
    files = {name: folder / "audits" / name / "pictures.json" for name in names}
    return [{**row, "auditor": name} for name, file in files.items() if file.is_file() for row in rows(_json(file, gaps))]


def _plain(name: Any) -> TypeGuard[str]:
    return isinstance(name, str) and re.fullmatch(r"[A-Za-z0-9_-]+", name) is not None


def mapping(value: Any) -> Row:
    """The value if it is a mapping, else an empty one."""
    return value if isinstance(value, Mapping) else {}


def rows(value: Any) -> list[Row]:
    """The mappings of a list; anything else is dropped."""
    return [row for row in value if isinstance(row, Mapping)] if isinstance(value, list) else []


def number(value: Any) -> float | None:
    """A finite number, or None for everything else (a missing key, NaN, a word, a truth value)."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        return None
    return float(value)


def _seed(value: Any) -> int:
    return int(number(value) or 0)


def _with_seed(row: Row) -> Row:
    attack = row.get("attack")
    return {
        **row,
        "seed": _seed(row.get("seed")),
        "attack": None if attack is None else str(attack),
        "subject": str(row["subject"]),
    }


def _stage(row: Row) -> Stage:
    name = str(row.get("name", "?"))
    kind = str(row.get("kind") or (name if name in ("original", "retrain") else "unlearned"))
    steps = number(row.get("steps"))
    return Stage(
        name, _seed(row.get("seed")), kind, str(row.get("method") or row.get("use") or ""), number(row.get("seconds")),
        number(row.get("peak_bytes")), None if steps is None else int(steps), row.get("stopped") or None, row,
    )  # fmt: skip


def _text(path: Path, gaps: list[str]) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        gaps.append(f"{path.name} is missing.")
        return ""


def _json(path: Path, gaps: list[str]) -> Any:
    text = _text(path, gaps)
    if not text:
        return None
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        gaps.append(f"{path.name} cannot be read (line {error.lineno}: {error.msg}).")
        return None


def stage_of_folder(name: str, first: int = 0) -> tuple[str, int] | None:
    """The stage and the seed of a folder `NN-name[-seedS]`; None for an attack's. `first` is the seed that is not named.

    >>> stage_of_folder("03-npo-seed1"), stage_of_folder("03-npo"), stage_of_folder("03-npo.relearn")
    (('npo', 1), ('npo', 0), None)
    """
    found = _STAGE.fullmatch(name)
    return None if found is None else (found["name"], int(found["seed"] or first))


def _masks(folder: Path, gaps: list[str]) -> Iterable[tuple[str, Row]]:
    """The masks in the folders `stages/NN-name[-seedS]`; an attack's folder has none."""
    for path in sorted(folder.glob("stages/*/mask.json")):
        found = _STAGE.fullmatch(path.parent.name)
        if found:
            yield found["name"] + (f" (seed {found['seed']})" if found["seed"] else ""), mapping(_json(path, gaps))


def _lines(path: Path, gaps: list[str]) -> Iterable[Row]:
    """The rows of a JSON-lines file; a torn last line (a run that died while writing) is counted and skipped."""
    found, torn = [], 0
    for line in _text(path, gaps).splitlines():
        if not line.strip():
            continue
        try:
            found.append(json.loads(line))
        except json.JSONDecodeError:
            torn += 1
    if torn:
        gaps.append(f"{path.name}: {torn} line(s) cannot be read and were left out.")
    return rows(found)
