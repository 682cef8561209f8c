"""A run that keeps everything in memory: what library users and tests pass where the command line passes a folder.

Rows are loaded without a run, and most are there at once. Where loading them is work (an attacker's images are crafted), what
is going on is told to whoever is around: `with around(teller)`, by default nobody.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from amends.core.rng import rng

if TYPE_CHECKING:
    import torch

    from amends.core.protocols import Teller


class _Silent:
    def advance(self, steps: int = 1, **shown: object) -> None:
        """Shows nothing."""


@dataclass(frozen=True)
class Inside:
    """A part of a run's work with a folder of its own, so that its checkpoints are not another part's."""

    run: Any
    name: str

    @property
    def seed(self) -> int:
        """The run's."""
        return self.run.seed

    @property
    def folder(self) -> Path | None:
        """A folder in the run's, or None where that has none."""
        if self.run.folder is None:
            return None
        path = self.run.folder / self.name
        path.mkdir(parents=True, exist_ok=True)
        return path

    def rng(self, *names: object) -> torch.Generator:
        """The run's streams: equal names draw equal choices in each part."""
        return self.run.rng(*names)

    def log(self, **values: Any) -> None:
        """The run's log, with the part's name."""
        inner = values.pop("part", None)
        self.run.log(part=f"{self.name}/{inner}" if inner else self.name, **values)

    def say(self, text: str) -> None:
        """The run's, with the part's name."""
        self.run.say(f"{self.name}: {text}")

    def progress(self, label: str, total: int) -> Any:
        """The run's."""
        return self.run.progress(f"{self.name}: {label}", total)


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


_AROUND: ContextVar[Teller | None] = ContextVar("around", default=None)


@contextmanager
def around(teller: Teller) -> Iterator[None]:
    """Work inside, in this thread, that has no run of its own is told to `teller`."""
    token = _AROUND.set(teller)
    try:
        yield
    finally:
        _AROUND.reset(token)


def surroundings() -> Teller:
    """Whom to tell; a memory that nobody reads where nobody listens."""
    return _AROUND.get() or Memory()


@dataclass(frozen=True)
class Beside:
    """Work beside a run: a seed of its own and nothing that is kept; what it says and shows goes to whoever is around."""

    seed: int
    name: str
    folder: Path | None = None

    def rng(self, *names: object) -> torch.Generator:
        """The named stream under its own seed."""
        return rng(self.seed, *names)

    def log(self, **values: Any) -> None:
        """Keeps nothing."""

    def say(self, text: str) -> None:
        """With its name."""
        surroundings().say(f"{self.name}: {text}")

    def progress(self, label: str, total: int) -> Any:
        """With its name."""
        return surroundings().progress(f"{self.name}: {label}", total)
