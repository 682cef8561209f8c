"""Stages that several runs share: an original or a retrained model is made by one run and taken by the others.

A finished stage lies under its fingerprint, as hard links where the disk allows them. A run that needs a stage which
another one is making waits for it. No file is ever written in place, so what one run does with its own folder cannot
reach another's.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from amends.core.errors import UserError

READING = "reading.json.gz"
STAGE = "DONE"
"""The file by which a stage's folder is known to be complete; an attack's is its reading."""


@dataclass(frozen=True)
class Shared:
    """A folder of finished stages by fingerprint."""

    root: Path

    @contextmanager
    def stage(self, key: str, folder: Path, mark: str, say: Callable[[str], None]) -> Iterator[None]:
        """Held while the stage is made: takes what another run left, gives what this one made.

        Args:
            key: the stage's fingerprint.
            folder: this run's folder of it, already emptied of what was made under another key.
            mark: the file that a complete folder has.
            say: hears that this run waits for another one.
        """
        with self._alone(key, say):
            if not (folder / mark).is_file() and (self.root / key / mark).is_file():
                _copy(self.root / key, folder, mark)
            yield
            if (folder / mark).is_file():
                _copy(folder, self.root / key, mark)

    @contextmanager
    def _alone(self, key: str, say: Callable[[str], None]) -> Iterator[None]:
        from filelock import FileLock, Timeout

        try:
            self.root.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"--stages {self.root}: cannot be used as a folder ({error.strerror})") from None
        lock = FileLock(self.root / f"{key}.lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            say("another run is making this; waiting for it")
            lock.acquire()
        try:
            yield
        finally:
            lock.release()


def _copy(source: Path, target: Path, mark: str) -> None:
    """Puts every finished file of one folder into another, the mark last: a copy that was cut short has none."""
    files = [f.relative_to(source) for f in sorted(source.rglob("*")) if f.is_file() and _finished(f)]
    for file in sorted(files, key=lambda f: f == Path(mark)):
        link(source / file, target / file)


def _finished(file: Path) -> bool:
    return not file.name.startswith((".", "checkpoint.", "best."))


def link(source: Path, target: Path) -> None:
    """Makes `target` the same file as `source`, or a copy of it on a disk without hard links."""
    if target.exists() and target.samefile(source):
        return
    temporary = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary.unlink(missing_ok=True)
        try:
            os.link(source, temporary)
        except OSError:
            shutil.copyfile(source, temporary)
        temporary.replace(target)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise UserError(f"{target}: could not be written ({error.strerror}); free some space and run again") from None
