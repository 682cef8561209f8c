"""A server of OpenAI's protocol in front of another one, with any function between them.

`answer(messages, params, client)` makes each answer, and may ask the server behind as often as it likes. An answer is only
known when it is whole, so a request for a stream is kept alive by comments while the work goes on, and gets the text in
pieces afterwards. A caller that goes away ends the work that was done for it.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import json
import logging
import signal
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from amends.chat import proxy_wire as wire
from amends.chat.client import BudgetSpent, Client, ClientError, Completion, Message, Params
from amends.chat.clients.openai_api import OpenAIAPI
from amends.core.errors import UserError

Answer = Callable[[Sequence[Message], Params, Client], Awaitable[Completion]]

LARGEST = 16 << 20
"""Bytes of a request, at most."""

log = logging.getLogger("amends.proxy")


async def pass_on(messages: Sequence[Message], params: Params, client: Client) -> Completion:
    """The answer of the server behind, as it is."""
    return await client.complete(messages, params)


@dataclass(frozen=True)
class Proxy:
    """The server in front."""

    to: OpenAIAPI
    """The server behind; callers' keys are passed on to it, and it is given none of this process's."""
    answer: Answer = pass_on
    """Makes the answers."""
    timeout: float = 300.0
    """Seconds that one request may take in all."""
    keep_alive: float = 10.0
    """Seconds between the comments of a stream that waits."""
    max_tokens: int = 1024
    """The longest answer where a request names none."""

    def app(self) -> Starlette:
        """The ASGI application."""
        return Starlette(
            routes=[
                Route("/v1/chat/completions", self._chat, methods=["POST"]),
                Route("/v1/models", self._models, methods=["GET"]),
                Route("/health", _health, methods=["GET"]),
            ],
            exception_handlers={404: _unknown, 405: _unknown},
        )

    async def _chat(self, request: Request) -> Response:
        try:
            asked = wire.read_request(await _body(request), self.max_tokens)
        except wire.BadRequest as error:
            return _failure(str(error), 400)
        except ClientDisconnect:
            return Response(status_code=499)
        client = self.to.asked_as(asked.model, request.headers.get("authorization"), asked.extra)
        model = asked.model or self.to.model or "default"
        work = asyncio.create_task(self._work(asked, client))
        streaming = False
        try:
            await _ended_or_gone(work, request, self.keep_alive if asked.stream else None)
            if asked.stream and not work.done() and not await request.is_disconnected():
                streaming = True  # nothing is known yet: the stream begins, and says later what became of it
                return _events(self._late(work, model, asked.stream_usage))
            if not work.done():
                return Response(status_code=499)
            made = work.result()
        except Exception as error:
            return _failure(*_said(error))
        finally:
            if not streaming:
                await _ended(work)
        return _events(_each(made, model, asked.stream_usage)) if asked.stream else JSONResponse(wire.whole(made, model))

    async def _work(self, asked: wire.Asked, client: Client) -> Completion:
        async with asyncio.timeout(self.timeout):
            return await self.answer(asked.messages, asked.params, client)

    async def _late(self, work: asyncio.Task[Completion], model: str, usage: bool) -> AsyncIterator[str]:
        try:
            while not work.done():
                yield ": still working\n\n"
                await asyncio.wait([work], timeout=self.keep_alive)
            try:
                events = wire.pieces(work.result(), model, usage)
            except Exception as error:
                yield wire.data(wire.error(*_said(error)))
                yield "data: [DONE]\n\n"
                return
            for event in events:
                yield event
        finally:
            await _ended(work)

    async def _models(self, request: Request) -> Response:
        try:
            return JSONResponse(json.loads(await self.to.models(request.headers.get("authorization"))))
        except ValueError:
            return _failure("the server behind lists its models in no JSON", 502)
        except ClientError as error:
            return _failure(*_said(error))


async def _ended_or_gone(work: asyncio.Task[Any], request: Request, patience: float | None) -> None:
    """Returns when the work has ended, the caller has gone, or patience has run out."""
    gone = asyncio.create_task(_gone(request))
    try:
        await asyncio.wait([work, gone], timeout=patience, return_when=asyncio.FIRST_COMPLETED)
    finally:
        await _ended(gone)


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _ended(task: asyncio.Task[Any]) -> None:
    """Cancels a task, and waits until it has let go of what it held."""
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError, Exception):
        await task


async def _each(made: Completion, model: str, usage: bool) -> AsyncIterator[str]:
    for event in wire.pieces(made, model, usage):
        yield event


def _events(events: AsyncIterator[str]) -> StreamingResponse:
    return StreamingResponse(events, media_type="text/event-stream", headers={"Cache-Control": "no-cache"})


def _said(error: Exception) -> tuple[str, int]:
    """What a caller is told of a failure, and its status."""
    if isinstance(error, TimeoutError):
        return "no answer within the time that a request may take", 504
    if isinstance(error, ClientError):
        return str(error), error.status or 502
    if isinstance(error, BudgetSpent):
        return str(error), 429
    log.error("a request failed: %s", type(error).__name__, exc_info=error)
    return f"the proxy failed ({str(error) if isinstance(error, UserError) else type(error).__name__})", 500


def _failure(message: str, status: int) -> JSONResponse:
    return JSONResponse(wire.error(message, status), status)


async def _body(request: Request) -> bytes:
    data = bytearray()
    async for piece in request.stream():
        data += piece
        if len(data) > LARGEST:
            raise wire.BadRequest(f"the body has more than {LARGEST >> 20} MiB")
    return bytes(data)


async def _health(_: Request) -> Response:
    return JSONResponse({"status": "ok"})


async def _unknown(request: Request, error: Exception) -> Response:
    status = getattr(error, "status_code", 404)
    return _failure(f"{request.method} {request.url.path}: there are POST /v1/chat/completions and GET /v1/models", status)


def run(proxy: Proxy, host: str, port: int, said: Callable[[str], None]) -> None:
    """Serves until SIGINT or SIGTERM; `said` is given the base URL. Raises UserError where the port cannot be had.

    In the main thread only: signals.
    """
    import uvicorn

    try:
        socket.getaddrinfo(host, port)
    except OSError as error:
        raise UserError(f"{host}: is no address to listen on ({error.strerror}): 127.0.0.1 is this machine alone") from None
    listening = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host, port))
        listening.listen(128)
    except OSError as error:
        listening.close()
        raise UserError(f"{host} port {port}: {error.strerror or error}: give another one, or 0 for a free one") from None
    shown = f"[{host}]" if ":" in host else host
    said(f"http://{shown}:{listening.getsockname()[1]}/v1")
    options = {"log_level": "warning", "access_log": False, "lifespan": "off", "timeout_graceful_shutdown": 3}
    # uvicorn ends by these signals and raises them again when it has: to be told to stop is no failure
    before = {s: signal.signal(s, lambda *_: None) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        uvicorn.Server(uvicorn.Config(proxy.app(), **options)).run(sockets=[listening])  # type: ignore[arg-type]
    finally:
        listening.close()
        for number, handler in before.items():
            signal.signal(number, handler)


def is_loopback(host: str) -> bool:
    """Whether an address to listen on is reached from this machine alone."""
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return host == "localhost"
