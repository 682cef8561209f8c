"""A client whose answers are kept in a file, as a part of a recipe: a judge's, which the subject's own cache does not see."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

from pydantic import SkipValidation

from amends.chat.cached import Cached
from amends.chat.client import Completion, Message, Params
from amends.core.spec import Part, spec


@spec
class Kept:
    """Another client, each of whose answers is asked for once and kept in one SQLite file."""

    of: Annotated[Any, Part("clients"), SkipValidation]
    """Who is asked where nothing is kept yet."""
    file: str
    """The file; several clients and processes may share it."""

    def content(self) -> str:
        """The inner client's: what is kept changes no answer."""
        inner = getattr(self.of, "content", None)
        return inner() if inner is not None else ""

    @property
    def name(self) -> str:
        """The inner client's."""
        return self.of.name

    async def complete(self, messages: Sequence[Message], params: Params) -> Completion:
        """The kept answer, or the inner client's. Raises UserError for a file that is no cache."""
        return await self._cache.complete(messages, params)

    @cached_property
    def _cache(self) -> Cached:
        return Cached(self.of, Path(self.file).expanduser())
