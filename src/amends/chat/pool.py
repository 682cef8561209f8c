"""Many prompts at once, at most so many at a time; what is done stays done when one fails, and after a restart."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from amends.chat.client import BudgetSpent, ClientError
from amends.core.errors import UserError

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class Outcome(Generic[R]):
    """What became of one item."""

    value: R | None = None
    error: ClientError | BudgetSpent | None = None
    """Why there is no value; BudgetSpent also where the item was not begun because nothing was left."""
    resumed: bool = False
    """Whether it was done by an earlier run."""


@dataclass(frozen=True)
class Book(Generic[R]):
    """Where finished items are written down, one JSON line each, and how a value becomes JSON and comes back."""

    path: Path
    as_json: Callable[[R], Any]
    from_json: Callable[[Any], R]

    def read(self) -> dict[str, R]:
        """Values by key. Raises UserError that names the line; a last line that was cut off is taken away."""
        if not self.path.is_file():
            return {}
        text = self.path.read_text(encoding="utf-8", errors="replace")
        whole, _, rest = text.rpartition("\n")
        if rest:
            self.path.write_text(f"{whole}\n" if whole else "", encoding="utf-8")
        found: dict[str, R] = {}
        for number, line in enumerate(whole.splitlines(), 1):
            try:
                row = json.loads(line)
                found[row["key"]] = self.from_json(row["value"])
            except (KeyError, TypeError, ValueError) as error:
                raise UserError(f"{self.path}, line {number}: is no finished item ({error}): remove the line") from None
        return found

    def add(self, key: str, value: R) -> None:
        """Writes one value down."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"key": key, "value": self.as_json(value)}) + "\n")


async def mapped(
    work: Callable[[T], Awaitable[R]],
    items: Sequence[T],
    at_once: int = 8,
    keys: Sequence[str] | None = None,
    book: Book[R] | None = None,
    done: Callable[[int, Outcome[R]], None] | None = None,
) -> list[Outcome[R]]:
    """`work` on every item, outcomes in the order of the items.

    A ClientError or BudgetSpent becomes its item's outcome; after the first BudgetSpent no further item is begun. Any other
    exception is a defect: it ends the map, and what was finished stands in the book.

    Args:
        at_once: items under way at a time, at most.
        keys: a name for each item, the same in every run; needed with a book, where equal keys are done once.
        book: remembers finished items; those in it are not done again, failed ones are.
        done: called with index and outcome of each item as it ends, for progress bars.
    """
    if book is not None and (keys is None or len(keys) != len(items)):
        raise ValueError("a book needs one key for each item")
    state = _State(work, items, keys if book is not None else None, book, book.read() if book is not None else {})
    outcomes: list[Outcome[R]] = [Outcome() for _ in items]
    waiting = iter(range(len(items)))

    async def worker() -> None:
        for i in waiting:  # shared: each index goes to one worker
            outcomes[i] = await state.one(i)
            if done is not None:
                done(i, outcomes[i])

    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(min(at_once, len(items))):
                group.create_task(worker())
    except BaseExceptionGroup as several:  # the first says it all; a UserError stays one sentence
        raise several.exceptions[0] from None
    return outcomes


@dataclass
class _State(Generic[T, R]):
    """What the workers of one map share."""

    work: Callable[[T], Awaitable[R]]
    items: Sequence[T]
    keys: Sequence[str] | None
    book: Book[R] | None
    known: dict[str, R]
    spent: BudgetSpent | None = None

    async def one(self, i: int) -> Outcome[R]:
        """The outcome of an item; what is done already, or cannot be paid for, is not begun."""
        key = self.keys[i] if self.keys is not None else None
        if key is not None and key in self.known:
            return Outcome(self.known[key], resumed=True)
        if self.spent is not None:
            return Outcome(error=self.spent)
        try:
            value = await self.work(self.items[i])
        except ClientError as error:
            return Outcome(error=error)
        except BudgetSpent as error:
            self.spent = error
            return Outcome(error=error)
        if key is not None and self.book is not None and key not in self.known:
            self.known[key] = value
            self.book.add(key, value)
        return Outcome(value)
