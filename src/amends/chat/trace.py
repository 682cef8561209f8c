"""What was asked and answered, line by line in a JSONL file, so that a run can be read and played again without a model.

A line holds the client's name, the messages, every field of the parameters, and the answer or the failure. Lines stand in
the order in which answers came. `Replay` (in `clients/replay.py`) answers from such a file.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from amends.chat.client import Client, ClientError, Completion, Message, Params
from amends.chat.record import completion_as_json, completion_from_json, digest, request_of
from amends.core.errors import UserError


class Traced:
    """A client that leaves a line for each call; several may write to one file, and it is appended to."""

    def __init__(self, inner: Client, path: Path) -> None:
        self.inner, self.path = inner, path
        path.parent.mkdir(parents=True, exist_ok=True)

    @property
    def name(self) -> str:
        """The inner client's."""
        return self.inner.name

    async def complete(self, messages: Sequence[Message], params: Params) -> Completion:
        """The inner client's answer, or its failure; one that the budget forbids is no call and leaves no line."""
        request = request_of(self.name, messages, params)
        try:
            made = await self.inner.complete(messages, params)
        except ClientError as error:
            self._append({**request, "error": str(error), "status": error.status})
            raise
        self._append({**request, "completion": completion_as_json(made)})
        return made

    def _append(self, line: dict[str, Any]) -> None:
        """One write at the file's end, which other writers' lines cannot cut in two."""
        handle = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            os.write(handle, (json.dumps(line) + "\n").encode())
        finally:
            os.close(handle)


@dataclass(frozen=True, slots=True)
class Line:
    """One recorded call."""

    client: str
    key: str
    """The digest of who was asked what."""
    answer: Completion | ClientError


def read_trace(path: Path) -> Iterator[Line]:
    """The calls of a trace, in order. Raises UserError that names the line; a last line that was cut off is left out."""
    if not path.is_file():
        raise UserError(f"trace {path}: no such file")
    lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
    for number, text in enumerate(lines, 1):
        if not text.strip():
            continue
        try:
            yield _line(json.loads(text))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            if number == len(lines):  # the writer was killed
                return
            raise UserError(f"trace {path}, line {number}: is no recorded call ({error})") from None


def _line(data: Any) -> Line:
    request = {key: data[key] for key in ("client", "messages", "params")}
    failed = "error" in data
    answer = ClientError(data["error"], data["status"]) if failed else completion_from_json(data["completion"])
    return Line(request["client"], digest(request), answer)
