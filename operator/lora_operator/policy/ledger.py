"""The ledger of one namespace and month, as a value: ledger and observation make a ledger.

A module of its own because here it is decided that nothing counts twice. A run is known by its uid
from its admission until its own status says that it is accounted for; only then is it summed up and
its uid forgotten. Whatever write is lost in between, the same observation leads to the same ledger.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from decimal import Decimal

from lora_api.policy_ledger import (
    MAX_LEDGER_BYTES,
    MAX_OPEN_RUNS,
    MAX_USERS,
    MEASURE_BYTES,
    RUN_BYTES,
    SPEED_BYTES,
    USER_BYTES,
    RunState,
)
from lora_operator.policy.money import NOTHING, cost_of
from lora_operator.policy.months import Month
from lora_operator.policy.speed import Measured, Speeds, learned

FINAL = frozenset({RunState.COUNTED, RunState.RETURNED})
# No user can be called so: a user's name begins with a letter or a digit.
OTHERS = "_others"


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What counts of a run."""

    user: str
    recipe: str
    gpus: int
    state: RunState
    gpu_seconds: int = 0
    """GPU-seconds of all its attempts until now."""
    steps: int = 0
    """Steps done."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry(Facts):
    """A run that is not yet summed up."""

    cost: Decimal = NOTHING
    estimate: Decimal | None = None
    queued_at: datetime | None = None
    """Since when it waits, where that is not its creation."""
    measured: Measured | None = None
    """Its training as it was timed, once it has completed."""

    @property
    def has_place(self) -> bool:
        """Whether it counts for the month."""
        return self.state is not RunState.RETURNED

    @property
    def promised(self) -> Decimal:
        """What it is still expected to cost."""
        if self.state in FINAL or self.estimate is None:
            return NOTHING
        return max(NOTHING, self.estimate - self.cost)


@dataclass(frozen=True, slots=True, kw_only=True)
class Total:
    """The sum of a user's runs that are over."""

    trainings: int = 0
    gpu_seconds: int = 0
    cost: Decimal = NOTHING


@dataclass(frozen=True, slots=True, kw_only=True)
class Sighting(Facts):
    """What is seen of a run, as far as the ledger goes."""

    per_gpu_hour: Decimal = NOTHING
    """Price of the node that it is on, or was last."""
    measured: Measured | None = None
    """Its training as it was timed, where it has completed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ledger:
    """The facts of one month; `places`, `spent` and `promised` follow from the others.

    They are kept and not computed, so that a decision costs the same after ten runs and ten
    thousand.
    """

    month: Month
    runs: Mapping[str, Entry] = field(default_factory=dict)
    """Runs that are not yet summed up, by uid."""
    users: Mapping[str, Total] = field(default_factory=dict)
    speeds: Speeds = field(default_factory=dict)
    places: Mapping[str, int] = field(default_factory=dict)
    """Runs that count for the month, by user."""
    spent: Decimal = NOTHING
    promised: Decimal = NOTHING
    """What runs that are not over are still expected to cost."""
    currency: str | None = None
    """Of the amounts."""

    @property
    def is_full(self) -> bool:
        """Whether no further run can be noted: by number, or by the bytes of the document."""
        return len(self.runs) >= MAX_OPEN_RUNS or self._grown_bytes() >= MAX_LEDGER_BYTES

    def _grown_bytes(self) -> int:
        """What the document takes once the runs have grown to what they may come to.

        The room for a run's numbers is kept from its admission, as nobody stops a run for want of
        it later; as a sum of its user it takes less. Names and uids are ASCII.
        """
        runs = sum(
            RUN_BYTES + len(run.user) + len(run.recipe) + (MEASURE_BYTES if run.measured else 0)
            for run in self.runs.values()
        )
        users = sum(USER_BYTES + len(user) for user in self.users)
        return runs + users + SPEED_BYTES * len(self.speeds)

    def has_room_for(self, user: str) -> bool:
        """Whether a user's runs can be counted: each has a sum of its own, or none is left."""
        if len(self.users) + len(self.runs) < MAX_USERS or user in self.users:
            return True
        named = self.users.keys() | {entry.user for entry in self.runs.values()}
        return user in named or len(named) < MAX_USERS


def next_month(ledger: Ledger, month: Month) -> Ledger:
    """An empty ledger, but for the speeds: what a step takes has not changed overnight."""
    return Ledger(month=month, speeds=ledger.speeds)


def admit(ledger: Ledger, uid: str, run: Sighting, estimate: Decimal | None) -> Ledger:
    """Note that a run got its place; admitted again after a crash, it keeps the one it has."""
    if uid in ledger.runs:
        return ledger
    return _with(ledger, uid, _new(run, estimate))


def observe(ledger: Ledger, uid: str, seen: Sighting, *, accounted: bool = False) -> Ledger:
    """Bring what is known of a run up to what is seen of it.

    An end is final, and what was paid for is never unpaid: a late or repeated look, or one by a
    clock that went back, changes nothing. A run that nobody admitted (there was no policy yet, or
    it was admitted by somebody who crashed before the write) is noted as it is.

    Args:
        ledger: What is known.
        uid: Of the run.
        seen: What is seen of it.
        accounted: Whether the run's own status says that it is in the ledger for good.
    """
    known = ledger.runs.get(uid)
    if known is None:
        # What was refused at the gate ends without ever having had a place.
        if accounted or (seen.state is RunState.RETURNED and not seen.gpu_seconds):
            return ledger
        # It is looked at again, and then there may be room.
        if ledger.is_full:
            return ledger
        known = _new(seen, None)
        ledger = _with(ledger, uid, known)
    held = max(0, seen.gpu_seconds - known.gpu_seconds)
    now = replace(
        known,
        state=known.state if known.state in FINAL or _is_back(known, seen) else seen.state,
        gpu_seconds=known.gpu_seconds + held,
        steps=max(known.steps, seen.steps),
        cost=known.cost + cost_of(held, seen.per_gpu_hour),
        measured=known.measured or seen.measured,
    )
    return ledger if now == known else _with(ledger, uid, now)


def pause(ledger: Ledger, uid: str) -> Ledger:
    """A run was suspended: when it goes on, it waits for its turn again."""
    entry = ledger.runs.get(uid)
    if entry is None or entry.state is not RunState.RUNNING:
        return ledger
    return _with(ledger, uid, replace(entry, state=RunState.WAITING))


def queue_anew(ledger: Ledger, uid: str, at: datetime) -> Ledger:
    """A run joined the queue after its user had held it back: that time was no waiting."""
    return _with(ledger, uid, replace(ledger.runs[uid], queued_at=at))


def settle(ledger: Ledger, uid: str) -> Ledger:
    """Sum up a run that is over and whose status says so, and forget its uid."""
    entry = ledger.runs.get(uid)
    if entry is None or entry.state not in FINAL:
        return ledger
    return _summed_up(ledger, uid, entry)


def vanish(ledger: Ledger, uid: str) -> Ledger:
    """Sum up a run whose object is gone: to delete a run gives no quota back."""
    entry = ledger.runs.get(uid)
    if entry is None:
        return ledger
    if entry.state not in FINAL:
        entry = replace(entry, state=RunState.COUNTED)
        ledger = _with(ledger, uid, entry)
    return _summed_up(ledger, uid, entry)


def _new(run: Sighting, estimate: Decimal | None) -> Entry:
    return Entry(
        user=run.user, recipe=run.recipe, gpus=run.gpus, state=RunState.WAITING, estimate=estimate
    )


def _is_back(known: Entry, seen: Sighting) -> bool:
    """Whether a run that was let go has no pod yet, or none just now: its GPUs are its own."""
    return known.state is RunState.RUNNING and seen.state is RunState.WAITING


def _with(ledger: Ledger, uid: str, entry: Entry) -> Ledger:
    old = ledger.runs.get(uid)
    places = ledger.places
    gained = entry.has_place - (old.has_place if old else 0)
    if gained:
        places = {**places, entry.user: places.get(entry.user, 0) + gained}
    return replace(
        ledger,
        runs={**ledger.runs, uid: entry},
        places=places,
        spent=ledger.spent + entry.cost - (old.cost if old else NOTHING),
        promised=ledger.promised + entry.promised - (old.promised if old else NOTHING),
    )


def _summed_up(ledger: Ledger, uid: str, entry: Entry) -> Ledger:
    user = _summed_up_as(ledger, entry.user)
    total = ledger.users.get(user, Total())
    users = dict(ledger.users)
    users[user] = Total(
        trainings=total.trainings + entry.has_place,
        gpu_seconds=total.gpu_seconds + entry.gpu_seconds,
        cost=total.cost + entry.cost,
    )
    places = ledger.places
    if user != entry.user and entry.has_place:
        left = places[entry.user] - 1
        places = {**places, entry.user: left, user: places.get(user, 0) + 1}
    return replace(
        ledger,
        runs={key: value for key, value in ledger.runs.items() if key != uid},
        users=users,
        places=places,
        speeds=_learned(ledger.speeds, entry),
    )


def _summed_up_as(ledger: Ledger, user: str) -> str:
    """Whose sum it goes to; runs from before the policy may be of more users than there are sums.

    The last sum is kept for them: nothing that was paid for is lost.
    """
    has_sum = user in ledger.users or len(ledger.users) < MAX_USERS - 1
    return user if has_sum else OTHERS


def _learned(speeds: Speeds, entry: Entry) -> Speeds:
    """Only what ended well is measured."""
    if entry.state is not RunState.COUNTED:
        return speeds
    return learned(
        speeds,
        entry.recipe,
        entry.measured,
        steps=entry.steps,
        gpus=entry.gpus,
        gpu_seconds=entry.gpu_seconds,
    )
