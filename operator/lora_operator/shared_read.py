"""One read for all who ask for the same thing at once, and none older than the question.

A module of its own because the order is delicate: an answer that was under way when somebody asked
may be older than what made them ask.
"""

import asyncio
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)


class SharedRead(Generic[K]):
    """Reads one key at a time; whoever asks meanwhile shares the next read of it."""

    def __init__(self, read: Callable[[K], Awaitable[None]]) -> None:
        """Share `read`, whose errors go to all who wait for it."""
        self._read = read
        self._running: dict[K, asyncio.Task[None]] = {}
        self._next: dict[K, asyncio.Task[None]] = {}

    async def __call__(self, key: K) -> None:
        """Wait for a read of the key that begins after this call."""
        task = self._next.get(key)
        if task is None:
            task = self._next[key] = asyncio.create_task(self._begin(key, self._running.get(key)))
        # Who gives up waiting must not take the answer from the others.
        await asyncio.shield(task)

    async def _begin(self, key: K, earlier: asyncio.Task[None] | None) -> None:
        if earlier is not None:
            await asyncio.wait({earlier})
        self._running[key] = self._next.pop(key)
        try:
            await self._read(key)
        finally:
            del self._running[key]
