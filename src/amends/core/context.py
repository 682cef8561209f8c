"""A run that keeps everything in memory: what library users and tests pass where the command line passes a folder."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from amends.core.rng import rng

if TYPE_CHECKING:
    import torch


class _Silent:
    def advance(self, steps: int = 1, **shown: object) -> None:
        """Shows nothing."""


@dataclass
class Memory:
    """Logs into lists; `folder` switches checkpoints on."""

    seed: int = 0
    folder: Path | None = None
    logged: list[dict[str, Any]] = field(default_factory=list)
    said: list[str] = field(default_factory=list)

    def rng(self, *names: object) -> torch.Generator:
        """The named stream under this run's seed."""
        return rng(self.seed, *names)

    def log(self, **values: Any) -> None:
        """Keeps the values."""
        self.logged.append(values)

    def say(self, text: str) -> None:
        """Keeps the sentence."""
        self.said.append(text)

    @contextmanager
    def progress(self, label: str, total: int) -> Iterator[_Silent]:
        """Shows nothing."""
        yield _Silent()
