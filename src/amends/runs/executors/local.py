"""Runs recipes as subprocesses of this machine, a few at a time."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from amends.runs.executors.base import Job, jobs_of


@dataclass(frozen=True)
class Local:
    """`jobs` processes at once; each writes its own folder and log, and one that fails does not stop the others."""

    jobs: int = 1
    words: tuple[str, ...] = ()
    """More words for each run's command line."""

    def map(self, recipes: Sequence[Path], folders: Sequence[Path]) -> Iterator[int]:
        """The exit codes, in the order given."""
        threads = max(1, (os.cpu_count() or 1) // self.jobs) if self.jobs > 1 else None
        with ThreadPoolExecutor(self.jobs) as pool:
            yield from pool.map(_one, jobs_of(recipes, folders, self.words, threads))


def _one(job: Job) -> int:
    job.started()
    return job.ended(job())
