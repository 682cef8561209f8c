"""What every executor does with one recipe: the same subprocess, the same log, the same exit code.

A job is a plain value that travels to another process or machine, so it holds whole paths: recipe, folder and the
directory that the command was given in must lie on a disk that every machine sees.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from amends.runs import console

LOG = "console.txt"
"""Beside the run: everything that its process wrote."""


@dataclass(frozen=True)
class Job:
    """One recipe, run as `python -m amends run RECIPE --out FOLDER`; calling it again goes on where it stopped."""

    recipe: str
    folder: str
    directory: str
    """Where relative paths in the recipe start from."""
    words: tuple[str, ...] = ()
    """More of the command line."""
    threads: int | None = None
    """Threads of each numerical library; None leaves them as they are."""

    def __call__(self) -> int:
        """Runs it here and returns the exit code."""
        folder = Path(self.folder)
        folder.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "amends", "run", self.recipe, "--out", self.folder, *self.words]
        env = dict(os.environ)
        if self.threads is not None:
            env["OMP_NUM_THREADS"] = str(self.threads)
        with (folder / LOG).open("w") as log:
            done = subprocess.run(command, stdout=log, stderr=log, env=env, cwd=self.directory, check=False)
        return done.returncode

    def started(self) -> None:
        """Says so."""
        console.say(f"  started {self.folder}")

    def ended(self, code: int, why: str = "") -> int:
        """Says how it went, and returns the exit code."""
        failed = f"FAILED (exit {code}{', ' + why if why else f', see {LOG}'})"
        console.say(f"  {'finished' if code == 0 else failed} {self.folder}")
        return code


def jobs_of(
    recipes: Sequence[Path], folders: Sequence[Path], words: Iterable[str] = (), threads: int | None = None
) -> list[Job]:
    """A job for each recipe and its folder."""
    return [
        Job(str(recipe.resolve()), str(folder.resolve()), str(Path.cwd()), tuple(words), threads)
        for recipe, folder in zip(recipes, folders, strict=True)
    ]


def call(job: Job) -> int:
    """Runs a job; a plain function, which every cluster's library can send away."""
    return job()
