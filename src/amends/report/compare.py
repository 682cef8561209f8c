"""Runs side by side: what differs in recipe, data and versions, and by how much the numbers differ.

Each run is set against the first one given. Two 95 % intervals that do not overlap are a difference worth reading
about; two that overlap are not evidence that there is none.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from string import ascii_uppercase
from typing import Any, Literal

import yaml

from amends.core.errors import UserError
from amends.report import build, words
from amends.report.audits_compared import Audits, audits_of
from amends.report.load import RunData, load, mapping
from amends.report.table import Cell, Table
from amends.report.text import aligned
from amends.report.verdict import called

ABSENT = "(absent)"


@dataclass(frozen=True)
class Compared:
    """One run of the comparison."""

    label: str
    """A, B, C, ... in the order given."""
    name: str
    folder: str
    status: str
    recipe_hash: str


@dataclass(frozen=True)
class Line:
    """One number in every run; differences and overlaps are against the first."""

    metric: str
    subject: str
    attack: str | None
    better: str
    cells: tuple[Cell | None, ...]
    after: str = ""
    """The attack in words; empty without one."""

    @property
    def differences(self) -> tuple[float | None, ...]:
        """Each run minus the first; None where one of the two lacks the number."""
        first = self.cells[0]
        return tuple(None if c is None or first is None else c.value - first.value for c in self.cells)

    @property
    def overlaps(self) -> tuple[bool | None, ...]:
        """Whether the interval meets the first run's; None without intervals."""
        first = self.cells[0]
        return tuple(None if c is None or first is None else c.overlaps(first) for c in self.cells)

    def word(self, i: int) -> Literal["", "overlap", "better", "worse", "apart"]:
        """How run `i` stands to the first: intervals overlap, or it is better, worse, or just apart."""
        overlap, difference = self.overlaps[i], self.differences[i]
        if i == 0 or overlap is None or difference is None:
            return ""
        if overlap:
            return "overlap"
        if self.better not in ("higher", "lower"):
            return "apart"
        return "better" if (difference > 0) == (self.better == "higher") else "worse"


@dataclass(frozen=True)
class Differing:
    """A key whose value is not the same in every run."""

    key: str
    values: tuple[str, ...]


@dataclass(frozen=True)
class Comparison:
    """Everything `amends compare` says."""

    runs: tuple[Compared, ...]
    lines: tuple[Line, ...]
    recipe: tuple[Differing, ...]
    """Keys of the resolved recipes by dotted path."""
    setting: tuple[Differing, ...]
    """Data, seeds, device, code and package versions."""
    audits: Audits | None = None
    """What auditors found in each run, where there are any."""

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        lines = [
            {
                "metric": line.metric, "subject": line.subject, "attack": line.attack, "better": line.better,
                "runs": [_plain(cell) for cell in line.cells], "difference": list(line.differences),
                "intervals_overlap": list(line.overlaps),
            }
            for line in self.lines
        ]  # fmt: skip
        shown = {name: [asdict(d) for d in getattr(self, name)] for name in ("runs", "recipe", "setting")}
        audits = {"audits": self.audits.as_dict()} if self.audits else {}
        return {"schema": 1, **shown, "lines": lines, **audits}

    def as_text(self) -> str:
        """Aligned text for a terminal."""
        parts = [aligned([[r.label, r.folder, r.status, r.recipe_hash] for r in self.runs])]
        for title, found in (("recipe", self.recipe), ("setting", self.setting)):
            rows = [[f"  {d.key}", *d.values] for d in found]
            parts.append(f"{title}:\n{aligned(rows)}" if rows else f"{title}: the same")
        if self.audits:
            parts.append(self.audits.as_text().replace("\N{PLUS-MINUS SIGN}", "+-"))
        if self.lines:
            head = ["metric", "model", "after", *(r.label for r in self.runs), *(f"{r.label} - A" for r in self.runs[1:])]
            parts.append(aligned([head, *(self._row(line) for line in self.lines)]))
            parts.append("better, worse: the 95 % intervals do not overlap; overlapping ones are no proof of equality")
        return "\n\n".join(parts).replace(words.NONE, "-").replace("\N{NO-BREAK SPACE}", " ")

    def _row(self, line: Line) -> list[str]:
        moved = [f"{signed(line.differences[i])} {line.word(i)}".strip() for i in range(1, len(self.runs))]
        return [line.metric, line.subject, line.after, *(words.with_interval(c) for c in line.cells), *moved]


def compare(folders: Sequence[Path]) -> Comparison:
    """Reads two or more run folders and sets them side by side. UserError for fewer, or for one that holds no run."""
    if not 2 <= len(folders) <= len(ascii_uppercase):
        raise UserError(f"compare: give two to {len(ascii_uppercase)} run folders, not {len(folders)}")
    runs = [load(Path(folder)) for folder in folders]
    recipes = [dict(_flat(_recipe(run), "")) for run in runs]
    return Comparison(
        runs=tuple(_compared(*pair) for pair in zip(ascii_uppercase, runs, strict=False)),
        lines=tuple(_lines([Table(run) for run in runs])),
        recipe=tuple(_differing(recipes)),
        setting=tuple(_differing([_setting(run) for run in runs])),
        audits=audits_of(runs, ascii_uppercase[: len(runs)]),
    )


def write(comparison: Comparison, path: Path) -> Path:
    """Writes the comparison as a page in the style of the report."""
    return build.write(Path(path), "compare.html.j2", {"c": comparison, "signed": signed})


def signed(value: float | None) -> str:
    """A difference with its sign.

    >>> signed(0.5), signed(-0.25), signed(0.0)
    ('+0.50', '-0.25', '0')
    """
    return words.number(value) if value is None or value <= 0 else f"+{words.number(value)}"


def _compared(label: str, run: RunData) -> Compared:
    return Compared(label, run.name, str(run.folder), run.status, str(run.manifest.get("recipe_hash") or words.NONE))


def _lines(tables: Sequence[Table]) -> Iterator[Line]:
    said = {a: called(t, a) for t in reversed(tables) for a in t.attacks}
    yield from (replace(line, after=said.get(line.attack, "")) if line.attack else line for line in _numbers(tables))


def _numbers(tables: Sequence[Table]) -> Iterator[Line]:
    subjects = list(dict.fromkeys(s for t in tables for s in t.kinds))
    attacks = [None, *dict.fromkeys(a for t in tables for a in t.attacks)]
    for metric in dict.fromkeys(m for t in tables for m in t.metrics):
        for subject in subjects:
            for attack in attacks:
                yield from _line(metric, subject, attack, [t.cell(subject, metric, attack) for t in tables])
    hits = {(str(r["subject"]), str(r["attack"]), str(r.get("metric", ""))): None for t in tables for r in t.run.recovered}
    for subject, attack, metric in hits:
        yield from _line(f"recovered.{metric}", subject, attack, [t.recovered(subject, attack, metric) for t in tables])
    for name in ("seconds", "peak_bytes"):
        for subject in subjects:
            yield from _line(name, subject, None, [t.cost(subject, name) for t in tables])


def _line(metric: str, subject: str, attack: str | None, cells: Sequence[Cell | None]) -> Iterator[Line]:
    known = next((c for c in cells if c is not None), None)
    if known is not None:
        yield Line(metric, subject, attack, known.better, tuple(cells))


def _recipe(run: RunData) -> Any:
    try:
        return yaml.safe_load(run.recipe) if run.recipe else {}
    except yaml.YAMLError:
        return {"recipe.yaml": run.recipe}


def _flat(value: Any, at: str) -> Iterator[tuple[str, str]]:
    """Leaves by dotted path; list items by their number."""
    items = value.items() if isinstance(value, Mapping) else enumerate(value) if isinstance(value, list) else None
    if items is None or not value:
        yield at, str(value)
        return
    for key, inner in items:
        yield from _flat(inner, f"{at}.{key}" if at else str(key))


def _setting(run: RunData) -> dict[str, str]:
    git, versions = mapping(run.manifest.get("git")), mapping(run.manifest.get("versions"))
    known = {
        "data fingerprint": mapping(run.manifest.get("data")).get("fingerprint"),
        "rows": ", ".join(f"{k} {v}" for k, v in run.roles.items()),
        "profile": run.manifest.get("profile") or "as written",
        "seeds": ", ".join(map(str, run.seeds)),
        "device": run.manifest.get("device"),
        "code": f"{git.get('sha', '')}{' + changes' if git.get('dirty') else ''}" if git else None,
        **{f"version of {name}": v for name, v in versions.items()},
        **{f"version of metric {m['name']}": m.get("version") for m in run.measurements},
    }
    return {k: str(v) for k, v in known.items() if v is not None}


def _differing(each: Sequence[Mapping[str, str]]) -> Iterator[Differing]:
    for key in dict.fromkeys(k for values in each for k in values):
        values = tuple(found.get(key, ABSENT) for found in each)
        if len(set(values)) > 1:
            yield Differing(key, values)


def _plain(cell: Cell | None) -> dict[str, Any] | None:
    if cell is None:
        return None
    by_seed = {str(seed): value for seed, value in cell.by_seed.items()}
    return {"value": cell.value, "low": cell.low, "high": cell.high, "n": cell.n, "by_seed": by_seed}
