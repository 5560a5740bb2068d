"""The policy's status: who uses how much, who runs, who waits, and when the month ends.

A module of its own because it is only ever shown: no decision reads it back.
"""

from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal

from lora_api.policy import ACTING_POLICY, TrainingPolicySpec
from lora_api.policy_status import (
    MAX_LISTED,
    RunningStatus,
    SpendingStatus,
    TrainingPolicyStatus,
    UserUsage,
    WaitingStatus,
)
from lora_api.status import Condition
from lora_operator.policy.ledger import Ledger
from lora_operator.policy.money import NOTHING, written
from lora_operator.policy.queue import Held, Waiting, Working


def usage(
    *,
    generation: int,
    acting: Condition,
    policy: TrainingPolicySpec,
    ledger: Ledger,
    previous: Ledger | None = None,
    queue: Sequence[Waiting],
    working: Sequence[Working],
) -> TrainingPolicyStatus:
    """Status of the policy that acts.

    Args:
        generation: metadata.generation of the policy.
        acting: As made by `acting_condition`.
        policy: The policy.
        ledger: Of the present month.
        previous: Of the month before, if there was any run.
        queue: Waiting runs in their order.
        working: Runs at work.
    """
    held = Held(working)
    return TrainingPolicyStatus(
        observed_generation=generation,
        conditions=(acting,),
        month=str(ledger.month),
        next_reset=ledger.month.reset,
        trainings=sum(ledger.places.values()),
        gpus_in_use=held.gpus,
        running_count=held.runs,
        waiting_count=len(queue),
        spending=_spending(policy, ledger),
        previous_spending=None if previous is None else _spending(policy, previous),
        users=_users(ledger, held),
        running=tuple(
            RunningStatus(name=run.name, user=run.user, gpus=run.gpus)
            for run in sorted(working, key=lambda run: run.name)[:MAX_LISTED]
        ),
        waiting=tuple(
            WaitingStatus(name=run.name, user=run.user, gpus=run.gpus, position=position)
            for position, run in enumerate(queue[:MAX_LISTED], start=1)
        ),
    )


def acting_condition(name: str, *, since: datetime) -> Condition:
    """Whether a policy of this name acts, and if not, what to do."""
    if name == ACTING_POLICY:
        return Condition(type="Acting", status="True", reason="Acting", last_transition_time=since)
    return Condition(
        type="Acting",
        status="False",
        reason="NotNamedDefault",
        message=f"Only the policy named {ACTING_POLICY} acts in a namespace; this one changes "
        f"nothing. Merge it into {ACTING_POLICY}, or delete it.",
        last_transition_time=since,
    )


def _spending(policy: TrainingPolicySpec, ledger: Ledger) -> SpendingStatus:
    currency = ledger.currency or policy.currency
    if policy.monthly_budget is None or currency != policy.currency:
        return SpendingStatus(amount=written(ledger.spent), currency=currency)
    budget = Decimal(policy.monthly_budget.amount)
    return SpendingStatus(
        amount=written(ledger.spent),
        currency=currency,
        budget=written(budget),
        percent=int(ledger.spent * 100 / budget) if budget else None,
    )


def _users(ledger: Ledger, held: Held) -> tuple[UserUsage, ...]:
    seconds: dict[str, int] = {}
    costs: dict[str, Decimal] = {}
    holders: list[tuple[str, int, Decimal]] = [
        *((user, total.gpu_seconds, total.cost) for user, total in ledger.users.items()),
        *((entry.user, entry.gpu_seconds, entry.cost) for entry in ledger.runs.values()),
    ]
    for user, gpu_seconds, cost in holders:
        seconds[user] = seconds.get(user, 0) + gpu_seconds
        costs[user] = costs.get(user, NOTHING) + cost
    ranked = sorted(costs, key=lambda user: (-ledger.places.get(user, 0), -costs[user], user))
    return tuple(
        UserUsage(
            user=user,
            trainings=ledger.places.get(user, 0),
            running=held.runs_of(user),
            gpus=held.gpus_of(user),
            gpu_seconds=seconds[user],
            cost=written(costs[user]),
        )
        for user in ranked[:MAX_LISTED]
    )
