"""Mixed enforcement over real HTTP: which calls carry a schema, what comes of it, and what a client says that cannot."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from chat_server import Handler, chat, server
from refine_world import SHORT, Scripted, request, run

from amends.chat.client import ClientError, Completion, Message, Params, Usage
from amends.chat.clients.openai_api import OpenAIAPI
from amends.constraints.checkers.shapes import JsonFormat
from amends.constraints.constraint import Constraint
from amends.refine.arms.decrim import DeCRIM
from amends.refine.arms.single import Single
from amends.refine.asking import drawn
from amends.refine.critics.programmatic import Programmatic
from amends.refine.parts import Refined

JSON = Constraint(id="json", text="Answer with JSON.", checker=JsonFormat(), depends_on=())


def obeying(handler: Handler, number: int) -> bool:
    """A server that writes JSON where it is made to, and prose where it is not."""
    body = handler.state.seen[-1]
    handler.answer(200, chat('{"bread": "flour"}' if "response_format" in body else "Bread is flour, and much more than that."))
    return True


def schemas(arm: Any, *constraints: Constraint) -> tuple[Refined, list[Any]]:
    """What the arm leaves, and the schema of each call that it made."""
    with server(obeying) as s:
        done = asyncio.run(arm.answer(request(*constraints), OpenAIAPI(base_url=s.base_url, model="small")))
    return done, [body.get("response_format", {}).get("json_schema", {}).get("schema") for body in s.seen]


@pytest.mark.enable_socket
class TestOverHTTP:
    @pytest.mark.parametrize("structured", [False, True])
    def test_one_answer(self, structured: bool) -> None:
        done, asked = schemas(Single(structured=structured), JSON, SHORT)
        assert asked == [{"type": "object"} if structured else None]
        assert JsonFormat().check(done.text).passed is structured

    def test_no_request_is_held_to_what_it_does_not_ask(self) -> None:
        assert schemas(Single(structured=True), SHORT)[1] == [None]
        assert schemas(Single(structured=True))[1] == [None]

    def test_a_schema_of_ones_own_stays(self) -> None:
        mine = {"type": "array"}
        assert schemas(Single(structured=True, params=drawn(schema=mine)), JSON)[1] == [mine]

    def test_the_loop_holds_the_first_answer_and_the_rewrites(self) -> None:
        one = Constraint(id="long", text="Use one word.", checker=SHORT.checker, depends_on=())
        how = {"critic": Programmatic(), "repair": False, "rounds": 2}
        done, asked = schemas(DeCRIM(structured=True, **how), JSON)
        assert (done.stopped, asked) == ("all_pass", [{"type": "object"}])
        done, asked = schemas(DeCRIM(**how), JSON, one)
        assert done.stopped != "all_pass" and set(asked) == {None}


def test_rewrites_are_held_to_the_constraints_that_were_found() -> None:
    """The request brings none: the first answer is free, and the decomposer's finding holds the rewrite."""

    class Found:
        async def decompose(self, request: Any, client: Any) -> Any:
            return (JSON,), Usage(), ()

    client = Scripted(respond="Bread is flour.", rewrite='{"bread": "flour"}')
    done = run(DeCRIM(decomposer=Found(), critic=Programmatic(), structured=True).answer(request(), client))
    assert done.stopped == "all_pass"
    assert [params.schema for _, _, params in client.asked] == [None, {"type": "object"}]


def test_a_client_that_cannot_ends_the_request_with_its_reason() -> None:
    class Plain:
        name = "plain"

        async def complete(self, messages: list[Message], params: Params) -> Completion:
            raise ClientError("plain: cannot be held to a JSON schema", 400)

    done = run(Single(structured=True).answer(request(JSON), Plain()))
    assert done.stopped == "client_error" and "cannot be held to a JSON schema" in done.notes[0]
