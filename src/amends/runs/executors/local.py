"""Runs recipes as subprocesses of this machine, a few at a time."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from amends.runs import console


@dataclass(frozen=True)
class Local:
    """`jobs` processes at once; each writes its own folder and log, and one that fails does not stop the others."""

    jobs: int = 1

    def map(self, recipes: Sequence[Path], folders: Sequence[Path]) -> Iterator[int]:
        """The exit codes, in the order given."""
        with ThreadPoolExecutor(self.jobs) as pool:
            yield from pool.map(self._one, recipes, folders)

    def _one(self, recipe: Path, folder: Path) -> int:
        folder.mkdir(parents=True, exist_ok=True)
        console.say(f"  started {folder}")
        threads = {"OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // self.jobs))} if self.jobs > 1 else {}
        command = [sys.executable, "-m", "amends", "run", str(recipe), "--out", str(folder)]
        with (folder / "console.txt").open("w") as log:
            code = subprocess.run(command, stdout=log, stderr=log, env={**os.environ, **threads}, check=False).returncode
        console.say(f"  {'finished' if code == 0 else f'FAILED (exit {code}, see console.txt)'} {folder}")
        return code
