"""A run's folder: every file written under a temporary name and renamed, JSON throughout, logs appended line by line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from amends.core.errors import UserError

SCHEMA = 1
_PACKAGES = (
    "amends",
    "torch",
    "transformers",
    "accelerate",
    "peft",
    "safetensors",
    "numpy",
    "scipy",
    "scikit-learn",
    "rouge-score",
)


def write_text(path: Path, text: str) -> None:
    """Writes a whole file or nothing."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, content: bytes) -> None:
    """Writes a whole file or nothing, under a temporary name first."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(content)
        temporary.replace(path)
    except OSError as error:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise UserError(f"{path}: could not be written ({error.strerror}); what was saved before is untouched") from None


def write_json(path: Path, value: Any) -> None:
    """Writes indented JSON; not-a-number becomes null."""
    write_text(path, json.dumps(_clean(value), indent=1, ensure_ascii=False) + "\n")


def read_json(path: Path) -> Any:
    """Reads JSON, or raises UserError that names the file."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except ValueError:
        raise UserError(f"{path}: not valid JSON") from None


def _clean(value: Any) -> Any:
    if isinstance(value, float):
        return value if value == value and abs(value) != float("inf") else None
    if isinstance(value, Mapping):
        return {str(k): _clean(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_clean(v) for v in value]
    return value


@dataclass
class Folder:
    """One run's folder and its manifest; only the main process writes."""

    path: Path
    writes: bool = True
    manifest: dict[str, Any] = field(default_factory=dict)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Held by one process group at a time; the lock goes when its holder dies, however it dies."""
        from filelock import FileLock, Timeout

        if not self.writes:
            yield
            return
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"{self.path}: cannot be used as a run folder ({error.strerror})") from None
        lock = FileLock(self.path / ".lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise UserError(f"{self.path}: another run is writing here; wait for it, or give another folder") from None
        try:
            yield
        finally:
            lock.release()

    def update(self, **values: Any) -> None:
        """Changes the manifest and writes it."""
        self.manifest.update(values)
        self.write("manifest.json", self.manifest)

    def write(self, name: str, value: Any) -> None:
        """Writes one JSON file of the run."""
        if self.writes:
            write_json(self.path / name, value)

    def write_lines(self, name: str, rows: Iterable[Mapping[str, Any]]) -> None:
        """Writes a JSON Lines file of the run, whole."""
        if self.writes:
            write_text(self.path / name, "".join(json.dumps(_clean(r), ensure_ascii=False) + "\n" for r in rows))

    def append(self, name: str, line: str) -> None:
        """Adds one line and flushes it to the disk's cache."""
        if not self.writes:
            return
        try:
            with (self.path / name).open("a", encoding="utf-8") as file:
                file.write(line + "\n")
        except OSError as error:
            raise UserError(f"{self.path / name}: could not be written ({error.strerror})") from None


def now() -> str:
    """The time in UTC, to the second."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def versions() -> dict[str, str]:
    """The installed versions of what decides the numbers."""
    found = {"python": sys.version.split()[0]}
    for name in _PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def git_state() -> dict[str, Any] | None:
    """Commit and cleanliness of the library's own checkout; None when it is installed without one."""
    root = Path(__file__).resolve().parents[3]
    if not (root / ".git").exists():
        return None
    try:
        sha = subprocess.run(["git", "rev-parse", "HEAD"], cwd=root, capture_output=True, text=True, timeout=5, check=True)
        state = subprocess.run(
            ["git", "status", "--porcelain"], cwd=root, capture_output=True, text=True, timeout=5, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return {"sha": sha.stdout.strip(), "dirty": bool(state.stdout.strip())}


class Meter:
    """Wall time and peak memory of a stretch of work in this process.

    The first optimiser of a process makes torch import its compiler, for seconds: that is had beforehand, for it is no cost of
    the method that happens to come first.
    """

    def __init__(self, *, trains: bool = True) -> None:
        if trains:
            import torch

            torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.0)
        self._began = time.perf_counter()
        try:  # Linux: forget the peak so far, so that the next reading is this stretch's own
            Path("/proc/self/clear_refs").write_text("5")
            self._exact = True
        except OSError:
            self._exact = False

    @property
    def seconds(self) -> float:
        """Seconds since the start."""
        return time.perf_counter() - self._began

    @property
    def peak_bytes(self) -> int:
        """Peak resident memory (of the device, where there is one)."""
        import torch

        if torch.cuda.is_available():
            return int(torch.cuda.max_memory_allocated())
        if self._exact:
            for line in Path("/proc/self/status").read_text().splitlines():
                if line.startswith("VmHWM:"):
                    return int(line.split()[1]) * 1024
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
