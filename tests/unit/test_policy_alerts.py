"""When a namespace's money is warned of: once for each line, budget and month."""

from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal

from tests.dictionary_api import DictionaryApi, Object
from tests.policies import NOON, a_policy

from lora_api import API_VERSION
from lora_api.policy import ACTING_POLICY, POLICY_KIND
from lora_operator.kube.resources import POLICIES
from lora_operator.policy.gate import Namespace
from lora_operator.policy.ledger import Ledger
from lora_operator.policy.months import Month
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

    async def told(self, spent: str, *, budget: str = "100", now: datetime = NOON) -> list[str]:
        """Reasons of the warnings that one look gives."""
        body = await self.api.get(POLICIES, "studio", ACTING_POLICY)
        body["spec"] = {"monthlyBudget": {"amount": budget}}
        ledger = replace(Ledger(month=Month.of(now)), spent=Decimal(spent))
        space = Namespace(policy=a_policy(**body["spec"]), ledgers={ledger.month: ledger})
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
