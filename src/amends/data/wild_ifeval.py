"""WildIFEval (Lior et al. 2025, arXiv 2503.06573): 7,523 requests of real users, taken apart into 24,731 constraints.

A row has `conversation_id`, `task` (what the user wrote) and `decomposition`, the constraints as sentences for a judge. The
requests come from LMSYS-Chat-1M, whose terms its own licence sets. The set as it is published now leaves `task` out: it is the
first message of the conversation of that id, which `conversations` adds.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from amends.core.errors import UserError
from amends.core.spec import Count, spec
from amends.core.types import Sample
from amends.data.bundle import Bundle
from amends.data.instructed import bundled, chosen, list_of, located, unlike, words_of
from amends.data.text import FilePath

HUB = "gililior/wild-if-eval"
NO_TASK = ": it is the first message of that conversation in lmsys/lmsys-chat-1m: give rows of that set as conversations"


@spec
class WildIFEval:
    """WildIFEval: requests of real users with constraints for a judge; from its file or the hub."""

    file: FilePath | None = None
    """JSON Lines file in the published form; downloaded from the hub when absent."""
    conversations: FilePath | None = None
    """JSON Lines of LMSYS-Chat-1M's rows, or of those that are needed, where the set's own rows hold no `task`."""
    name: str = HUB
    """The data set on the hub, where no file is given."""
    revision: str | None = None
    """A commit on the hub."""
    most: Count | None = 8
    """Leave out requests with more constraints than this, as the paper's analysis does; None keeps them."""
    limit: Count | None = None
    """At most this many requests, drawn by the seed."""
    longest: Count | None = None
    """Only requests of at most this many characters."""

    def load(self, seed: int) -> Bundle:
        """Role test. Raises UserError with file, line and key for bad rows."""
        seen: dict[str, str] = {}
        rows = located(self.file, self.name, "test", self.revision)
        first = _first_messages(self.conversations) if self.conversations else {}
        samples = [unlike(where, _sample(row, where, first), seen) for where, row in rows]
        samples = [s for s in samples if self.most is None or len(s.data["constraints"]) <= self.most]
        return bundled({"test": chosen(samples, seed, limit=self.limit, longest=self.longest)})


def _first_messages(file: str) -> dict[str, str]:
    """What each conversation begins with, by its id; rows of LMSYS-Chat-1M hold `conversation`, a list of messages."""
    found: dict[str, str] = {}
    for where, row in located(file, "", ""):
        turns = list_of(row, "conversation", where, Mapping, "messages with role and content")
        found[words_of(row, "conversation_id", where)] = str(turns[0].get("content") or "") if turns else ""
    return found


def _sample(row: Mapping[str, Any], where: str, first: Mapping[str, str]) -> Sample:
    name = words_of(row, "conversation_id", where)
    if row.get("task") is None and name in first:
        row = {**row, "task": first[name]}
    prompt = words_of(row, "task", where, NO_TASK)
    texts = [text.strip() for text in list_of(row, "decomposition", where, str, "sentences") if text.strip()]
    if not texts:
        raise UserError(f"{where}: key 'decomposition' holds no constraint: mend or remove the row")
    constraints = [{"id": f"c{i}", "text": text} for i, text in enumerate(texts, 1)]
    return Sample(f"wild-{name}", {"prompt": prompt, "constraints": constraints})
