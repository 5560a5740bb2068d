"""The work queue: which run is looked at next, and when.

A module of its own because its promises carry the whole operator: a key waits at most once, is
never worked on twice at the same time, comes back later after an error, and can be woken at a
time. The bookkeeping takes the time as an argument, so tests need no clock.
"""

import asyncio
import heapq
import random
from collections import deque
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
# Of so many looks in a row, one goes to a key that is not urgent, however many urgent ones wait.
FAIR_SHARE = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Backoff:
    """Exponential back-off per key, with jitter so that keys that failed together spread out."""

    first_seconds: float = 0.2
    # At the latest so long after the end of an outage, what failed all through it is looked at.
    longest_seconds: float = 15.0
    jitter: float = 0.2

    def delay(self, failures: int, chance: float) -> float:
        """Seconds to wait after a number of failures in a row.

        Args:
            failures: At least 1.
            chance: Uniform random number in [0, 1).
        """
        # The exponent is capped because a float overflows long before a key stops failing.
        plain = min(self.longest_seconds, self.first_seconds * 2.0 ** min(failures - 1, 30))
        return plain * (1 + self.jitter * (2 * chance - 1))


class Schedule(Generic[K]):
    """The queue's bookkeeping: no clock, no waiting."""

    def __init__(
        self, *, backoff: Backoff = Backoff(), chance: Callable[[], float] = random.random
    ) -> None:
        """Start empty.

        Args:
            backoff: How long a failed key waits.
            chance: Source of the jitter, uniform in [0, 1).
        """
        self._backoff = backoff
        self._chance = chance
        self._ready: deque[K] = deque()
        self._urgent: deque[K] = deque()
        self._urgent_in_a_row = 0
        self._queued: dict[K, bool] = {}
        self._busy: set[K] = set()
        self._again: dict[K, bool] = {}
        self._due: dict[K, float] = {}
        self._heap: list[tuple[float, int, K]] = []
        self._ticket = 0
        self._failures: dict[K, int] = {}

    def __len__(self) -> int:
        """Keys that could be worked on now, those in work not counted."""
        return len(self._ready) + len(self._urgent)

    @property
    def urgent(self) -> int:
        """Urgent keys that could be worked on now."""
        return len(self._urgent)

    def add(self, key: K, *, urgent: bool = False) -> None:
        """Ask for a look at the key as soon as possible; a back-off is not cut short by news.

        Args:
            key: Waits at most once; where it waits already, it keeps its place, or goes over to
                the urgent ones.
            urgent: Whether it goes before those that are not.
        """
        if key in self._failures and key in self._due:
            return
        if key in self._busy:
            self._again[key] = urgent or self._again.get(key, False)
        elif key not in self._queued:
            self._queued[key] = urgent
            (self._urgent if urgent else self._ready).append(key)
        elif urgent and not self._queued[key]:
            self._queued[key] = True
            self._ready.remove(key)
            self._urgent.append(key)

    def add_at(self, key: K, when: float) -> None:
        """Ask for a look at a time; the earliest wish per key counts."""
        if key in self._due and self._due[key] <= when:
            return
        self._due[key] = when
        self._ticket += 1
        heapq.heappush(self._heap, (when, self._ticket, key))

    def next(self, now: float) -> K | None:
        """Take the next key to work on, or None where none is ready."""
        while self._heap and self._heap[0][0] <= now:
            when, _, key = heapq.heappop(self._heap)
            if self._due.get(key) == when:
                del self._due[key]
                self.add(key)
        line = self._next_line()
        if not line:
            return None
        key = line.popleft()
        del self._queued[key]
        self._busy.add(key)
        # The look that begins now will say itself when it wants the next one.
        self._due.pop(key, None)
        return key

    def _next_line(self) -> deque[K]:
        is_fair = self._urgent_in_a_row < FAIR_SHARE - 1 or not self._ready
        if self._urgent and is_fair:
            self._urgent_in_a_row += 1
            return self._urgent
        self._urgent_in_a_row = 0
        return self._ready

    def next_due(self) -> float | None:
        """When the next sleeping key wakes, or None where none sleeps."""
        while self._heap and self._due.get(self._heap[0][2]) != self._heap[0][0]:
            heapq.heappop(self._heap)
        return self._heap[0][0] if self._heap else None

    def done(self, key: K) -> None:
        """The work on the key went well."""
        self._failures.pop(key, None)
        self._release(key)

    def failed(self, key: K, now: float, *, at_least_seconds: float = 0.0) -> float:
        """The work on the key failed; it comes back after its back-off.

        Returns:
            Seconds until then.
        """
        count = self._failures[key] = self._failures.get(key, 0) + 1
        delay = max(at_least_seconds, self._backoff.delay(count, self._chance()))
        # What happened meanwhile is seen then, too.
        self._again.pop(key, None)
        self._release(key)
        self.add_at(key, now + delay)
        return delay

    def _release(self, key: K) -> None:
        self._busy.discard(key)
        urgent = self._again.pop(key, None)
        if urgent is not None:
            self.add(key, urgent=urgent)


class WorkQueue(Generic[K]):
    """The schedule with a clock: `get` waits until a key is ready."""

    def __init__(self, *, schedule: Schedule[K], clock: Callable[[], float]) -> None:
        """Wrap a schedule.

        Args:
            schedule: The bookkeeping.
            clock: Monotonic seconds.
        """
        self._schedule = schedule
        self._clock = clock
        self._news = asyncio.Event()
        self._closed = False

    def __len__(self) -> int:
        return len(self._schedule)

    @property
    def is_pressed(self) -> bool:
        """Whether urgent keys wait."""
        return self._schedule.urgent > 0

    def add(self, key: K, *, urgent: bool = False) -> None:
        """Ask for a look at the key as soon as possible, or before all that are not urgent."""
        self._schedule.add(key, urgent=urgent)
        self._news.set()

    def add_after(self, key: K, seconds: float) -> None:
        """Ask for a look in some seconds; the earliest wish per key counts."""
        self._schedule.add_at(key, self._clock() + max(0.0, seconds))
        self._news.set()

    def close(self) -> None:
        """End every `get` from now on."""
        self._closed = True
        self._news.set()

    async def get(self) -> K | None:
        """Wait for a key; the caller must end with `done` or `failed`.

        Returns:
            None once the queue is closed.
        """
        while not self._closed:
            now = self._clock()
            key = self._schedule.next(now)
            if key is not None:
                return key
            self._news.clear()
            due = self._schedule.next_due()
            try:
                async with asyncio.timeout(None if due is None else max(0.0, due - now)):
                    await self._news.wait()
            except TimeoutError:
                continue
        return None

    def done(self, key: K) -> None:
        """The work on the key went well."""
        self._schedule.done(key)
        self._news.set()

    def failed(self, key: K, *, at_least_seconds: float = 0.0) -> float:
        """The work on the key failed; it comes back after its back-off, in seconds."""
        delay = self._schedule.failed(key, self._clock(), at_least_seconds=at_least_seconds)
        self._news.set()
        return delay
