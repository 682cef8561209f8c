"""Connections that live as long as the event loop they were opened in.

Sockets and semaphores belong to one loop, and a client may be used in several, one `asyncio.run` after another. Each loop
gets its own, closed when `asyncio.run` ends: it closes the async generators of its loop, and such a generator holds ours.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from typing import Generic, Protocol, TypeVar
from weakref import WeakKeyDictionary


class Closable(Protocol):
    """Something with connections."""

    async def close(self) -> None:
        """Lets them go."""
        ...


T = TypeVar("T", bound=Closable)


class PerLoop(Generic[T]):
    """One T for each running loop, made when it is first asked for."""

    def __init__(self, make: Callable[[], T]) -> None:
        self._make = make
        self._held: WeakKeyDictionary[asyncio.AbstractEventLoop, tuple[T, AsyncGenerator[None, None]]] = WeakKeyDictionary()

    async def get(self) -> T:
        """The one of the running loop."""
        loop = asyncio.get_running_loop()
        if loop not in self._held:
            made = self._make()
            life = self._life(loop, made)
            self._held[loop] = (made, life)  # before anything is awaited: a second caller finds it
            await anext(life)
        return self._held[loop][0]

    async def _life(self, loop: asyncio.AbstractEventLoop, made: T) -> AsyncGenerator[None, None]:
        try:
            yield
        finally:
            self._held.pop(loop, None)
            await made.close()
