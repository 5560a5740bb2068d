"""What is known of a namespace that has a policy, and the small steps that change it.

A module of its own because who asks (`gate`) and whose turn it is (`turns`) are decided apart from
each other, and both must leave ledger, queue and those at work in one piece.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime

from lora_api.policy import TrainingPolicySpec
from lora_api.policy_ledger import RunState
from lora_operator.policy import ledger as ledgers
from lora_operator.policy.ledger import Ledger, Sighting
from lora_operator.policy.limits import Request
from lora_operator.policy.months import Month
from lora_operator.policy.queue import Waiting, Working
from lora_operator.policy.speed import of_recipe


@dataclass(frozen=True, slots=True, kw_only=True)
class Applicant:
    """A run that asks to be admitted."""

    uid: str
    name: str
    request: Request
    created_at: datetime
    priority: int = 0
    preemptible: bool = True
    """Whether we could suspend it."""
    started_at: datetime | None = None
    """Since when it is at work, by its own status."""
    resumed_at: datetime | None = None
    """When its user let it go on, where that is now; it had not waited before."""

    @property
    def at_work_since(self) -> datetime:
        """When it was let go, as far as anybody remembers it."""
        return self.started_at or self.created_at


@dataclass(frozen=True, slots=True, kw_only=True)
class Deferred:
    """Neither admitted nor refused: it asks again, for the reason that the message gives."""

    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Namespace:
    """What is known of a namespace that has a policy."""

    policy: TrainingPolicySpec
    ledgers: Mapping[Month, Ledger] = field(default_factory=dict)
    waiting: Mapping[str, Waiting] = field(default_factory=dict)
    working: Mapping[str, Working] = field(default_factory=dict)
    preempted: frozenset[str] = frozenset()
    """Runs at work that are to make room."""
    beneficiary: str | None = None
    """The run that room is made for: its turn is the next, whatever levels have become by then."""
    asked_for_room_at: datetime | None = None
    """Since when they are to make room."""
    stuck: frozenset[str] = frozenset()
    """Runs at work that did not make room in time: they keep their GPUs, and are left alone."""

    def ledger_of(self, created_at: datetime) -> Ledger:
        """The ledger of a run that was created then; a new month knows the speeds of the last."""
        month = Month.of(created_at)
        known = self.ledgers.get(month)
        if known is not None:
            return known
        latest = max(self.ledgers, default=None)
        begun = (
            Ledger(month=month)
            if latest is None
            else ledgers.next_month(self.ledgers[latest], month)
        )
        return replace(begun, currency=self.policy.currency)


def keeping(space: Namespace, ledger: Ledger) -> Namespace:
    """The namespace with a ledger as it is by now."""
    if space.ledgers.get(ledger.month) is ledger:
        return space
    return replace(space, ledgers={**space.ledgers, ledger.month: ledger})


def entrant(run: Applicant, ledger: Ledger) -> Waiting:
    """The run as it stands in the queue."""
    entry = ledger.runs.get(run.uid)
    return Waiting(
        uid=run.uid,
        name=run.name,
        user=run.request.user,
        gpus=run.request.gpus,
        created_at=run.created_at,
        priority=run.priority,
        seconds=_expected_seconds(run.request, ledger),
        preemptible=run.preemptible,
        queued_at=entry.queued_at if entry is not None else None,
    )


def joined(space: Namespace, run: Applicant, ledger: Ledger) -> Namespace:
    """The namespace with the run in its queue."""
    stands = entrant(run, ledger)
    if space.waiting.get(run.uid) == stands:
        return space
    return replace(space, waiting={**space.waiting, run.uid: stands})


def working_as(space: Namespace, run: Working) -> Namespace:
    """The namespace with the run at work."""
    return replace(space, working={**space.working, run.uid: run})


def put_to_work(space: Namespace, run: Waiting, now: datetime) -> Namespace:
    """The namespace with a run of its queue let go, in the ledger too."""
    space = without(in_state(space, run, RunState.RUNNING), run.uid)
    return working_as(space, run.let_go(now))


def in_state(space: Namespace, run: Waiting, state: RunState) -> Namespace:
    """The namespace with a run in another state in the ledger."""
    ledger = space.ledger_of(run.created_at)
    entry = ledger.runs[run.uid]
    seen = Sighting(user=entry.user, recipe=entry.recipe, gpus=entry.gpus, state=state)
    return keeping(space, ledgers.observe(ledger, run.uid, seen))


def without(space: Namespace, uid: str) -> Namespace:
    """The namespace without the run, in its queue and at work."""
    if uid not in space.waiting and uid not in space.working:
        return space
    return replace(
        space,
        waiting={key: run for key, run in space.waiting.items() if key != uid},
        working={key: run for key, run in space.working.items() if key != uid},
        preempted=space.preempted - {uid},
        stuck=space.stuck - {uid},
    )


def _expected_seconds(run: Request, ledger: Ledger) -> float | None:
    known = of_recipe(ledger.speeds, run.recipe).values()
    if run.work is None or not known:
        return None
    # Where it will run is open; most ran on these.
    return max(known, key=lambda speed: speed.runs).seconds_for(run.work)
