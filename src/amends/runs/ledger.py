"""The ledger of a model in use: the requests to forget that it has met, one after another, and what each left behind.

A ledger is a folder, and nothing in it points outside but the name of the base model:

    ledger.json      the book, schema 1; written whole or not at all
    rows/            the rows to forget and to keep, under ids of their content
    requests/r001/   what `amends unlearn` leaves: the model, report.html, run/
    tests/HASH/      the runs of `amends ledger test`

A request starts from the newest model. It stands in the book as `begun` before its run and as `done` after it; one that
was killed stays begun, and goes on when its rows are given again. A request that is taken back is `withdrawn`: it stays
in the book, and the model before it is the newest again. MUSE (arXiv 2407.06460) names the setting, sequential requests,
as its sixth criterion, and measures utility; what is added here is that every earlier request is tested again.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from amends.core.errors import UserError, nearest
from amends.core.types import Role
from amends.runs.ledger_book import BASE, FILE, Book, Entry, Model, Retest, numbers, read, weights_of, write
from amends.runs.ledger_rows import RowFile, Rows, gather, recall, refuse_kept
from amends.runs.record import now, read_json


@dataclass
class Ledger:
    """A ledger's folder and its book."""

    folder: Path
    book: Book

    # ------------------------------------------------------------------ the book

    @staticmethod
    def create(folder: Path, model: str, kept: Mapping[Role, Path]) -> Ledger:
        """Starts a ledger with a base model and the rows that must survive. Raises UserError where there is one already."""
        if (folder / FILE).exists():
            raise UserError(f"{folder}: holds a ledger already: `amends ledger show {folder}`, or choose another folder")
        local = Path(model).expanduser()
        name = str(local.resolve()) if local.exists() else model
        base = Model(name=name, weights=weights_of(name))
        rows = {role: gather(path, role) for role, path in kept.items()}
        book = Book(created=now(), base=base, kept={role: found.write(folder) for role, found in rows.items()})
        return Ledger(folder, book)._save()

    @staticmethod
    def open(folder: Path) -> Ledger:
        """Reads a ledger. Raises UserError where there is none, or where its book is not what was written."""
        return Ledger(folder, read(folder))

    def _save(self, **changes: Any) -> Ledger:
        self.book = replace(self.book, **changes)
        write(self.folder, self.book)
        return self

    def _put(self, entry: Entry) -> Entry:
        others = tuple(e for e in self.book.requests if e.id != entry.id)
        self._save(requests=tuple(sorted((*others, entry), key=lambda e: e.id)))
        return entry

    @property
    def live(self) -> tuple[Entry, ...]:
        """The requests that the newest model has met, in order."""
        return tuple(e for e in self.book.requests if e.status == "done")

    @property
    def unfinished(self) -> Entry | None:
        """The request that was begun and has not ended."""
        return next((e for e in self.book.requests if e.status == "begun"), None)

    @property
    def newest(self) -> str:
        """The id of the last request that was met, or `base`."""
        return self.live[-1].id if self.live else BASE

    def find(self, request: str) -> Entry:
        """A request by its id; raises UserError with the nearest one."""
        known = {e.id: e for e in self.book.requests}
        if request not in known:
            raise UserError(f"{self.folder}: no request is called '{request}'{nearest(request, known)}")
        return known[request]

    def model(self, which: str) -> str:
        """Where the model of a request lies, or the name of the base."""
        return self.book.base.name if which == BASE else str((self.folder / self.find(which).folder).resolve())

    def check_model(self, which: str) -> str:
        """The same, known to have the weights it had. Raises UserError when it is gone or was changed."""
        name, recorded = self.model(which), self.book.base.weights if which == BASE else self.find(which).weights
        what = "the base model" if which == BASE else f"the model of {which}"
        undo = "" if which == BASE else f", or take {which} back with `amends ledger undo {self.folder} {which}`"
        try:
            found = weights_of(name)
        except UserError as error:
            raise UserError(f"{what} is gone ({error}), and this starts from it: put it back{undo}") from None
        if found != recorded:
            raise UserError(f"{name}: {what} is not what it was (weights {found}, recorded {recorded}): put it back{undo}")
        return name

    # ------------------------------------------------------------------ rows

    def forgotten(self) -> dict[str, Rows]:
        """The rows of every live request by its id; of a request that was made again, once."""
        return {e.id: self.rows_of(e) for e in self.live if e.again is None}

    def rows_of(self, entry: Entry) -> Rows:
        """The rows of a request."""
        return recall(self.folder, entry.rows)

    def kept(self) -> dict[Role, RowFile]:
        """The rows to keep, as the newest request had them."""
        return dict(self.live[-1].kept if self.live else self.book.kept)

    # ------------------------------------------------------------------ requests

    def begin(
        self, rows: Rows | None, again: str | None, kept: Mapping[Role, Path], *, name: str, method: str, hold: bool,
        settings: Mapping[str, Any],
    ) -> Entry:  # fmt: skip
        """Enters a request, after every check that needs no model. Raises UserError, and then nothing was entered."""
        earlier = self.forgotten()
        if again is not None:
            rows = self.rows_of(self._done(again))
        assert rows is not None
        begun = self._resumed(rows)
        if again is None:
            self._refuse_the_same(rows, earlier)
        survive = {role: recall(self.folder, file) for role, file in (begun.kept if begun else self.kept()).items()}
        survive |= {role: gather(path, role) for role, path in kept.items()}
        request = begun.id if begun else f"r{len(self.book.requests) + 1:03d}"
        refuse_kept({**earlier, request: rows}, survive)
        self.check_model(self.newest)
        entry = Entry(
            id=request, name=name or (begun.name if begun else ""), start=self.newest, again=again,
            began=begun.began if begun else now(), method=method, settings=dict(settings), hold=hold and bool(earlier),
            rows=rows.write(self.folder), kept={role: found.write(self.folder) for role, found in survive.items()},
            overlaps={i: n for i, found in earlier.items() if (n := len(rows.by_id.keys() & found.by_id.keys()))},
            before={}, after={},
        )  # fmt: skip
        return self._put(entry)

    def _done(self, request: str) -> Entry:
        entry = self.find(request)
        if entry.status != "done":
            raise UserError(f"{request} is {entry.status}: only a request that was met can be made again")
        return entry

    def _resumed(self, rows: Rows) -> Entry | None:
        begun = self.unfinished
        if begun is not None and self.rows_of(begun).by_id.keys() != rows.by_id.keys():
            raise UserError(
                f"{begun.id}{f' ({begun.name})' if begun.name else ''} was begun and has not ended: give its rows "
                f"({begun.rows.given}) again to go on with it, or take it back with "
                f"`amends ledger undo {self.folder} {begun.id}`"
            )
        return begun

    @staticmethod
    def _refuse_the_same(rows: Rows, earlier: Mapping[str, Rows]) -> None:
        for request, found in earlier.items():
            if found.by_id.keys() == rows.by_id.keys():
                raise UserError(
                    f"{rows.given}: {request} forgot exactly these rows: `amends ledger test` tests them again, "
                    f"and `--again {request}` forgets them once more"
                )

    @contextmanager
    def all_or_nothing(self) -> Iterator[None]:
        """A request that turns out to be impossible before it began leaves no trace, no copy of its rows either."""
        book, files = self.book, self._files()
        try:
            yield
        except UserError:
            self._save(requests=book.requests)
            for file in self._files() - files:
                file.unlink()
            raise

    def _files(self) -> set[Path]:
        return set((self.folder / "rows").glob("*.jsonl"))

    def finish(self, entry: Entry, run: Path, stage: str) -> Entry:
        """Enters what a finished run found, and the model that lies in the request's folder."""
        manifest, found = read_json(run / "manifest.json"), read_json(run / "results.json")
        made = next(s for s in manifest["stages"] if s["name"] == stage)
        done = replace(
            entry, status="done", ended=now(), weights=weights_of(str(self.folder / entry.folder)), steps=made["steps"],
            stopped=made["stopped"], seconds=made["seconds"], before=numbers(found, "original"), after=numbers(found, stage),
            recovered=tuple(r for r in found["recovered"] if r["subject"] == stage),
        )  # fmt: skip
        return self._put(done)

    def withdraw(self, request: str) -> Entry:
        """Takes the last request back: the model before it is the newest again. Raises UserError for any other."""
        entry = self.find(request)
        last = self.unfinished or (self.live[-1] if self.live else None)
        if last is None or entry.id != last.id:
            which = f"only the last one can, {last.id}" if last else "none is left"
            raise UserError(f"{request} cannot be taken back: {which}")
        return self._put(replace(entry, status="withdrawn"))

    def tested(self, run: Path, stage: str) -> Retest:
        """Enters what a test found; the same test again takes the place of the earlier one."""
        found, where = read_json(run / "results.json"), run.relative_to(self.folder).as_posix()
        mine = tuple(r for r in found["recovered"] if r["subject"] == stage)
        test = Retest(model=self.newest, ended=now(), run=where, measured=numbers(found, stage), recovered=mine)
        self._save(tests=(*(t for t in self.book.tests if t.run != where), test))
        return test


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Held by one command at a time; the lock goes when its holder dies, however it dies."""
    from filelock import FileLock, Timeout

    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / ".lock")
        lock.acquire(timeout=0)
    except Timeout:
        raise UserError(f"{folder}: this ledger is in use by another command: wait for it to end") from None
    except OSError as error:
        raise UserError(f"{folder}: cannot be used as a ledger ({error.strerror})") from None
    try:
        yield
    finally:
        lock.release()
