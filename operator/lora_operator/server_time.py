"""The time that decisions are made by: the API server's, and never much faster than it passes.

A module of its own because what a jumping clock would end can't be taken back: a wait that is given
up, a workspace that is deleted. Timestamps are the API server's, so it is asked what time it is;
and that it says an hour more than a moment ago makes nobody's wait an hour longer.
"""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime

from lora_operator.leader import since_boot
from lora_operator.moments import wall_clock

# How much faster than it passes our time may run until it has caught up with the API server's: no
# limit is reached more than a tenth too early.
CATCH_UP = 0.1
# A `Date` header has whole seconds.
RESOLUTION_SECONDS = 1.0


class ServerTime:
    """What time it is, as the API server's answers tell, carried on by a clock that nobody sets.

    Set back, it goes back at once: whatever then comes later than it should does no harm. Set
    forward, it follows slowly.
    """

    def __init__(
        self,
        *,
        steady: Callable[[], float] = since_boot,
        wall: Callable[[], datetime] = wall_clock,
    ) -> None:
        """Start with the wall clock, until the API server has said something.

        Args:
            steady: Seconds of a clock that only goes on.
            wall: The present as this machine has it.
        """
        self._steady = steady
        self._zero = wall() - timedelta(seconds=steady())
        self._heard_at: float | None = None

    def now(self) -> datetime:
        """The present, in UTC."""
        return self._zero + timedelta(seconds=self._steady())

    def hear(self, date: str, took_seconds: float) -> None:
        """Take in when an answer was given.

        Args:
            date: `Date` header of the answer that has just arrived.
            took_seconds: From the request to now; the answer may be as old.
        """
        try:
            told = parsedate_to_datetime(date)
        except ValueError:
            return
        at, before = self._steady(), self._heard_at
        self._heard_at = at
        earliest = told.replace(tzinfo=told.tzinfo or UTC)
        latest = earliest + timedelta(seconds=RESOLUTION_SECONDS + took_seconds)
        ahead, behind = self.now() - latest, earliest - self.now()
        if ahead > timedelta():
            self._zero -= ahead
        elif behind > timedelta():
            most = behind if before is None else timedelta(seconds=CATCH_UP * (at - before))
            self._zero += min(behind, most)
