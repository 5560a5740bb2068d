"""Which waiting runs start next: the order of the queue, and who fits now.

A module of its own because fairness is decided here and nowhere else, so its two promises can be
read off and tested: nobody is starved, and a small run passes a big one only within a bound.

A run's level is its priority plus one for each `agingSeconds` of waiting. The highest level goes
first; within a level the user with the fewest GPUs at work, then age. So a run of priority p is
never passed by one that joined more than (MAX_PRIORITY + 1 - p) * agingSeconds after it,
unless that one starts on GPUs that the first can't use (backfill), which ends once the first has
waited for backfillSeconds, or the first is held back by a limit of its own user.
"""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum, auto

from lora_api.policy import TrainingPolicySpec


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    """A run in the queue."""

    uid: str
    name: str
    user: str
    gpus: int
    created_at: datetime
    priority: int = 0
    seconds: float | None = None
    """How long it is expected to run; None where that is unknown."""
    preemptible: bool = True
    """Whether we could suspend it, once it is at work."""
    queued_at: datetime | None = None
    """When it joined the queue, where that was not when it was created."""

    @property
    def waits_since(self) -> datetime:
        """When it joined the queue."""
        return self.queued_at or self.created_at

    def let_go(self, now: datetime) -> Working:
        """The run at work from now on."""
        return Working(
            uid=self.uid,
            name=self.name,
            user=self.user,
            gpus=self.gpus,
            priority=self.priority,
            created_at=self.created_at,
            started_at=now,
            ends_at=None if self.seconds is None else now + timedelta(seconds=self.seconds),
            preemptible=self.preemptible,
            queued_at=self.queued_at,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Working:
    """A run that was let go, and holds GPUs or is about to."""

    uid: str
    name: str
    user: str
    gpus: int
    created_at: datetime
    started_at: datetime
    priority: int = 0
    ends_at: datetime | None = None
    """When it is expected to end; None where that is unknown."""
    preemptible: bool = True
    """Whether we can suspend it."""
    queued_at: datetime | None = None
    """When it joined the queue, where that was not when it was created."""

    @property
    def waits_since(self) -> datetime:
        """When it joined the queue that it has left since."""
        return self.queued_at or self.created_at


class Fit(Enum):
    """What a run in the queue lacks."""

    FITS = auto()
    NO_SLOT = auto()
    """The namespace runs as many trainings as it may."""
    NO_GPUS = auto()
    """The namespace's GPUs are in use."""
    OWN_TRAININGS = auto()
    """Its user runs as many trainings as one may."""
    OWN_GPUS = auto()
    """Its user holds as many GPUs as one may."""


class Held:
    """GPUs and places that are taken, in all and by user; changed as runs are let go."""

    def __init__(self, working: Iterable[Working]) -> None:
        self.gpus = 0
        self.runs = 0
        self._gpus_of: dict[str, int] = {}
        self._runs_of: dict[str, int] = {}
        for run in working:
            self.take(run.user, run.gpus)

    def take(self, user: str, gpus: int) -> None:
        """Note that a run is let go."""
        self.gpus += gpus
        self.runs += 1
        self._gpus_of[user] = self._gpus_of.get(user, 0) + gpus
        self._runs_of[user] = self._runs_of.get(user, 0) + 1

    def gpus_of(self, user: str) -> int:
        """GPUs that a user's runs hold."""
        return self._gpus_of.get(user, 0)

    def runs_of(self, user: str) -> int:
        """Runs of a user at work."""
        return self._runs_of.get(user, 0)

    def fit(self, user: str, gpus: int, policy: TrainingPolicySpec) -> Fit:
        """What a run of this user with so many GPUs lacks just now."""
        if _is_above(self.runs + 1, policy.max_concurrent_trainings):
            return Fit.NO_SLOT
        if _is_above(self.runs_of(user) + 1, policy.max_concurrent_trainings_per_user):
            return Fit.OWN_TRAININGS
        if gpus and _is_above(self.gpus_of(user) + gpus, policy.max_concurrent_gpus_per_user):
            return Fit.OWN_GPUS
        if gpus and _is_above(self.gpus + gpus, policy.max_concurrent_gpus):
            return Fit.NO_GPUS
        return Fit.FITS


def level_of(run: Waiting | Working, policy: TrainingPolicySpec, now: datetime) -> int:
    """Priority, and one more for each `agingSeconds` since it joined the queue."""
    return run.priority + int(_age(run, now) // policy.queue.aging_seconds)


def in_order(
    waiting: Iterable[Waiting], held: Held, policy: TrainingPolicySpec, now: datetime
) -> Iterator[Waiting]:
    """The queue from its head; who is let go meanwhile is to be noted in `held`.

    Args:
        waiting: All runs in the queue.
        held: What is taken; the next run within a level follows from it as it is then.
        policy: Of the namespace.
        now: The present.
    """
    levels: defaultdict[int, list[Waiting]] = defaultdict(list)
    for run in waiting:
        levels[level_of(run, policy, now)].append(run)
    for level in sorted(levels, reverse=True):
        yield from _by_turns(levels[level], held)


def _by_turns(runs: Iterable[Waiting], held: Held) -> Iterator[Waiting]:
    """Runs of one level: again and again the oldest of the user with the fewest GPUs.

    Only a user's oldest run stands in the heap. Were they all there, each GPU that their user is
    given would move all of them, and a thousand runs of one user would cost a million moves.
    """
    of_users: defaultdict[str, list[Waiting]] = defaultdict(list)
    for run in sorted(runs, key=lambda run: (run.waits_since, run.uid), reverse=True):
        of_users[run.user].append(run)
    heap = [_place(left[-1], held) for left in of_users.values()]
    heapq.heapify(heap)
    while heap:
        *_, run = heapq.heappop(heap)
        left = of_users[run.user]
        left.pop()
        yield run
        if left:
            heapq.heappush(heap, _place(left[-1], held))


def standings(
    waiting: Sequence[Waiting],
    working: Iterable[Working],
    policy: TrainingPolicySpec,
    now: datetime,
) -> tuple[Waiting, ...]:
    """The queue as a list, as if each run in turn were let go: who is told which place."""
    held = Held(working)
    order = []
    for run in in_order(waiting, held, policy, now):
        held.take(run.user, run.gpus)
        order.append(run)
    return tuple(order)


def startable(
    waiting: Sequence[Waiting],
    working: Iterable[Working],
    policy: TrainingPolicySpec,
    now: datetime,
) -> tuple[Waiting, ...]:
    """The runs that start now, in this order.

    Once a run that needs more GPUs than are free has waited for `backfillSeconds`, GPUs are kept
    for it. The same holds among the runs of one user where that user's own limit is in the way.
    """
    held = Held(working)
    if _has_no_room(held, waiting, policy):
        return ()
    backfill = policy.queue.backfill_seconds
    started: list[Waiting] = []
    gpus_kept = False
    kept_of_users: set[str] = set()
    for run in in_order(waiting, held, policy, now):
        if run.gpus and (gpus_kept or run.user in kept_of_users):
            continue
        is_patient = _age(run, now) < backfill
        match held.fit(run.user, run.gpus, policy):
            case Fit.FITS:
                held.take(run.user, run.gpus)
                started.append(run)
            case Fit.NO_SLOT:
                break
            case Fit.NO_GPUS if not is_patient:
                gpus_kept = True
            case Fit.OWN_GPUS if not is_patient:
                kept_of_users.add(run.user)
            case _:
                continue
    return tuple(started)


def _place(run: Waiting, held: Held) -> tuple[int, datetime, str, Waiting]:
    return (held.gpus_of(run.user), run.waits_since, run.uid, run)


def _age(run: Waiting | Working, now: datetime) -> float:
    """Seconds of waiting; a clock that was set back makes nobody younger than new."""
    return max(0.0, (now - run.waits_since).total_seconds())


def _is_above(needed: int, limit: int | None) -> bool:
    return limit is not None and needed > limit


def _has_no_room(held: Held, waiting: Sequence[Waiting], policy: TrainingPolicySpec) -> bool:
    """Whether nothing can start, found without putting the queue in order."""
    if not waiting or _is_above(held.runs + 1, policy.max_concurrent_trainings):
        return True
    limit = policy.max_concurrent_gpus
    return limit is not None and held.gpus >= limit and all(run.gpus for run in waiting)
