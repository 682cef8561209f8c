"""Files as plain rows, each with the line it starts on: JSON Lines, a JSON array, CSV, or lines of text.

Whatever the bytes, the outcome is rows or one UserError that names file and line: files come from users, and a
traceback of a parser's inside helps nobody. What the rows must hold is `text.py`'s business.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from amends.core.errors import UserError, nearest

Numbered = tuple[int, Any]
"""The line a row starts on, counted from 1, and its value."""

LISTS = ("perturbed_answer", "keys")
"""Columns of a CSV file whose cells hold a JSON list."""


def numbered_rows(path: Path) -> Iterator[Numbered]:
    """The values of a .jsonl, .json or .csv file in order; not yet checked to be objects."""
    readers = {".jsonl": _json, ".json": _json, ".csv": _csv}
    if path.suffix.lower() not in readers:
        raise UserError(f"{path}: rows are read from files that end in .jsonl, .json or .csv")
    return readers[path.suffix.lower()](path, read_text(path))


def numbered_lines(path: Path) -> list[tuple[int, str]]:
    """The lines of a text file that are not blank."""
    lines = [(number, line.strip()) for number, line in enumerate(read_text(path).split("\n"), 1)]
    return [(number, line) for number, line in lines if line]


def read_text(path: Path) -> str:
    """A whole file as text, without a byte-order mark."""
    try:
        raw = path.read_bytes()
    except IsADirectoryError:
        raise UserError(f"{path}: is a folder, and a file is needed") from None
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(f"{path}: no such file") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    try:
        return raw.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        byte = f"byte 0x{raw[error.start]:02x} at offset {error.start}"
        raise UserError(f"{path}:{line}: not UTF-8 text ({byte}): save the file as UTF-8") from None


def _json(path: Path, text: str) -> Iterator[Numbered]:
    if text.lstrip().startswith("["):
        yield from _json_array(path, text)
        return
    for line, content in enumerate(text.split("\n"), 1):
        if content.strip():
            with _json_errors(path, line):
                value = json.loads(content)
            yield line, value


def _json_array(path: Path, text: str) -> Iterator[Numbered]:
    """Element by element, because each one's line is wanted and `json.loads` does not tell it."""
    decoder, line, counted = json.JSONDecoder(), 1, 0
    at = _after_space(text, text.index("[") + 1)
    closed = text.startswith("]", at)
    while not closed:
        line, counted = line + text.count("\n", counted, at), at
        with _json_errors(path, line, whole=True):
            value, at = decoder.raw_decode(text, at)
        yield line, value
        at = _after_space(text, at)
        closed = text.startswith("]", at)
        if not closed and not text.startswith(",", at):
            raise UserError(f"{path}:{_line_at(text, at)}: not valid JSON (expected ',' or ']' after a row)")
        at = at if closed else _after_space(text, at + 1)
    if text[at + 1 :].strip():
        line = _line_at(text, _after_space(text, at + 1))
        raise UserError(f"{path}:{line}: not valid JSON (something follows the closing ']')")


def _after_space(text: str, at: int) -> int:
    while text[at : at + 1] in (" ", "\t", "\n", "\r"):
        at += 1
    return at


def _line_at(text: str, at: int) -> int:
    return text.count("\n", 0, at) + 1


@contextmanager
def _json_errors(path: Path, line: int, whole: bool = False) -> Iterator[None]:
    """`whole`: the decoder sees the whole file, so that its own line numbers hold."""
    try:
        yield
    except json.JSONDecodeError as error:
        line = error.lineno if whole else line
        raise UserError(f"{path}:{line}: not valid JSON at column {error.colno} ({error.msg})") from None
    except RecursionError:
        raise UserError(f"{path}:{line}: JSON nested too deeply to be a row") from None
    except ValueError:  # an integer of more digits than Python converts
        raise UserError(f"{path}:{line}: a number has too many digits") from None


def _csv(path: Path, text: str) -> Iterator[Numbered]:
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    header: list[str] | None = None
    while True:
        line = reader.line_num + 1
        try:
            cells = next(reader, None)
        except csv.Error as error:
            raise UserError(f"{path}:{line}: not valid CSV ({error})") from None
        if cells is None:
            return
        if not any(cell.strip() for cell in cells):
            continue
        if header is None:
            header = _header(path, line, cells)
        elif len(cells) != len(header):
            raise UserError(
                f"{path}:{line}: {len(cells)} cell(s) where the header names {len(header)}: quote cells with commas"
            )
        else:
            yield line, {key: _cell(path, line, key, cell) for key, cell in zip(header, cells, strict=True)}


def _header(path: Path, line: int, cells: list[str]) -> list[str]:
    names = [cell.strip() for cell in cells]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise UserError(f"{path}:{line}: the header names column {shown(twice)} more than once")
    return names


def _cell(path: Path, line: int, key: str, cell: str) -> Any:
    if not cell.strip():
        return None
    if key not in LISTS:
        return cell
    with _json_errors(path, line):
        return json.loads(cell)


def shown(value: object) -> str:
    """A value as it may stand in a one-line message: quoted, escaped and cut.

    >>> shown("a" * 99)
    "'aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa...'"
    """
    text = str(value)
    return repr(text if len(text) <= 40 else f"{text[:40]}...")


def packaged(name: str) -> Path:
    """A data file that the package brings along, for `package:NAME` paths. Raises UserError with the nearest name."""
    root = Path(__file__).resolve().parents[1] / "recipes" / "data"
    path = root / name
    if not path.is_file():
        there = [file.relative_to(root).as_posix() for file in root.rglob("*") if file.is_file()]
        raise UserError(f"package:{name}: the package brings no such data file{nearest(name, there)}")
    return path
