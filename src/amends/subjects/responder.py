"""A chat model as a subject: what a run asks, and what each arm of a comparison made of it.

It has no weights here: a client answers, in this process or behind an address. What a stage leaves is not a model but
records, one for each request: the answer, all versions of it, verdicts and costs. They are saved where weights would be
and read by the metrics of compliance and cost.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import SkipValidation
from torch import nn

from amends.chat.client import Message, Params
from amends.core import fingerprint
from amends.core.errors import UserError
from amends.core.spec import Part, spec
from amends.core.types import Sample
from amends.data.bundle import Bundle

RECORDS = "records.jsonl"


@spec
class ChatModel:
    """A model that is asked over messages: a server with OpenAI's interface, or a model of this process."""

    client: Annotated[Any, Part("clients"), SkipValidation]
    """Who answers."""
    cache: str | None = None
    """A file that keeps every answer, so that a second run asks nothing; None keeps none."""

    def content(self) -> str:
        """What changes when the model's files do."""
        inner = getattr(self.client, "content", None)
        return inner() if inner is not None else ""

    def load(self, data: Bundle, seed: int) -> Responder:
        """Asks nothing yet."""
        if self.cache is None:
            return Responder(self.client)
        from amends.chat.cached import Cached

        return Responder(Cached(self.client, Path(self.cache).expanduser()))


class Responder:
    """A client, and the records that a stage made with it."""

    def __init__(self, client: Any) -> None:
        self.client = client
        self.module = nn.Module()
        self.records: dict[str, Mapping[str, Any]] = {}
        """By row id: the JSON of `refine.parts.Refined`, with `text`, the answer that was chosen."""

    def generate(self, samples: Sequence[Sample], max_new_tokens: int = 48, batch_size: int = 16) -> Iterator[list[str]]:
        """The chosen answers where a stage made them; a plain question to the model where none did."""
        for start in range(0, len(samples), batch_size):
            yield asyncio.run(self._several(samples[start : start + batch_size], max_new_tokens))

    async def _several(self, samples: Sequence[Sample], max_new_tokens: int) -> list[str]:
        return list(await asyncio.gather(*(self._one(s, max_new_tokens) for s in samples)))

    async def _one(self, sample: Sample, max_new_tokens: int) -> str:
        if sample.id in self.records:
            return str(self.records[sample.id]["text"])
        asked = str(sample.data.get("prompt") or sample.data.get("question") or "")
        return (await self.client.complete([Message("user", asked)], Params(max_tokens=max_new_tokens))).text

    def fingerprint(self) -> str:
        """Of the records, in the place of weights."""
        return fingerprint.of(sorted(self.records.items()))

    def save(self, folder: Path) -> None:
        """Writes one line a record."""
        folder.mkdir(parents=True, exist_ok=True)
        lines = (json.dumps({"id": row, **record}, ensure_ascii=False) for row, record in self.records.items())
        (folder / RECORDS).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")

    def restore(self, folder: Path) -> None:
        """Puts saved records back. Raises UserError when they are gone or damaged."""
        try:
            lines = (folder / RECORDS).read_text(encoding="utf-8").splitlines()
            rows = [json.loads(line) for line in lines]
        except (OSError, json.JSONDecodeError) as error:
            raise UserError(
                f"{folder / RECORDS}: cannot be read ({error}); remove {folder.parent} to have the stage made again"
            ) from None
        self.records = {row.pop("id"): row for row in rows}
