"""For how long a trainer has done nothing, as far as anybody could know.

A module of its own because silence has two ends: a trainer that hangs does not answer, and an
operator behind a new NetworkPolicy, or on a node that is cut off, hears nothing of trainers that
work. Ended for the latter, every run of a cluster would lose its attempt at once.
"""

from collections.abc import Callable
from datetime import datetime, timedelta
from time import monotonic

from lora_operator.moments import Moments, wall_clock

# Connections that a process takes no more fill a queue of the kernel's within a few questions, and
# then none is made. Who was reached in vain so often before that is no less hung after it.
SURELY_HUNG = 3


class Standstill(Moments):
    """When each trainer last moved, later by the silence that proves nothing."""

    def __init__(
        self,
        *,
        steady: Callable[[], float] = monotonic,
        wall: Callable[[], datetime] = wall_clock,
    ) -> None:
        """Start empty; the clocks are those of `Moments`."""
        super().__init__(steady=steady, wall=wall)
        self._excused: dict[str, float] = {}
        self._hung: dict[str, int] = {}
        self._asked_at: dict[str, float] = {}
        self._answered_at: dict[str, float] = {}

    def note(self, name: str) -> None:
        """It moved just now."""
        super().note(name)
        self._excused.pop(name, None)

    def answered(self, name: str, *, place: str) -> None:
        """It answered: if it has not moved, then not in all the time since it did either."""
        self._excused.pop(name, None)
        self._hung.pop(name, None)
        self._asked_at[name] = self._answered_at[place] = self._steady()

    def silent(self, name: str, *, place: str, is_its_own: bool) -> None:
        """It was asked in vain.

        Args:
            name: The pod.
            place: Its namespace, which NetworkPolicies hold for.
            is_its_own: Whether it was reached and still did not answer. Else the silence counts
                only where another trainer of the place has answered meanwhile.
        """
        now = self._steady()
        since = self._asked_at.get(name, now)
        if self._hung.get(name, 0) < SURELY_HUNG:
            self._hung[name] = self._hung.get(name, 0) + 1 if is_its_own else 0
        is_hung = is_its_own or self._hung[name] >= SURELY_HUNG
        if not is_hung and self._answered_at.get(place, since) <= since:
            self._excused[name] = self._excused.get(name, 0.0) + now - since
        self._asked_at[name] = now

    def keep_only(self, names: set[str]) -> None:
        """Forget all others."""
        super().keep_only(names)
        gone = self._asked_at.keys() - names
        for name in gone:
            del self._asked_at[name]
            self._excused.pop(name, None)
            self._hung.pop(name, None)
        if not names:
            self._answered_at.clear()

    def __getitem__(self, name: str) -> datetime:
        return super().__getitem__(name) + timedelta(seconds=self._excused.get(name, 0.0))
