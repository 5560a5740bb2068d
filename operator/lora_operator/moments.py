"""When things last happened, by a clock that nobody sets, told in the words of the one on the wall.

A module of its own because "nothing for ten minutes" must not be concluded from a wall clock that
jumped: every run would look stalled at once.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta


def wall_clock() -> datetime:
    """The present, in UTC."""
    return datetime.now(UTC)


class Moments(Mapping[str, datetime]):
    """The last moment of each name; as far from now as it was long ago, wherever now has jumped."""

    def __init__(
        self,
        *,
        steady: Callable[[], float] = time.monotonic,
        wall: Callable[[], datetime] = wall_clock,
    ) -> None:
        """Start empty.

        Args:
            steady: Seconds of a clock that only goes on.
            wall: The present as others see it.
        """
        self._steady = steady
        self._wall = wall
        self._at: dict[str, float] = {}

    def note(self, name: str) -> None:
        """It happened now."""
        self._at[name] = self._steady()

    def note_first(self, name: str) -> None:
        """It happened now, unless it has happened before."""
        self._at.setdefault(name, self._steady())

    def keep_only(self, names: set[str]) -> None:
        """Forget all others."""
        for name in self._at.keys() - names:
            del self._at[name]

    def __getitem__(self, name: str) -> datetime:
        return self._wall() - timedelta(seconds=self._steady() - self._at[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self._at)

    def __len__(self) -> int:
        return len(self._at)
