"""Amounts keep the currency that they were counted in."""

from dataclasses import replace
from datetime import timedelta
from decimal import Decimal

import pytest
from tests.policies import NOON, NOVEMBER, a_ledger, a_policy, seen

from lora_api.policy_ledger import RunState
from lora_operator.policy.currency import currency_fault, in_its_currency
from lora_operator.policy.ledger import Ledger, admit, observe, settle
from lora_operator.policy.ledger_document import read_ledger, write_ledger
from lora_operator.policy.space import Namespace

EUR = a_policy(currency="EUR")
PAID = observe(a_ledger(), "u1", seen(RunState.COUNTED, gpu_seconds=1000, steps=9))
LATER = NOVEMBER.reset + timedelta(days=3)


def counted_in(currency: str | None, ledger: Ledger) -> Namespace:
    """Looked at by a policy in euros."""
    return Namespace(policy=EUR, ledgers={NOVEMBER: replace(ledger, currency=currency)})


@pytest.mark.parametrize("ledger", [a_ledger(), admit(a_ledger(), "u1", seen(), None)])
def test_where_nothing_was_counted_the_currency_may_change(ledger: Ledger) -> None:
    space = in_its_currency(counted_in("USD", ledger))
    assert space.ledgers[NOVEMBER].currency == "EUR"
    assert currency_fault(space, NOON) is None


COUNTED: dict[str, Ledger] = {
    "what was paid": PAID,
    "what was paid and summed up": settle(PAID, "u1"),
    "what is promised": admit(a_ledger(), "u1", seen(), Decimal(1)),
}


@pytest.mark.parametrize("what", COUNTED)
def test_amounts_are_not_given_another_name(what: str) -> None:
    space = in_its_currency(counted_in("USD", COUNTED[what]))
    assert space.ledgers[NOVEMBER].currency == "USD"
    fault = currency_fault(space, NOON)
    assert fault is not None
    assert "says EUR (spec.currency), and TrainingLedger 2026-11 counts in USD" in fault
    assert "Set spec.currency back to USD" in fault


def test_a_ledger_of_before_takes_the_policys_currency() -> None:
    space = in_its_currency(counted_in(None, PAID))
    assert space.ledgers[NOVEMBER].currency == "EUR"
    assert currency_fault(space, NOON) is None


def test_a_month_that_is_over_is_in_nobodys_way_once_its_runs_are() -> None:
    over = in_its_currency(counted_in("USD", settle(PAID, "u1")))
    assert currency_fault(over, LATER) is None
    assert over.ledger_of(LATER).currency == "EUR"
    assert currency_fault(in_its_currency(counted_in("USD", PAID)), LATER) is not None


def test_the_currency_is_stored_with_the_amounts() -> None:
    ledger = replace(PAID, currency="CHF")
    assert read_ledger(write_ledger(ledger)) == ledger
