"""Mixed enforcement: the part of a request that a server can hold an answer to is handed to it; the loop sees to the rest.

A constraint that the whole answer is JSON can be kept while the answer is written: a back end that takes `Params.schema` writes
nothing else. What is asked of it is any object, since a constraint names no keys. A client that cannot hold an answer to
a schema refuses the call, and says so.
"""

from __future__ import annotations

from dataclasses import replace

from amends.chat.client import Params
from amends.constraints.checkers.shapes import JsonFormat
from amends.constraints.constraint import Request

ANY_OBJECT = {"type": "object"}
"""Every JSON object."""


def with_schema(params: Params, request: Request, structured: bool) -> Params:
    """The parameters, with a JSON schema where that is wanted, the whole answer is to be JSON, and none is set yet."""
    asks = any(isinstance(constraint.checker, JsonFormat) for constraint in request.constraints)
    return replace(params, schema=ANY_OBJECT) if structured and asks and params.schema is None else params
