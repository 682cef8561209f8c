"""Answers that were paid for once: one SQLite file, which several processes may read and write at a time.

An answer's key is the sha256 of the client's name, the messages, every field of the parameters and the number of the
repetition: a second run of the same work makes no calls. Equal calls are one call, also when they are made at once; who
wants several draws changes the seed, or asks `again(1)`, `again(2)`, ...
"""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from weakref import WeakKeyDictionary, WeakValueDictionary

from amends.chat.client import Client, Completion, Message, Params
from amends.chat.record import completion_as_json, completion_from_json, digest, innermost, request_of
from amends.core.errors import UserError

APPLICATION, VERSION = 0x616D6E64, 1
"""How SQLite files of ours are told from others'."""
PATIENCE = 60.0
"""Seconds that a process waits for another one's writing."""


class Cached:
    """A client whose answers are kept. Raises UserError for a file that is no cache, or a client whose model has no name."""

    def __init__(self, inner: Client, path: Path, repetition: int = 0) -> None:
        if getattr(innermost(inner), "model", "") is None:
            raise UserError(
                f"cache {path}: the client leaves `model` to the server, and another one may be there tomorrow: name it"
            )
        self.inner, self.path, self.repetition = inner, path, repetition
        self._asking: WeakKeyDictionary[asyncio.AbstractEventLoop, WeakValueDictionary[str, asyncio.Lock]] = WeakKeyDictionary()
        self._read("")  # a file that is no cache is found before the first call

    @property
    def name(self) -> str:
        """The inner client's."""
        return self.inner.name

    def again(self, repetition: int) -> Cached:
        """The same cache for the n-th draw of each call."""
        return Cached(self.inner, self.path, repetition)

    async def complete(self, messages: Sequence[Message], params: Params) -> Completion:
        """The kept answer, with what it cost when it was made, or the inner client's, which is kept."""
        key = digest(request_of(self.name, messages, params), self.repetition)
        locks = self._asking.setdefault(asyncio.get_running_loop(), WeakValueDictionary())
        lock = locks.setdefault(key, asyncio.Lock())
        async with lock:  # an equal call that is under way will have the answer
            found = self._read(key)
            if found is not None:
                return replace(found, usage=replace(found.usage, cached=found.usage.calls), cached=True)
            made = await self.inner.complete(messages, params)
            return self._write(key, made)

    def __len__(self) -> int:
        """How many answers are kept."""
        with self._opened() as file:
            return file.execute("SELECT count(*) FROM answers").fetchone()[0]

    def _read(self, key: str) -> Completion | None:
        with self._opened() as file:
            row = file.execute("SELECT answer FROM answers WHERE key = ?", (key,)).fetchone()
        if row is None:
            return None
        try:
            return completion_from_json(json.loads(row[0]))
        except ValueError as error:
            raise UserError(f"cache {self.path}: the answer {key[:12]} is damaged ({error}): remove the file") from None

    def _write(self, key: str, made: Completion) -> Completion:
        """Keeps an answer; where another process was first, its answer is the one that counts."""
        with self._opened() as file, file:
            file.execute("INSERT OR IGNORE INTO answers VALUES (?, ?)", (key, json.dumps(completion_as_json(made))))
            mine = file.execute("SELECT changes()").fetchone()[0]
        first = None if mine else self._read(key)
        return made if first is None else replace(first, usage=made.usage, cached=False)

    def _opened(self) -> _Opened:
        return _Opened(self.path)


class _Opened:
    """A connection for one statement: short-lived, so that forks and killed processes leave nothing behind."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: sqlite3.Connection | None = None

    def __enter__(self) -> sqlite3.Connection:
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._file = sqlite3.connect(self._path, timeout=PATIENCE)
            self._check(self._file)
        except BaseException as error:
            self.__exit__(type(error), error, None)
            raise
        return self._file

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None
        if isinstance(error, (sqlite3.Error, OSError)):
            raise UserError(f"cache {self._path}: {error}: give another file, or remove this one") from None

    def _check(self, file: sqlite3.Connection) -> None:
        if _mark(file) == (APPLICATION, VERSION):
            return
        file.execute("BEGIN IMMEDIATE")  # one process makes the table; the others wait here and find it
        with file:
            if _mark(file) == (APPLICATION, VERSION):
                return
            if file.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
                raise UserError(f"cache {self._path}: is another program's database: give another file")
            file.execute("CREATE TABLE answers (key TEXT PRIMARY KEY, answer TEXT NOT NULL) WITHOUT ROWID")
            file.execute(f"PRAGMA application_id = {APPLICATION}")
            file.execute(f"PRAGMA user_version = {VERSION}")


def _mark(file: sqlite3.Connection) -> tuple[int, int]:
    return tuple(file.execute(f"PRAGMA {name}").fetchone()[0] for name in ("application_id", "user_version"))  # type: ignore[return-value]
