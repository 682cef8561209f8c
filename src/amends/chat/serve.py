"""A GGUF model served on this machine over OpenAI's protocol, by llama.cpp out of the package xllamacpp.

`serve` runs in this process until it is told to stop; `serving` runs it in a process of its own for as long as a `with` block
lasts. The server binds to 127.0.0.1 alone: it asks for no key.

One thread is the default: on a machine that others share, llama.cpp's threads wait for each other by spinning, and two of
them can be many times slower than one. More requests at a time is what makes it faster, since they share each reading of
the weights.
"""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from queue import Empty, Queue
from typing import Any

from amends.core.errors import UserError

HOST = "127.0.0.1"
KEPT_PROMPTS_MB = 256
"""Memory for prompts that were read already, which later requests may begin with."""


@dataclass(frozen=True, slots=True)
class Served:
    """A server that answers."""

    base_url: str
    """What `OpenAIAPI(base_url=...)` takes."""
    model: str
    """The model's name there."""
    pid: int


@dataclass(frozen=True)
class Serving:
    """How a model is served."""

    file: str
    """The GGUF file."""
    parallel: int = 4
    """Requests at a time; further ones wait."""
    ctx: int = 2048
    """Tokens of prompt and answer that one request may have."""
    threads: int = 1
    port: int = 0
    """0 picks a free one."""

    @property
    def model(self) -> str:
        """The file's name without its ending."""
        return Path(self.file).stem


def serve(how: Serving, said: Callable[[str], None], stop: threading.Event | None = None) -> None:
    """Serves until SIGINT, SIGTERM or `stop`; `said` is given the base URL once requests are answered.

    Raises UserError for a file that is no GGUF model and for a port that is taken. In the main thread only: signals.
    """
    _check(how)
    import xllamacpp

    library: Any = xllamacpp  # a compiled module, which type checkers cannot look into
    stop = threading.Event() if stop is None else stop
    before = {s: signal.signal(s, lambda *_: stop.set()) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        try:
            server = library.Server(_params(library, how))
        except RuntimeError as error:
            raise UserError(f"{how.file}: llama.cpp could not serve it ({error}): is it a whole language model?") from None
        said(f"{server.listening_address}/v1")
        while not stop.wait(3600):
            pass
        del server  # ends its threads; what is being answered is broken off
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _params(library: Any, how: Serving) -> Any:
    made = library.CommonParams()
    made.model.path = how.file
    made.model_alias = {how.model}
    made.hostnames, made.port = [HOST], how.port
    made.n_parallel, made.n_ctx = how.parallel, how.ctx * how.parallel  # llama.cpp divides the context among the slots
    made.cpuparams.n_threads = made.cpuparams_batch.n_threads = how.threads
    made.n_gpu_layers = made.verbosity = 0
    made.ui = made.fit_params = made.warmup = False
    made.cors_origins = ""  # no page of the web may ask it
    made.cache_ram_mib = KEPT_PROMPTS_MB
    return made


def _check(how: Serving) -> None:
    path = Path(how.file)
    if not path.is_file():
        raise UserError(f"{path}: no such GGUF file")
    with path.open("rb") as file:
        if file.read(4) != b"GGUF":
            raise UserError(f"{path}: is no GGUF file")
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, how.port))
        except OSError as error:
            raise UserError(f"port {how.port}: {error.strerror or error}: give another one, or 0 for a free one") from None


@contextmanager
def serving(
    file: Path, parallel: int = 4, ctx: int = 2048, threads: int = 1, port: int = 0, wait: float = 120.0
) -> Iterator[Served]:
    """A server in a process of its own, which answers when the block begins and is gone when it ends.

    It ends as well when this process dies. Raises UserError with what it said where it does not answer within `wait` seconds.
    """
    how = Serving(str(file), parallel, ctx, threads, port)
    command = [sys.executable, "-m", __name__, json.dumps(asdict(how))]
    with tempfile.TemporaryFile("w+", errors="replace") as complaints:  # a pipe that nobody reads would fill up
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=complaints, text=True)
        try:
            url = _first_line(process, how, wait)
            if not url:
                process.wait()
                complaints.seek(0)
                raise UserError(complaints.read().strip().split("\n")[-1] or f"{file}: the server did not start")
            _until_healthy(url, time.monotonic() + wait)
            yield Served(url, how.model, process.pid)
        finally:
            _end(process)


def _first_line(process: subprocess.Popen[str], how: Serving, wait: float) -> str:
    """What it says first; empty where it ended without a word."""
    first: Queue[str] = Queue()
    out = process.stdout
    threading.Thread(target=lambda: first.put(out.readline() if out else ""), daemon=True).start()
    try:
        return first.get(timeout=wait).strip()
    except Empty:
        raise UserError(f"{how.file}: the server did not start within {wait:g} s") from None


def _end(process: subprocess.Popen[str]) -> None:
    process.terminate()
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    for stream in (process.stdin, process.stdout):
        if stream:
            stream.close()


def _until_healthy(base_url: str, ends: float) -> None:
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # a proxy of the environment is not asked
    while True:
        try:
            with direct.open(f"{base_url.removesuffix('/v1')}/health", timeout=5) as answer:
                if answer.status == 200:
                    return
        except OSError as error:
            if time.monotonic() > ends:
                raise UserError(f"{base_url}: the server started and does not answer ({error})") from None
        time.sleep(0.05)


def _child() -> None:
    """What `serving` starts: says the address on standard output, and ends when standard input does."""
    stop = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.read(), stop.set()), daemon=True).start()

    def said(url: str) -> None:
        sys.stdout.write(f"{url}\n")
        sys.stdout.flush()

    try:
        serve(Serving(**json.loads(sys.argv[1])), said, stop)
    except UserError as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(2)


if __name__ == "__main__":
    _child()
