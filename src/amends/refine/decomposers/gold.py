"""The constraints a request came with: gold annotations, or a person's own list."""

from __future__ import annotations

from amends.chat.client import Client, Usage
from amends.constraints.constraint import Constraint, Request
from amends.core.spec import spec


@spec
class Gold:
    """The request's own constraints, at no cost."""

    async def decompose(self, request: Request, client: Client) -> tuple[tuple[Constraint, ...], Usage, tuple[str, ...]]:
        """What the request holds; a request that holds none has nothing to check."""
        return request.constraints, Usage(), ()
