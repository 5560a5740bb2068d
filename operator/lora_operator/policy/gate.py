"""One namespace at its gate: who asks, who waits, who is at work, and what becomes of the ledger.

A module of its own because limits, ledger and queue must move together, one step at a time: each
function takes the namespace as it was and returns it as it is then, and whoever runs them does so
for one namespace at a time.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from decimal import Decimal

from lora_api.policy import Preemption, TrainingPolicySpec
from lora_api.policy_ledger import MAX_OPEN_RUNS, MAX_USERS, RunState
from lora_operator.policy import ledger as ledgers
from lora_operator.policy.ledger import FINAL, Entry, Ledger, Sighting
from lora_operator.policy.limits import Refusal, Request, estimated_cost, refusal, spent_budget
from lora_operator.policy.months import Month
from lora_operator.policy.preemption import preempt
from lora_operator.policy.queue import Fit, Held, Waiting, Working, standings, startable
from lora_operator.policy.speed import of_recipe

# Longer than any pod may take for its checkpoint. Who has not made room by then is on a node that
# does not answer, or waits for somebody who never comes.
ROOM_IS_MADE_WITHIN = timedelta(minutes=10)


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Released:
    """Who may start, and whose month has no money left."""

    namespace: Namespace
    started: tuple[Waiting, ...] = ()
    refused: tuple[tuple[Waiting, Refusal], ...] = ()


def ask(space: Namespace, run: Applicant) -> tuple[Namespace, Refusal | Deferred | None]:
    """Admit a run to the queue, or say why not.

    Who was admitted before is so still, whatever was forgotten since: the ledger says whether it
    waits or was let go, and only a run that it does not know is judged.

    Returns:
        The namespace, and the refusal if there is one.
    """
    ledger = space.ledger_of(run.created_at)
    known = ledger.runs.get(run.uid)
    if known is not None:
        return _restored(space, run, known, ledger), None
    verdict = refusal(run.request, space.policy, ledger)
    if verdict is not None:
        return space, verdict
    if ledger.is_full or not ledger.has_room_for(run.request.user):
        return space, _deferral(ledger)
    estimate = estimated_cost(run.request, space.policy, ledger)
    noted = ledgers.admit(ledger, run.uid, _sighting(run, RunState.WAITING), estimate)
    return _joining(space, run, noted), None


def recall(space: Namespace, run: Applicant, *, makes_room: bool = False) -> Namespace:
    """Take in a run that the ledger knows from before a crash; any other has yet to ask.

    Args:
        space: The namespace.
        run: The run.
        makes_room: Whether it was being suspended for another; it is not resumed to be suspended
            again.
    """
    ledger = space.ledger_of(run.created_at)
    known = ledger.runs.get(run.uid)
    if known is None:
        return space
    space = _restored(space, run, known, ledger)
    if makes_room and run.uid in space.working:
        space = replace(space, preempted=space.preempted | {run.uid})
    return space


def adopt(space: Namespace, run: Applicant) -> Namespace:
    """Take in a run that was at work before there was a policy: nobody is stopped by a new one."""
    ledger = space.ledger_of(run.created_at)
    if run.uid in space.working or run.uid in ledger.runs:
        return recall(space, run)
    if ledger.is_full:
        return space
    noted = ledgers.admit(ledger, run.uid, _sighting(run, RunState.RUNNING), None)
    space = _waiting(_keeping(space, noted), run, ledger)
    return _at_work(space, space.waiting[run.uid], run.at_work_since)


def pause(space: Namespace, uid: str, *, created_at: datetime) -> Namespace:
    """A run was suspended and holds nothing: it keeps its place in the month, and asks again."""
    ledger = ledgers.pause(space.ledger_of(created_at), uid)
    return _without(_keeping(space, ledger), uid)


def stand_aside(space: Namespace, uid: str) -> Namespace:
    """A run is trained and only waits for its storage: it holds nothing, and asks for nothing.

    Its place in the month and its bill stay as they are.
    """
    return _without(space, uid)


def release(space: Namespace, now: datetime) -> Released:
    """Let go who may start now, and refuse whose month's money is gone.

    Who has begun is not refused for that, as what it has trained would be lost: it waits. While
    somebody makes room, others start only beside that: what becomes free is for whom it was freed.
    """
    space = _room_by_now(space, now)
    unpaid = _out_of_money(space)
    held = {run.uid for run, _ in unpaid if _has_begun(space, run)}
    refused = tuple((run, verdict) for run, verdict in unpaid if run.uid not in held)
    for run, _ in refused:
        space = _ended_waiting(space, run)
    first = _beneficiary(space, held)
    for run in first:
        space = _at_work(_room_is_made(space), run, now)
    waiting = tuple(run for run in space.waiting.values() if run.uid not in held)
    started = _startable(space, waiting, now)
    for run in started:
        space = _at_work(space, run, now)
    if not space.preempted:
        waiting = tuple(run for run in waiting if run.uid in space.waiting)
        space = _making_room(space, waiting, now)
    return Released(namespace=space, started=(*first, *started), refused=refused)


def note(
    space: Namespace, uid: str, seen: Sighting, *, created_at: datetime, accounted: bool = False
) -> Namespace:
    """Bring the ledger up to a look at a run; one that is over leaves the gate.

    Args:
        space: The namespace.
        uid: Of the run.
        seen: What is seen of it.
        created_at: When the run was created.
        accounted: Whether the run's own status says that it is in the ledger for good.
    """
    ledger = ledgers.observe(space.ledger_of(created_at), uid, seen, accounted=accounted)
    space = _keeping(space, ledger)
    known = ledger.runs.get(uid)
    if known is None or known.state in FINAL:
        space = _without(space, uid)
    if accounted:
        space = _keeping(space, ledgers.settle(ledger, uid))
    return space


def held_for_money(space: Namespace, uid: str) -> Deferred | None:
    """Why a waiting run that has begun is not let go, where it is for want of money."""
    run = space.waiting.get(uid)
    if run is None or not run.gpus or not _has_begun(space, run):
        return None
    spent = spent_budget(space.policy, space.ledger_of(run.created_at))
    if spent is None:
        return None
    return Deferred(
        message=f"{spent.message} What the run has trained is kept; it goes on once the budget of "
        f"{Month.of(run.created_at)} is raised."
    )


def bill(
    space: Namespace,
    uid: str,
    *,
    gpu_seconds: int,
    per_gpu_hour: Decimal,
    created_at: datetime,
) -> Namespace:
    """Pay for what a run has held until now, and change nothing else of it."""
    ledger = space.ledger_of(created_at)
    entry = ledger.runs.get(uid)
    if entry is None or entry.state in FINAL:
        return space
    held = Sighting(
        user=entry.user,
        recipe=entry.recipe,
        gpus=entry.gpus,
        state=entry.state,
        gpu_seconds=gpu_seconds,
        per_gpu_hour=per_gpu_hour,
    )
    return _keeping(space, ledgers.observe(ledger, uid, held))


def forget(space: Namespace, uid: str, *, created_at: datetime) -> Namespace:
    """A run's object is gone: it keeps its place in the month and leaves the gate."""
    ledger = ledgers.vanish(space.ledger_of(created_at), uid)
    return _without(_keeping(space, ledger), uid)


def _restored(space: Namespace, run: Applicant, entry: Entry, ledger: Ledger) -> Namespace:
    """A run that the ledger knows, where it belongs and as it is now: its priority may change."""
    at_work = space.working.get(run.uid)
    if at_work is not None:
        again = _entrant(run, ledger).let_go(at_work.started_at)
        return space if again == at_work else _working(space, again)
    if run.uid in space.waiting:
        return _waiting(space, run, ledger)
    if entry.state is RunState.WAITING:
        return _joining(space, run, ledger)
    if entry.state is RunState.RUNNING:
        return _working(space, _entrant(run, ledger).let_go(run.at_work_since))
    return space


def _joining(space: Namespace, run: Applicant, ledger: Ledger) -> Namespace:
    """A run that the ledger knows comes to the queue; what its user held it back for is no age."""
    if run.resumed_at is not None:
        ledger = ledgers.queue_anew(ledger, run.uid, run.resumed_at)
    return _waiting(_keeping(space, ledger), run, ledger)


def _waiting(space: Namespace, run: Applicant, ledger: Ledger) -> Namespace:
    entrant = _entrant(run, ledger)
    if space.waiting.get(run.uid) == entrant:
        return space
    return replace(space, waiting={**space.waiting, run.uid: entrant})


def _working(space: Namespace, run: Working) -> Namespace:
    return replace(space, working={**space.working, run.uid: run})


def _entrant(run: Applicant, ledger: Ledger) -> Waiting:
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


def _sighting(run: Applicant, state: RunState) -> Sighting:
    asked = run.request
    return Sighting(user=asked.user, recipe=asked.recipe, gpus=asked.gpus, state=state)


def _expected_seconds(run: Request, ledger: Ledger) -> float | None:
    known = of_recipe(ledger.speeds, run.recipe).values()
    if run.work is None or not known:
        return None
    # Where it will run is open; most ran on these.
    return max(known, key=lambda speed: speed.runs).seconds_for(run.work)


def _keeping(space: Namespace, ledger: Ledger) -> Namespace:
    if space.ledgers.get(ledger.month) is ledger:
        return space
    return replace(space, ledgers={**space.ledgers, ledger.month: ledger})


def _with_state(space: Namespace, run: Waiting, state: RunState) -> Namespace:
    ledger = space.ledger_of(run.created_at)
    entry = ledger.runs[run.uid]
    seen = Sighting(user=entry.user, recipe=entry.recipe, gpus=entry.gpus, state=state)
    return _keeping(space, ledgers.observe(ledger, run.uid, seen))


def _out_of_money(space: Namespace) -> tuple[tuple[Waiting, Refusal], ...]:
    """Who waits in a month whose budget is spent; asked once a month, and not once a run."""
    spent = {
        month: verdict
        for month, ledger in space.ledgers.items()
        if (verdict := spent_budget(space.policy, ledger))
    }
    if not spent:
        return ()
    waiting = [run for run in space.waiting.values() if run.gpus]
    months = [Month.of(run.created_at) for run in waiting]
    return tuple(
        (run, spent[month]) for run, month in zip(waiting, months, strict=True) if month in spent
    )


def _has_begun(space: Namespace, run: Waiting) -> bool:
    entry = space.ledger_of(run.created_at).runs[run.uid]
    return entry.steps > 0 or entry.gpu_seconds > 0


def _beneficiary(space: Namespace, held: set[str]) -> tuple[Waiting, ...]:
    """The run that others made room for, if it still waits and may have it."""
    run = space.waiting.get(space.beneficiary or "")
    if run is None or run.uid in held:
        return ()
    fit = Held(space.working.values()).fit(run.user, run.gpus, space.policy)
    return (run,) if fit is Fit.FITS else ()


def _startable(
    space: Namespace, waiting: tuple[Waiting, ...], now: datetime
) -> tuple[Waiting, ...]:
    """Who starts now. While room is made: who would also start once it is, and was used."""
    working = space.working.values()
    if not space.preempted:
        return startable(waiting, working, space.policy, now)
    if space.beneficiary is None:
        # A crash has forgotten for whom.
        return ()
    owed = [run for run in waiting if run.uid == space.beneficiary]
    waiting = tuple(run for run in waiting if run.uid != space.beneficiary)
    later = [run for run in working if run.uid not in space.preempted]
    later += [run.let_go(now) for run in owed]
    beside = {run.uid for run in startable(waiting, later, space.policy, now)}
    started = startable(waiting, working, space.policy, now)
    return tuple(run for run in started if run.uid in beside)


def _room_by_now(space: Namespace, now: datetime) -> Namespace:
    """Wait for those that make room, but not for ever, and not where the policy has it no more."""
    if not space.preempted:
        return space
    if space.policy.queue.preemption is Preemption.NEVER:
        return _room_is_made(space)
    since = min(space.asked_for_room_at or now, now)
    if now - since < ROOM_IS_MADE_WITHIN:
        return replace(space, asked_for_room_at=since)
    return replace(_room_is_made(space), stuck=space.stuck | space.preempted)


def _room_is_made(space: Namespace) -> Namespace:
    return replace(space, preempted=frozenset(), beneficiary=None, asked_for_room_at=None)


def _making_room(space: Namespace, waiting: tuple[Waiting, ...], now: datetime) -> Namespace:
    """Have runs make room for another, or nobody for anybody."""
    space = _room_is_made(space)
    if space.policy.queue.preemption is Preemption.NEVER or not waiting:
        return space
    working = tuple(
        replace(run, preemptible=False) if run.uid in space.stuck else run
        for run in space.working.values()
    )
    queue = standings(waiting, working, space.policy, now)
    found = preempt(queue, working, space.policy, now)
    if found is None:
        return space
    victims = frozenset(run.uid for run in found.victims)
    return replace(
        space, preempted=victims, beneficiary=found.beneficiary.uid, asked_for_room_at=now
    )


def _ended_waiting(space: Namespace, run: Waiting) -> Namespace:
    return _without(_with_state(space, run, RunState.RETURNED), run.uid)


def _at_work(space: Namespace, run: Waiting, now: datetime) -> Namespace:
    space = _without(_with_state(space, run, RunState.RUNNING), run.uid)
    return _working(space, run.let_go(now))


def _without(space: Namespace, uid: str) -> Namespace:
    if uid not in space.waiting and uid not in space.working:
        return space
    return replace(
        space,
        waiting={key: run for key, run in space.waiting.items() if key != uid},
        working={key: run for key, run in space.working.items() if key != uid},
        preempted=space.preempted - {uid},
        stuck=space.stuck - {uid},
    )


def _deferral(ledger: Ledger) -> Deferred:
    if ledger.is_full:
        return Deferred(
            message=(
                f"The ledger of {ledger.month} holds {MAX_OPEN_RUNS} runs that are not over, as "
                "many as it can; the run is looked at again when one of them ends."
            )
        )
    return Deferred(
        message=(
            f"The ledger of {ledger.month} counts for {MAX_USERS} users, as many as it can, and "
            "spec.user is none of them. Create the run again next month, or in another namespace."
        )
    )
