"""report.html: one self-contained page for a manager and for a researcher, written beside the run it describes.

No external address, no script that anything depends on, every word of a model or of a recipe escaped. The policy in
the page's head lets only this page's own script run, so that even a mistake in the escaping could not run another.
"""

from __future__ import annotations

import base64
import hashlib
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from amends.core.errors import UserError
from amends.report import evidence, limits, panels, samples, words
from amends.report.audits import COLUMNS, audit
from amends.report.confidence import FOLDED, histograms
from amends.report.drawn import drawn
from amends.report.load import Row, RunData, load, mapping
from amends.report.masks import masks
from amends.report.ordered import ordered
from amends.report.price import price
from amends.report.refined import refining
from amends.report.scorecard import scorecard
from amends.report.scored import scored
from amends.report.stepped import stepped
from amends.report.table import Cell, Table, base, role
from amends.report.verdict import attacks_on, called, verdict, worst_attacks

TEMPLATES = Path(__file__).with_name("templates")
_VERDICTS = {"missed": ("\N{BALLOT X}", "missed"), "not tested": ("?", "not tested"), "met": ("\N{CHECK MARK}", "met")}
_STATUSES = {
    "ok": "\N{CHECK MARK}",
    "failed": "\N{BALLOT X}",
    "cancelled": "\N{BALLOT X}",
    "running": "\N{HORIZONTAL ELLIPSIS}",
}

_PAPER = {"title": "", "arxiv": "arXiv ", "where": ""}


@dataclass(frozen=True)
class Column:
    """One headline metric: what stands in its header, and the number of each subject."""

    metric: str
    better: str
    unit: str
    rows: str
    cells: tuple[Cell | None, ...]


def build(folder: Path) -> Path:
    """Writes report.html into a run folder and returns its path. UserError when the folder holds no run."""
    run = load(Path(folder))
    return write(run.folder / "report.html", "report.html.j2", context(run))


def write(path: Path, template: str, values: Row) -> Path:
    """Renders a template into a temporary file and renames it, so that a reader never sees half a page."""
    page = environment().get_template(template).render({**_shared(), **values})
    temporary = path.with_name(path.name + ".tmp")
    try:
        temporary.write_text(page, encoding="utf-8")
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise UserError(
            f"{path}: the report could not be written ({error.strerror}); free space or choose another place"
        ) from None
    return path


def context(run: RunData) -> dict[str, Any]:
    """Everything the page shows, in its order."""
    table = Table(run)
    data, paper = mapping(run.manifest.get("data")), mapping(run.manifest.get("paper"))
    return {
        "run": run,
        "title": str(run.manifest.get("title") or run.name),
        "question": str(run.manifest.get("question") or ""),
        "profile": str(run.manifest.get("profile") or ""),
        "paper": ", ".join(f"{before}{paper[k]}" for k, before in _PAPER.items() if paper.get(k)),
        "notes": [str(note) for note in _list(data.get("notes"))],
        "table": table,
        "verdict": verdict(run, table),
        "card": scorecard(table) if run.forgets else None,
        "levels": {"little": evidence.LITTLE, "half": evidence.HALF, "kept": evidence.KEPT, "cheap": evidence.CHEAP},
        "facts": facts(run),
        "claims": claims(run),
        "audit": audit(run),
        "refining": refining(run, table),
        "audit_columns": tuple(COLUMNS.values()),
        "columns": columns(table),
        "subjects": [_subject(run, table, s) for s in table.kinds],
        "every": every(table),
        "meanings": {base(m): words.meaning(m) for m in table.metrics if words.meaning(m)},
        "tradeoff": panels.tradeoff(table),
        "price": price(table),
        "drawn": [*drawn(run, table), *stepped(run)],
        "ordered": ordered(run, table),
        "scored": scored(run),
        "forests": panels.by_role(table),
        "histograms": histograms(run, table),
        "folded": FOLDED,
        "curves": panels.training(run),
        "masks": masks(run),
        "worst": worst_attacks(table),
        "attacked": [a for s in table.kinds for a in attacks_on(table, s)],
        "tried": [called(table, a) for a in table.attacks],
        "nothing_to_recover": nothing_to_recover(run),
        "recovery": panels.recovery(table),
        "groups": samples.groups(run, table),
        "controls": limits.controls(run, table),
        "not_tested": limits.not_tested(run, table),
        "command": shlex.join(str(a) for a in run.manifest.get("argv") or []),
        "provenance": provenance(run),
    }


def facts(run: RunData) -> list[tuple[str, str]]:
    """The line of small print under the verdict."""
    sizes = [p for s in run.stages if isinstance(p := s.raw.get("parameters"), int)]
    seeds = ", ".join(map(str, run.seeds))
    rows = ", ".join(f"{name} {n}" for name, n in run.roles.items())
    known = [
        ("profile", str(run.manifest.get("profile") or "as written")),
        ("date", str(run.manifest.get("started") or "").replace("T", " ").removesuffix("Z")),
        ("took", words.seconds(_seconds(run))),
        ("seeds", f"{len(run.seeds)} ({seeds})" if seeds else ""),
        ("model", f"{words.count(max(sizes))} parameters" if any(sizes) else ""),
        ("rows", rows),
        ("device", str(run.manifest.get("device") or "")),
    ]
    return [(k, v) for k, v in known if v and v != words.NONE]


def claims(run: RunData) -> list[dict[str, Any]]:
    """The claims, missed ones first, each with a symbol and a word."""
    order = list(_VERDICTS)
    found = []
    for claim in run.claims:
        symbol, word = _VERDICTS.get(str(claim.get("verdict")), _VERDICTS["not tested"])
        seeds = [words.number(v) if isinstance(v, (int, float)) else str(v) for v in _list(claim.get("per_seed"))]
        found.append(
            {
                "that": str(claim.get("that", "?")),
                "observed": limits.observed(claim),
                "needed": _typeset(str(claim.get("needed", words.NONE))),
                "because": str(claim.get("because") or ""),
                "note": str(claim.get("note") or ""),
                "symbol": symbol,
                "word": word,
                "seeds": seeds,
            }
        )
    return sorted(found, key=lambda c: order.index(c["word"]))


def columns(table: Table) -> list[tuple[str, list[Column]]]:
    """The headline metrics under the role they are measured on."""
    grouped: dict[str, list[Column]] = {}
    for metric in table.headline:
        cells = tuple(table.cell(s, metric) for s in table.kinds)
        counts = sorted({c.n for c in cells if c is not None and c.n is not None})
        rows = "" if not counts else f"n = {counts[0]}" + (f" to {counts[-1]}" if len(counts) > 1 else "")
        unit = next((c.unit for c in cells if c is not None and c.unit), "")
        grouped.setdefault(role(metric), []).append(Column(metric, table.better(metric), unit, rows, cells))
    return list(grouped.items())


def nothing_to_recover(run: RunData) -> list[str]:
    """Models that an attack was run on without a share to show, for too little had been forgotten."""
    return list(
        dict.fromkeys(
            f"{r['subject']} ({r.get('label') or r['attack']}, {r.get('metric', '')})"
            for r in run.recovered
            if r.get("value") is None
        )
    )


def every(table: Table) -> list[tuple[str, str, str, Cell]]:
    """The full table: metric, subject, attack, number."""
    attacks = (None, *table.attacks)
    names = dict.fromkeys([*table.metrics, *(str(m["name"]) for m in table.run.measurements)])
    return [
        (name, subject, called(table, attack) if attack else "", cell)
        for name in names for subject in table.subjects for attack in attacks
        if (cell := table.cell(subject, name, attack))
    ]  # fmt: skip


def provenance(run: RunData) -> list[tuple[str, str]]:
    """Hashes, versions, device, seeds: what a rerun must have in common."""
    git, data = mapping(run.manifest.get("git")), mapping(run.manifest.get("data"))
    versions = mapping(run.manifest.get("versions"))
    metrics = {str(m["name"]): m.get("version") for m in run.measurements if m.get("version") is not None}
    weights = [f"{s.name} (seed {s.seed}) {s.raw['weights']}" for s in run.stages if s.raw.get("weights")]
    code = f"{git.get('sha', '')}{' with uncommitted changes' if git.get('dirty') else ''}" if git else ""
    known = {
        "recipe hash": run.manifest.get("recipe_hash"),
        "data fingerprint": data.get("fingerprint"),
        "code": code,
        "weights": ", ".join(weights),
        "seeds": ", ".join(map(str, run.seeds)),
        "device": run.manifest.get("device"),
        "platform": run.manifest.get("platform"),
        "versions": ", ".join(f"{k} {v}" for k, v in versions.items()),
        "metric versions": ", ".join(f"{k} v{v}" for k, v in sorted(metrics.items())),
    }
    return [(k, str(v)) for k, v in known.items() if v]


@cache
def environment() -> Environment:
    """The templates, with escaping always on and an unknown name an error."""
    return Environment(
        loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )


@cache
def _shared() -> Row:
    """What every page needs: words, symbols, the one script and the policy that lets it run."""
    script = (TEMPLATES / "filter.js").read_text(encoding="utf-8").strip()
    policy = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    symbols = {"statuses": _STATUSES, "verdicts": tuple(_VERDICTS.values())}
    return {"w": words, "script": script, "policy": policy, "answers_summary": samples.summary, **symbols}


def _subject(run: RunData, table: Table, name: str) -> dict[str, Any]:
    own = [s for s in run.stages if s.name == name]
    return {
        "name": name,
        "kind": table.kinds[name],
        "method": next((s.method for s in own if s.method), ""),
        "suppression": table.suppression(name),
        "seconds": table.cost(name, "seconds"),
        "peak": table.cost(name, "peak_bytes"),
        "steps": sorted({s.steps for s in own if s.steps is not None}),
        "stopped": [(s.seed, s.stopped) for s in own if s.stopped],
    }


def _typeset(bound: str) -> str:
    return (
        bound.replace(">=", "\N{GREATER-THAN OR EQUAL TO}")
        .replace("<=", "\N{LESS-THAN OR EQUAL TO}")
        .replace(" x ", " \N{MULTIPLICATION SIGN} ")
    )


def _seconds(run: RunData) -> float | None:
    value = run.manifest.get("seconds")
    return float(value) if isinstance(value, (int, float)) else None


def _list(value: object) -> Sequence[Any]:
    return value if isinstance(value, list) else ()
