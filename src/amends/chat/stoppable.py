"""A client that a person can stop: what is under way is given up, and what was made before stays with whoever made it.

Ctrl-C in the middle of a call would end the process with all that was paid for. A stopped call fails like one that no server
answers, so that a loop ends with the best it has.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Iterator, Sequence

from amends.chat.client import Client, ClientError, Completion, Message, Params


class Stop:
    """The wish to stop, once for all clients that share it."""

    def __init__(self) -> None:
        self._asked = asyncio.Event()

    @property
    def asked(self) -> bool:
        """Whether somebody wished it."""
        return self._asked.is_set()

    def ask(self) -> None:
        """From the event loop's own thread."""
        self._asked.set()

    async def wait(self) -> None:
        """Until somebody wishes it."""
        await self._asked.wait()

    @contextlib.contextmanager
    def on_interrupt(self) -> Iterator[None]:
        """Inside a running event loop of the main thread: the first Ctrl-C is the wish, the second ends the process."""
        loop = asyncio.get_running_loop()

        def first() -> None:
            loop.remove_signal_handler(signal.SIGINT)
            self.ask()

        try:
            loop.add_signal_handler(signal.SIGINT, first)
        except (RuntimeError, ValueError):  # not the main thread, or a system without signals in its loop
            yield
            return
        try:
            yield
        finally:
            loop.remove_signal_handler(signal.SIGINT)


class Stoppable:
    """A client whose calls are given up when `stop` is asked for."""

    def __init__(self, inner: Client, stop: Stop) -> None:
        self.inner, self.stop = inner, stop

    @property
    def name(self) -> str:
        """The inner client's."""
        return self.inner.name

    async def complete(self, messages: Sequence[Message], params: Params) -> Completion:
        """The inner client's answer; raises ClientError where the stop comes first."""
        call = asyncio.ensure_future(self.inner.complete(messages, params))
        stopped = asyncio.ensure_future(self.stop.wait())
        try:
            await asyncio.wait([call, stopped], return_when=asyncio.FIRST_COMPLETED)
            if not call.done():
                raise ClientError("it was stopped")
            return call.result()
        finally:
            for task in (call, stopped):
                task.cancel()
            await asyncio.gather(call, stopped, return_exceptions=True)
