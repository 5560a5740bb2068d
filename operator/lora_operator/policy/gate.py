"""One namespace at its gate: who asks, who is seen how, and what becomes of the ledger.

A module of its own because limits, ledger and queue must move together, one step at a time: each
function takes the namespace as it was and returns it as it is then, and whoever runs them does so
for one namespace at a time.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from decimal import Decimal

from lora_api.policy_ledger import MAX_USERS, RunState
from lora_operator.policy import ledger as ledgers
from lora_operator.policy.ledger import FINAL, Entry, Ledger, Sighting
from lora_operator.policy.limits import Refusal, estimated_cost, refusal
from lora_operator.policy.space import (
    Applicant,
    Deferred,
    Namespace,
    entrant,
    joined,
    keeping,
    put_to_work,
    without,
    working_as,
)


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
    space = joined(keeping(space, noted), run, ledger)
    return put_to_work(space, space.waiting[run.uid], run.at_work_since)


def pause(space: Namespace, uid: str, *, created_at: datetime) -> Namespace:
    """A run was suspended and holds nothing: it keeps its place in the month, and asks again."""
    ledger = ledgers.pause(space.ledger_of(created_at), uid)
    return without(keeping(space, ledger), uid)


def stand_aside(space: Namespace, uid: str) -> Namespace:
    """A run is trained and only waits for its storage: it holds nothing, and asks for nothing.

    Its place in the month and its bill stay as they are.
    """
    return without(space, uid)


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
    space = keeping(space, ledger)
    known = ledger.runs.get(uid)
    if known is None or known.state in FINAL:
        space = without(space, uid)
    if accounted:
        space = keeping(space, ledgers.settle(ledger, uid))
    return space


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
    return keeping(space, ledgers.observe(ledger, uid, held))


def forget(space: Namespace, uid: str, *, created_at: datetime) -> Namespace:
    """A run's object is gone: it keeps its place in the month and leaves the gate."""
    ledger = ledgers.vanish(space.ledger_of(created_at), uid)
    return without(keeping(space, ledger), uid)


def _restored(space: Namespace, run: Applicant, entry: Entry, ledger: Ledger) -> Namespace:
    """A run that the ledger knows, where it belongs and as it is now: its priority may change."""
    at_work = space.working.get(run.uid)
    if at_work is not None:
        again = entrant(run, ledger).let_go(at_work.started_at)
        return space if again == at_work else working_as(space, again)
    if run.uid in space.waiting:
        return joined(space, run, ledger)
    if entry.state is RunState.WAITING:
        return _joining(space, run, ledger)
    if entry.state is RunState.RUNNING:
        return working_as(space, entrant(run, ledger).let_go(run.at_work_since))
    return space


def _joining(space: Namespace, run: Applicant, ledger: Ledger) -> Namespace:
    """A run that the ledger knows comes to the queue; what its user held it back for is no age."""
    if run.resumed_at is not None:
        ledger = ledgers.queue_anew(ledger, run.uid, run.resumed_at)
    return joined(keeping(space, ledger), run, ledger)


def _sighting(run: Applicant, state: RunState) -> Sighting:
    asked = run.request
    return Sighting(user=asked.user, recipe=asked.recipe, gpus=asked.gpus, state=state)


def _deferral(ledger: Ledger) -> Deferred:
    if ledger.is_full:
        return Deferred(
            message=(
                f"The ledger of {ledger.month} holds {len(ledger.runs)} runs that are not over, as "
                "many as it can; the run is looked at again when one of them ends."
            )
        )
    return Deferred(
        message=(
            f"The ledger of {ledger.month} counts for {MAX_USERS} users, as many as it can, and "
            "spec.user is none of them. Create the run again next month, or in another namespace."
        )
    )
