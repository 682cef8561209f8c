"""What a person sees while a run goes on: sentences, and a progress bar on everything longer than two seconds."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from amends.core.shown import shown

SHOWN_AFTER = 2.0
"""Seconds of work before a bar appears."""
LINE_EVERY = 15.0
"""Seconds between two lines of progress where there is no terminal to draw a bar on."""

screen = Console(stderr=True, highlight=False, soft_wrap=True)


def say(text: str, style: str = "") -> None:
    """One sentence on standard error; nothing in it is read as markup, or by the terminal as a command."""
    screen.print(escape(shown(text)), style=style or None)


class Bar:
    """A progress bar that waits two seconds before it shows itself."""

    def __init__(self, label: str, total: int) -> None:
        self.label, self.total, self.done = label, total, 0
        self._began = self._last = time.monotonic()
        self._rich: Progress | None = None
        self._shown = ""

    def advance(self, steps: int = 1, **values: object) -> None:
        """Moves on; `values` stand beside the bar."""
        self.done += steps
        self._shown = " ".join(f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in values.items())
        elapsed = time.monotonic() - self._began
        if elapsed < SHOWN_AFTER:
            return
        if screen.is_terminal:
            self._draw()
        elif time.monotonic() - self._last > LINE_EVERY or (self.done == self.total and self._last > self._began):
            self._last = time.monotonic()
            say(f"    {self.label}: {self.done}/{self.total} after {elapsed:.0f} s {self._shown}")

    def _draw(self) -> None:
        if self._rich is None:
            self._rich = Progress(
                TextColumn("    {task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
                TimeRemainingColumn(), TextColumn("{task.fields[shown]}"), console=screen, transient=True,
            )  # fmt: skip
            self._rich.start()
            self._task = self._rich.add_task(self.label, total=self.total, shown="")
        self._rich.update(self._task, completed=self.done, shown=self._shown)

    def close(self) -> None:
        """Takes the bar away."""
        if self._rich is not None:
            self._rich.stop()


@contextmanager
def progress(label: str, total: int) -> Iterator[Bar]:
    """A bar for `total` steps."""
    bar = Bar(label, total)
    try:
        yield bar
    finally:
        bar.close()


@dataclass(frozen=True)
class Aloud:
    """Tells the screen of work that belongs to no run."""

    label: str

    def say(self, text: str) -> None:
        """One sentence."""
        say(f"  {self.label}: {text}")

    def progress(self, label: str, total: int) -> AbstractContextManager[Bar]:
        """A bar that appears after two seconds."""
        return progress(f"{self.label}: {label}", total)


@contextmanager
def busy(label: str) -> Iterator[None]:
    """For work whose length is unknown: a spinner on a terminal, a sentence elsewhere."""
    if not screen.is_terminal:
        say(f"  {label} ...")
        yield
        return
    with screen.status(escape(shown(label))):
        yield


def out(text: str) -> None:
    """Results go to standard output, unadorned, so that they can be piped; control characters are shown and not sent."""
    sys.stdout.write(shown(text) + "\n")


def table(rows: list[dict[str, Any]], columns: list[str]) -> str:
    """A plain aligned table; the last column is not padded."""
    cells = [[str(r.get(c, "")) for c in columns] for r in rows]
    widths = [max(len(x) for x in column) for column in zip(columns, *cells, strict=True)]
    lines = ["  ".join(x.ljust(w) for x, w in zip(row, widths, strict=True)).rstrip() for row in [columns, *cells]]
    return "\n".join(lines)
