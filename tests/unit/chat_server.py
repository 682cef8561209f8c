"""A real server of OpenAI's shape on 127.0.0.1, which behaves and misbehaves as it is told; shared by the tests of clients."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Script = Callable[["Handler", int], bool]
"""Given the handler and the number of the request; True where it has answered, or not, as it wanted."""


@dataclass
class Server:
    """What the server does and saw."""

    script: Script | None = None
    models: list[str] = field(default_factory=lambda: ["small"])
    seen: list[dict[str, Any]] = field(default_factory=list)
    """Bodies of the chat completions that were asked for."""
    headers: list[Any] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    most_at_once: int = 0
    delay: float = 0.0
    gone: int = 0
    """Requests whose caller had closed the connection before the answer."""
    base_url: str = ""
    now: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)


class Handler(BaseHTTPRequestHandler):
    """Answers `echo: <last message>`, unless the script does something else."""

    protocol_version = "HTTP/1.1"
    state: Server

    def do_GET(self) -> None:
        self.state.headers.append(self.headers)
        self.answer(200, {"object": "list", "data": [{"id": m, "object": "model"} for m in self.state.models]})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        state = self.state
        with state.lock:
            state.seen.append(body)
            state.headers.append(self.headers)
            state.times.append(time.monotonic())
            number = len(state.seen)
            state.now += 1
            state.most_at_once = max(state.most_at_once, state.now)
        try:
            if state.script is not None and state.script(self, number):
                return
            time.sleep(state.delay)
            self.answer(200, chat(f"echo: {body['messages'][-1]['content']}"))
        finally:
            with state.lock:
                state.now -= 1

    def answer(self, status: int, data: Any, headers: dict[str, str] | None = None) -> None:
        raw = data if isinstance(data, bytes) else json.dumps(data).encode()
        self.send_response(status)
        for key, value in {"Content-Type": "application/json", "Content-Length": str(len(raw)), **(headers or {})}.items():
            self.send_header(key, value)
        self.end_headers()
        self.wfile.write(raw)

    def log_message(self, format: str, *args: Any) -> None:
        """Says nothing."""


def chat(text: str | None, **more: Any) -> dict[str, Any]:
    """A well-formed answer."""
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
    usage = {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}
    return {"id": "x", "object": "chat.completion", "created": 0, "model": "small", "choices": [choice], "usage": usage, **more}


class _Quiet(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A caller that goes away is part of the tests."""


@contextmanager
def server(script: Script | None = None, **state: Any) -> Iterator[Server]:
    """One on a free port, until the block ends."""
    made = Server(script, **state)
    http = _Quiet(("127.0.0.1", 0), type("Bound", (Handler,), {"state": made}))
    made.base_url = f"http://127.0.0.1:{http.server_address[1]}/v1"
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield made
    finally:
        http.shutdown()
        http.server_close()
        thread.join(5)
