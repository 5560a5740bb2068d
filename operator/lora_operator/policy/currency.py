"""Amounts keep the currency that they were counted in, whatever a policy comes to call it.

A module of its own because a sum of two currencies is none, and to call dollars euros would move
every budget without anybody having paid: where that is asked, nothing is counted at all.
"""

from dataclasses import replace
from datetime import datetime

from lora_api.policy import ACTING_POLICY
from lora_operator.policy.ledger import Ledger
from lora_operator.policy.money import NOTHING
from lora_operator.policy.months import Month
from lora_operator.policy.space import Namespace


def in_its_currency(space: Namespace) -> Namespace:
    """The namespace, with ledgers that hold no amount yet in the currency of the policy.

    One that says nothing of its currency is of a time when the policy's was meant.
    """
    wanted = space.policy.currency
    relabelled = {
        month: replace(ledger, currency=wanted)
        for month, ledger in space.ledgers.items()
        if ledger.currency != wanted and (ledger.currency is None or not _has_amounts(ledger))
    }
    return replace(space, ledgers={**space.ledgers, **relabelled}) if relabelled else space


def currency_fault(space: Namespace, now: datetime) -> str | None:
    """Why nothing can be counted, where a ledger that still counts has another currency.

    What is over is only ever shown, and with its own currency: it is in nobody's way.
    """
    present, wanted = Month.of(now), space.policy.currency
    for month, ledger in sorted(space.ledgers.items()):
        if ledger.currency in {None, wanted} or not (ledger.runs or month >= present):
            continue
        return (
            f"TrainingPolicy {ACTING_POLICY} says {wanted} (spec.currency), and TrainingLedger "
            f"{month} counts in {ledger.currency}. Amounts of two currencies can't be added, so "
            f"nothing is started and nothing billed. Set spec.currency back to {ledger.currency}, "
            "and change it when the month has cost nothing yet and no run of an earlier month "
            f"waits or is at work; or delete TrainingLedger {month} to count that month anew, its "
            "runs that are over left out."
        )
    return None


def _has_amounts(ledger: Ledger) -> bool:
    return ledger.spent != NOTHING or ledger.promised != NOTHING
