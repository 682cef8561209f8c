"""A trace that answers in place of the model it was recorded from: the same run again, with no model and no network."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

from amends.chat.client import ClientError, Completion, Message, Params
from amends.chat.record import digest, request_of
from amends.chat.trace import read_trace
from amends.core import fingerprint
from amends.core.errors import UserError
from amends.core.spec import spec


@spec
class Replay:
    """Answers from a recorded trace; what was not asked when it was recorded is refused."""

    path: Path
    """The trace."""
    client: str | None = None
    """Whose calls of the trace; may be left out where one client alone was recorded."""

    def content(self) -> str:
        """The trace's sha256."""
        return fingerprint.of_file(self.path) if self.path.is_file() else ""

    @property
    def name(self) -> str:
        """The recorded client's, so that a cache and a report see no difference."""
        return self._recorded[0]

    async def complete(self, messages: Sequence[Message], params: Params) -> Completion:
        """The n-th recorded answer to the n-th equal call, failures included; raises ClientError where there is none."""
        key = digest(request_of(self.name, messages, params))
        answers, n = self._recorded[1].get(key, []), self._asked[key]
        if n >= len(answers):
            last = messages[-1].content if messages else ""
            often = f"{len(answers)} times only" if answers else "never"
            raise ClientError(f"trace {self.path}: this was asked {often}: {' '.join(last.split())[:80]!r} with {params}")
        self._asked[key] += 1
        answer = answers[n]
        if isinstance(answer, ClientError):
            raise ClientError(str(answer), answer.status)
        return answer

    @cached_property
    def _asked(self) -> Counter[str]:
        return Counter()

    @cached_property
    def _recorded(self) -> tuple[str, dict[str, list[Completion | ClientError]]]:
        found: dict[str, dict[str, list[Completion | ClientError]]] = defaultdict(lambda: defaultdict(list))
        for line in read_trace(self.path):
            found[line.client][line.key].append(line.answer)
        names = sorted(found)
        if self.client is None and len(names) != 1:
            raise UserError(
                f"trace {self.path}: holds calls of {len(names)} clients: name one as `client` ({', '.join(names)})"
            )
        name = self.client or names[0]
        if name not in found:
            raise UserError(f"trace {self.path}: holds no call of {name!r}: it has {', '.join(names) or 'none at all'}")
        return name, {key: list(answers) for key, answers in found[name].items()}
