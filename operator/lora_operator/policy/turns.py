"""Whose turn it is: who starts, who makes room, and whom want of money or quota keeps from both.

A module of its own because it looks at the whole namespace, where admission looks at one run.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from lora_api.policy import Preemption
from lora_api.policy_ledger import RunState
from lora_operator.policy.limits import Refusal, quota_refusal, spent_budget
from lora_operator.policy.months import Month
from lora_operator.policy.preemption import may_preempt, preempt
from lora_operator.policy.queue import Fit, Held, Waiting, standings, startable
from lora_operator.policy.space import Deferred, Namespace, in_state, put_to_work, without

# Longer than any pod may take for its checkpoint. Who has not made room by then is on a node that
# does not answer, or waits for somebody who never comes.
ROOM_IS_MADE_WITHIN = timedelta(minutes=10)


@dataclass(frozen=True, slots=True, kw_only=True)
class Released:
    """Who may start, and who never may: his month has no money left, or the quota is too small."""

    namespace: Namespace
    started: tuple[Waiting, ...] = ()
    refused: tuple[tuple[Waiting, Refusal], ...] = ()


def release(space: Namespace, now: datetime) -> Released:
    """Let go who may start now, and refuse whose month's money is gone, or whose quota shrank.

    Who has begun is not refused for either, as what it has trained would be lost: it waits. While
    somebody makes room, others start only beside that: what becomes free is for whom it was freed.
    """
    space = _room_by_now(space, now)
    barred = {run.uid: (run, why) for run, why in (*_too_large(space), *_out_of_money(space))}
    held = {uid for uid, (run, _) in barred.items() if _has_begun(space, run)}
    refused = tuple(refused for uid, refused in barred.items() if uid not in held)
    for run, _ in refused:
        space = _ended_waiting(space, run)
    first = _beneficiary(space, held)
    for run in first:
        space = put_to_work(_room_is_made(space), run, now)
    waiting = tuple(run for run in space.waiting.values() if run.uid not in held)
    started = _startable(space, waiting, now)
    for run in started:
        space = put_to_work(space, run, now)
    if not space.preempted:
        waiting = tuple(run for run in waiting if run.uid in space.waiting)
        space = _making_room(space, waiting, now)
    return Released(namespace=space, started=(*first, *started), refused=refused)


def held_by_quota(space: Namespace, uid: str) -> Deferred | None:
    """Why a waiting run that has begun is not let go, where it needs more than is ever allowed."""
    run = space.waiting.get(uid)
    verdict = quota_refusal(run.gpus, space.policy) if run is not None else None
    if run is None or verdict is None or not _has_begun(space, run):
        return None
    return Deferred(
        message=f"{verdict.message} What the run has trained is kept; it goes on once the policy "
        "allows as much again."
    )


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


def _too_large(space: Namespace) -> tuple[tuple[Waiting, Refusal], ...]:
    """Who waits for more than the policy ever allows since it was lowered."""
    needs = {run.gpus for run in space.waiting.values()}
    verdicts = {gpus: why for gpus in needs if (why := quota_refusal(gpus, space.policy))}
    if not verdicts:
        return ()
    waiting = space.waiting.values()
    return tuple((run, verdicts[run.gpus]) for run in waiting if run.gpus in verdicts)


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
    if not may_preempt(waiting, working):
        return space
    queue = standings(waiting, working, space.policy, now)
    found = preempt(queue, working, space.policy, now)
    if found is None:
        return space
    victims = frozenset(run.uid for run in found.victims)
    return replace(
        space, preempted=victims, beneficiary=found.beneficiary.uid, asked_for_room_at=now
    )


def _ended_waiting(space: Namespace, run: Waiting) -> Namespace:
    return without(in_state(space, run, RunState.RETURNED), run.uid)
