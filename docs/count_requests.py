"""Prints the tables of docs/real_requests.md from the packaged requests: `python docs/count_requests.py`."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

from amends.data.real_requests import CATEGORIES, PACKAGED


def tables() -> str:
    """Sizes by split, constraints by category, languages and checkers, as markdown."""
    rows: list[dict[str, Any]] = [json.loads(line) for line in PACKAGED.read_text(encoding="utf-8").splitlines()]
    roles = {
        "dev": [r for r in rows if r["split"] == "dev" and len(r["constraints"]) > 1],
        "test": [r for r in rows if r["split"] == "test" and len(r["constraints"]) > 1],
        "control": [r for r in rows if len(r["constraints"]) < 2],
    }
    lines = ["| role | requests | constraints | by code | with context | not in English |", "|---|---|---|---|---|---|"]
    lines += [_sizes(role, found) for role, found in [*roles.items(), ("all", rows)]]
    lines += ["", "| category | dev | test | control | by code |", "|---|---|---|---|---|"]
    of = {role: Counter(c["category"] for r in found for c in r["constraints"]) for role, found in roles.items()}
    code = Counter(c["category"] for r in rows for c in r["constraints"] if "checker" in c)
    lines += [
        f"| {name} | {of['dev'][name]} | {of['test'][name]} | {of['control'][name]} | {code[name]} |" for name in CATEGORIES
    ]
    uses = Counter(c["checker"]["use"] for r in rows for c in r["constraints"] if "checker" in c)
    lines += ["", "| constraints of a request | requests |", "|---|---|"]
    lines += [f"| {n} | {times} |" for n, times in sorted(Counter(len(r["constraints"]) for r in rows).items())]
    lines += ["", "| checker | constraints |", "|---|---|", *(f"| `{use}` | {n} |" for use, n in uses.most_common())]
    return "\n".join(lines)


def _sizes(role: str, rows: list[dict[str, Any]]) -> str:
    demands = [c for r in rows for c in r["constraints"]]
    code = sum("checker" in c for c in demands)
    cells = (role, len(rows), len(demands), code, sum(bool(r["context"]) for r in rows), sum(r["lang"] != "en" for r in rows))
    return f"| {' | '.join(map(str, cells))} |"


if __name__ == "__main__":
    print(tables())  # noqa: T201 (what it is for)
