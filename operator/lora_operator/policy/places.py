"""The places of a namespace's queue, as its runs are told.

A module of its own because what is told may be a second old, and what is decided may not: who
starts and who makes room is never found from here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from lora_api.policy import TrainingPolicySpec
from lora_operator.policy.queue import Waiting, Working, standings
from lora_operator.policy.space import Namespace

# Levels rise with time alone; thousands of looks a minute are told of it soon enough so.
MAX_AGE = timedelta(seconds=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Order:
    queue: tuple[Waiting, ...]
    positions: Mapping[str, int]
    waiting: Mapping[str, Waiting]
    working: Mapping[str, Working]
    policy: TrainingPolicySpec
    found_at: datetime

    def is_of(self, space: Namespace, now: datetime) -> bool:
        # Each change makes another mapping. A clock that was set back makes nothing young.
        return (
            self.waiting is space.waiting
            and self.working is space.working
            and self.policy == space.policy
            and timedelta(0) <= now - self.found_at < MAX_AGE
        )


class Places:
    """Who waits, in order: found once for all looks until something changes or a second is over.

    A queue of thousands takes tens of milliseconds to put in order, and each of its runs is looked
    at again and again.
    """

    def __init__(self) -> None:
        self._order: _Order | None = None

    def queue(self, space: Namespace, now: datetime) -> tuple[Waiting, ...]:
        """The queue from its head, as if each run in turn were let go."""
        return self._of(space, now).queue

    def position(self, space: Namespace, uid: str, now: datetime) -> int | None:
        """The run's index in the queue; None for one that does not wait."""
        return self._of(space, now).positions.get(uid)

    def _of(self, space: Namespace, now: datetime) -> _Order:
        if self._order is None or not self._order.is_of(space, now):
            waiting, working = tuple(space.waiting.values()), space.working.values()
            queue = standings(waiting, working, space.policy, now)
            self._order = _Order(
                queue=queue,
                positions={run.uid: index for index, run in enumerate(queue)},
                waiting=space.waiting,
                working=space.working,
                policy=space.policy,
                found_at=now,
            )
        return self._order
