"""When a namespace's money is warned of: once for each line, budget and month."""

from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal

import pytest
from tests.dictionary_api import DictionaryApi, Object
from tests.policies import NOON, a_policy

from lora_api import API_VERSION
from lora_api.policy import ACTING_POLICY, POLICY_KIND
from lora_operator.errors import UnavailableError
from lora_operator.kube.resources import POLICIES
from lora_operator.policy.ledger import Ledger
from lora_operator.policy.months import Month
from lora_operator.policy.space import Namespace
from lora_operator.policy_report import PolicyReporter

DECEMBER = datetime(2026, 12, 1, tzinfo=UTC)


class Books:
    """A policy on a shelf, and what has been spent under it."""

    def __init__(self) -> None:
        self.api = DictionaryApi()
        self.reporter = PolicyReporter(self.api)
        metadata = {"name": ACTING_POLICY, "namespace": "studio", "uid": "p"}
        body: Object = {"apiVersion": API_VERSION, "kind": POLICY_KIND, "spec": {}}
        self.api.hold(POLICIES, {**body, "metadata": {**metadata, "resourceVersion": "1"}})
        self._seen: set[str] = set()

    async def told(
        self, spent: str, *, budget: str = "100", now: datetime = NOON, before: str | None = None
    ) -> list[str]:
        """Reasons of the warnings that one look gives; `before` was spent the month before."""
        body = await self.api.get(POLICIES, "studio", ACTING_POLICY)
        body["spec"] = {"monthlyBudget": {"amount": budget}}
        ledger = replace(Ledger(month=Month.of(now)), spent=Decimal(spent))
        ledgers = {ledger.month: ledger}
        if before is not None:
            month = ledger.month.previous
            ledgers[month] = replace(Ledger(month=month), spent=Decimal(before))
        space = Namespace(policy=a_policy(**body["spec"]), ledgers=ledgers)
        await self.reporter.report(body, space, now)
        events = {
            path: held["reason"]
            for path, held in self.api.objects.items()
            if held.get("kind") == "Event" and path not in self._seen
        }
        self._seen |= events.keys()
        return sorted(events.values())


async def test_each_line_is_told_once_as_it_is_reached() -> None:
    books = Books()
    assert await books.told("74.99") == []
    assert await books.told("75") == ["BudgetAlert"]
    assert await books.told("75") == []
    assert await books.told("99") == []
    assert await books.told("100.5") == ["BudgetExhausted"]
    assert await books.told("120") == []


async def test_who_first_looks_when_all_is_spent_tells_of_both_lines() -> None:
    assert await Books().told("150") == ["BudgetAlert", "BudgetExhausted"]


async def test_under_a_raised_budget_its_own_lines_are_told() -> None:
    books = Books()
    assert await books.told("80") == ["BudgetAlert"]
    assert await books.told("80", budget="200") == []
    assert await books.told("160", budget="200") == ["BudgetAlert"]


async def test_a_budget_that_is_lowered_below_what_is_spent_is_told_to_be_spent() -> None:
    books = Books()
    assert await books.told("50") == []
    assert await books.told("50", budget="40") == ["BudgetAlert", "BudgetExhausted"]
    assert await books.told("50", budget="40") == []


async def test_each_month_has_its_own() -> None:
    books = Books()
    assert await books.told("80") == ["BudgetAlert"]
    assert await books.told("0", now=DECEMBER) == []
    assert await books.told("80", now=DECEMBER) == ["BudgetAlert"]


async def test_a_look_that_is_repeated_after_a_crash_tells_nothing_twice() -> None:
    books = Books()
    assert await books.told("80") == ["BudgetAlert"]
    # The event was posted, and the status that says so was lost.
    for held in books.api.objects.values():
        held.pop("status", None)
    assert await books.told("81") == []


async def test_a_warning_that_could_not_be_given_is_given_at_the_next_look() -> None:
    books = Books()
    books.api.refusals[("POST", "/events")] = UnavailableError("no answer")
    with pytest.raises(UnavailableError):
        await books.told("80")
    books.api.refusals.clear()
    assert await books.told("80") == ["BudgetAlert"]


async def test_runs_of_the_last_day_that_cross_a_line_on_the_first_are_warned_of() -> None:
    books = Books()
    assert await books.told("70") == []
    assert await books.told("0", before="80", now=DECEMBER) == ["BudgetAlert"]
    assert await books.told("0", before="90", now=DECEMBER) == []
    assert await books.told("0", before="101", now=DECEMBER) == ["BudgetExhausted"]
    told = [held["message"] for held in books.api.objects.values() if held.get("kind") == "Event"]
    assert told == [
        "75 % of the budget of 2026-11 is reached: 80.00 USD of 100.00 USD are spent.",
        "The budget of 2026-11 is spent: 101.00 USD of 100.00 USD. No further run of that month is "
        "started.",
    ]


async def test_what_was_warned_of_in_its_month_is_not_warned_of_after_it() -> None:
    books = Books()
    assert await books.told("80") == ["BudgetAlert"]
    # An event does not live for long, so that its name alone would not keep it from coming again.
    books.api.objects = {
        path: held for path, held in books.api.objects.items() if held["kind"] != "Event"
    }
    assert await books.told("0", before="80", now=DECEMBER) == []
