"""Keeps what a run showed as one JSON file in `results/`: `python docs/collect.py RUN_FOLDER results/NAME.json`.

Measurements, claims, costs and versions stay; paths of the machine do not.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

KEPT = ("name", "profile", "status", "title", "question", "paper", "recipe_hash", "seeds", "versions", "device", "processes",
        "started", "seconds", "data", "audits", "stages", "headline", "draw")  # fmt: skip


def collect(run: Path) -> dict[str, object]:
    """The parts of a run folder that a table is made from."""
    manifest = json.loads((run / "manifest.json").read_text(encoding="utf-8"))
    results = json.loads((run / "results.json").read_text(encoding="utf-8"))
    claims = json.loads((run / "claims.json").read_text(encoding="utf-8"))
    kept = {key: manifest[key] for key in KEPT if key in manifest}
    found = {key: results[key] for key in ("measurements", "recovered", "flags") if key in results}
    return {**kept, **found, "claims": claims}


if __name__ == "__main__":
    source, target = Path(sys.argv[1]), Path(sys.argv[2])
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps(collect(source), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
