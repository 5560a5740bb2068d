"""The ledger as the API server keeps it, and back.

A module of its own so that the counting knows no document, and the document has one spelling: the
same ledger is always the same text, or each look would be a write.
"""

from decimal import Decimal

from lora_api.policy_ledger import (
    LedgerMeasure,
    LedgerRun,
    LedgerSpeed,
    LedgerUser,
    TrainingLedgerSpec,
)
from lora_operator.policy.ledger import Entry, Ledger, Total
from lora_operator.policy.money import NOTHING, written
from lora_operator.policy.months import Month
from lora_operator.policy.speed import Kind, Measured, Speed


def read_ledger(document: TrainingLedgerSpec) -> Ledger:
    """The ledger that a document holds.

    Raises:
        ValueError: The month is none.
    """
    runs = {run.uid: _entry(run) for run in document.runs}
    users = {
        user.user: Total(
            trainings=user.trainings, gpu_seconds=user.gpu_seconds, cost=Decimal(user.cost)
        )
        for user in document.users
    }
    places = {user: total.trainings for user, total in users.items() if total.trainings}
    for entry in runs.values():
        if entry.has_place:
            places[entry.user] = places.get(entry.user, 0) + 1
    return Ledger(
        month=Month.read(document.month),
        currency=document.currency,
        runs=runs,
        users=users,
        speeds={
            Kind(speed.recipe, speed.product): Speed(
                runs=speed.runs,
                work=speed.work,
                train_seconds=speed.train_seconds,
                other_seconds=speed.other_seconds,
            )
            for speed in document.speeds
            # Before work was counted, nothing was that could be compared.
            if speed.work
        },
        places=places,
        spent=sum((entry.cost for entry in runs.values()), NOTHING)
        + sum((total.cost for total in users.values()), NOTHING),
        promised=sum((entry.promised for entry in runs.values()), NOTHING),
    )


def write_ledger(ledger: Ledger) -> TrainingLedgerSpec:
    """The document of a ledger; equal ledgers make equal documents."""
    return TrainingLedgerSpec(
        month=str(ledger.month),
        currency=ledger.currency,
        runs=tuple(
            LedgerRun(
                uid=uid,
                user=entry.user,
                recipe=entry.recipe,
                state=entry.state,
                gpus=entry.gpus,
                gpu_seconds=entry.gpu_seconds,
                steps=entry.steps,
                cost=written(entry.cost),
                estimate=None if entry.estimate is None else written(entry.estimate),
                queued_at=entry.queued_at,
                measured=_written(entry.measured),
            )
            for uid, entry in sorted(ledger.runs.items())
        ),
        users=tuple(
            LedgerUser(
                user=user,
                trainings=total.trainings,
                gpu_seconds=total.gpu_seconds,
                cost=written(total.cost),
            )
            for user, total in sorted(ledger.users.items())
        ),
        speeds=tuple(
            LedgerSpeed(
                recipe=kind.recipe,
                product=kind.product,
                runs=speed.runs,
                work=speed.work,
                train_seconds=speed.train_seconds,
                other_seconds=speed.other_seconds,
            )
            for kind, speed in sorted(ledger.speeds.items())
        ),
    )


def _written(timed: Measured | None) -> LedgerMeasure | None:
    if timed is None:
        return None
    return LedgerMeasure(product=timed.product, work=timed.work, train_seconds=timed.train_seconds)


def _entry(run: LedgerRun) -> Entry:
    timed = run.measured
    return Entry(
        user=run.user,
        recipe=run.recipe,
        gpus=run.gpus,
        state=run.state,
        gpu_seconds=run.gpu_seconds,
        steps=run.steps,
        cost=Decimal(run.cost),
        estimate=None if run.estimate is None else Decimal(run.estimate),
        queued_at=run.queued_at,
        measured=None
        if timed is None
        else Measured(product=timed.product, work=timed.work, train_seconds=timed.train_seconds),
    )
