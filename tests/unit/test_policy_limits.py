"""Refusals by what was used, months, money and alerts: each sentence as the user reads it."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.policies import NOVEMBER, a_ledger, a_policy, a_request, a_speed, seen

from lora_api.policy import PriceSettings, TrainingPolicySpec
from lora_api.policy_ledger import RunState
from lora_operator.policy.alerts import budget_alerts, cost_alert
from lora_operator.policy.ledger import Ledger, admit
from lora_operator.policy.limits import Request, estimated_cost, refusal, spent_budget
from lora_operator.policy.money import cost_of, highest_price, price_on, shown, written
from lora_operator.policy.months import Month

BUDGET = {"monthlyBudget": {"amount": "100"}, "prices": {"perGpuHour": "3.6"}}
MEASURED = a_speed()


def used(places: int = 0, spent: str = "0", promised: str = "0") -> Ledger:
    return replace(
        a_ledger(),
        places={"anna": places},
        spent=Decimal(spent),
        promised=Decimal(promised),
        speeds=MEASURED,
    )


VERDICTS: list[tuple[str, TrainingPolicySpec, Ledger, Request, str | None]] = [
    ("a policy without limits refuses nothing", a_policy(), used(99, "99"), a_request(), None),
    (
        "the fifth of five is admitted",
        a_policy(monthlyTrainingsPerUser=5),
        used(places=4),
        a_request(),
        None,
    ),
    (
        "the sixth of five is refused in these very words",
        a_policy(monthlyTrainingsPerUser=5),
        used(places=5),
        a_request(),
        "You've reached your monthly limit of 5 LoRAs. Limit resets on the first of each month.",
    ),
    (
        "the number is the policy's",
        a_policy(monthlyTrainingsPerUser=12),
        used(places=12),
        a_request(),
        "You've reached your monthly limit of 12 LoRAs. Limit resets on the first of each month.",
    ),
    (
        "another's runs are not one's own",
        a_policy(monthlyTrainingsPerUser=5),
        used(places=5),
        a_request("ben"),
        None,
    ),
    (
        "a run that could never start does not wait for ever",
        a_policy(maxConcurrentGPUs=2),
        used(),
        a_request(gpus=4),
        "The run needs 4 and the namespace's policy allows 2 GPUs at once (maxConcurrentGPUs), so "
        "it could never start. Create it again with less, or ask for the policy to be raised.",
    ),
    (
        "nobody waits where no training is allowed",
        a_policy(maxConcurrentTrainingsPerUser=0),
        used(),
        a_request(),
        "The run needs 1 and the namespace's policy allows 0 trainings at once per user "
        "(maxConcurrentTrainingsPerUser), so it could never start. Create it again with less, or "
        "ask for the policy to be raised.",
    ),
    (
        "a budget with a cent left is open",
        a_policy(**BUDGET),
        used(spent="98.99"),
        a_request(),
        None,
    ),
    (
        "a spent budget is closed",
        a_policy(**BUDGET),
        used(spent="100"),
        a_request(),
        "The namespace's monthly budget of 100.00 USD is spent (100.00 USD so far). The budget "
        "begins anew at 2026-12-01 00:00 UTC.",
    ),
    (
        "an estimate above what is left is refused with the figures",
        a_policy(**BUDGET),
        used(spent="90", promised="7.5"),
        a_request(gpus=1, steps=3000),
        "The run is estimated to cost 3.00 USD (3000 steps on 1 GPU(s), at the measured speed of "
        "sd15), and 2.50 USD of the monthly budget of 100.00 USD are left: 90.00 USD are spent, "
        "7.50 USD are promised to runs under way. Create it again with fewer steps. The budget "
        "begins anew at 2026-12-01 00:00 UTC.",
    ),
    (
        "an estimate of just what is left is admitted",
        a_policy(**BUDGET),
        used(spent="90", promised="7"),
        a_request(steps=3000),
        None,
    ),
    (
        "epochs leave the steps open, so nothing is estimated",
        a_policy(**BUDGET),
        used(spent="99"),
        a_request(steps=None),
        None,
    ),
    (
        "a run on the CPU costs nothing",
        a_policy(**BUDGET),
        used(spent="99.99"),
        a_request(gpus=0, steps=10_000),
        None,
    ),
]


@pytest.mark.parametrize(
    ("sentence", "policy", "ledger", "run", "told"), VERDICTS, ids=[row[0] for row in VERDICTS]
)
def test_verdict(
    sentence: str, policy: TrainingPolicySpec, ledger: Ledger, run: Request, told: str | None
) -> None:
    verdict = refusal(run, policy, ledger)
    assert (verdict.message if verdict else None) == told, sentence


def test_nothing_is_estimated_before_anything_was_measured() -> None:
    assert estimated_cost(a_request(), a_policy(**BUDGET), a_ledger()) is None


def test_the_month_is_closed_for_waiting_runs_once_the_money_is_gone() -> None:
    assert spent_budget(a_policy(**BUDGET), used(spent="99.999999")) is None
    assert spent_budget(a_policy(**BUDGET), used(spent="100.000001")) is not None


@given(st.integers(0, 60), st.integers(1, 20), st.permutations(["a", "b", "c"]))
def test_at_any_interleaving_exactly_the_limit_is_admitted(
    requests: int, limit: int, order: list[str]
) -> None:
    policy = a_policy(monthlyTrainingsPerUser=limit)
    ledger, admitted = a_ledger(), 0
    for number in range(requests):
        user = order[number % len(order)]
        if refusal(a_request(user), policy, ledger) is None:
            ledger = admit(ledger, f"u{number}", seen(RunState.WAITING, user=user), None)
            admitted += 1
    of_each = [len(range(place, requests, 3)) for place in range(3)]
    assert admitted == sum(min(limit, asked) for asked in of_each)


MONTHS = [
    ("the first instant", datetime(2026, 11, 1, tzinfo=UTC), "2026-11", "2026-12-01"),
    (
        "the last microsecond",
        datetime(2026, 11, 30, 23, 59, 59, 999999, UTC),
        "2026-11",
        "2026-12-01",
    ),
    ("a leap day", datetime(2028, 2, 29, 23, 59, tzinfo=UTC), "2028-02", "2028-03-01"),
    ("the year's end", datetime(2026, 12, 31, 23, 59, tzinfo=UTC), "2026-12", "2027-01-01"),
    (
        "the first in Tokyo is still the last month in UTC",
        datetime(2026, 12, 1, 8, 59, tzinfo=timezone(timedelta(hours=9))),
        "2026-11",
        "2026-12-01",
    ),
]


@pytest.mark.parametrize(("sentence", "when", "month", "reset"), MONTHS, ids=[m[0] for m in MONTHS])
def test_month(sentence: str, when: datetime, month: str, reset: str) -> None:
    found = Month.of(when)
    assert (str(found), f"{found.reset:%Y-%m-%d}") == (month, reset), sentence
    assert Month.read(month) == found


@given(st.datetimes(timezones=st.just(UTC), max_value=datetime(9998, 1, 1)))
def test_an_instant_lies_in_its_month_and_in_no_other(when: datetime) -> None:
    month = Month.of(when)
    assert month.start <= when < month.reset
    assert month.next.start == month.reset


@pytest.mark.parametrize("text", ["2026-13", "2026-1", "26-01", "2026-11-01", ""])
def test_what_is_no_month_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="no month"):
        Month.read(text)


def test_a_time_without_zone_has_no_month() -> None:
    with pytest.raises(ValueError, match="no time zone"):
        Month.of(datetime(2026, 11, 1))


PRICES = PriceSettings.model_validate(
    {
        "perGpuHour": "1.10",
        "byNodeLabel": [
            {"key": "nvidia.com/gpu.product", "value": "H100", "perGpuHour": "2.50"},
            {"key": "pool", "value": "spot", "perGpuHour": "0.40"},
        ],
    }
)
NODES = [
    ("a product with a price", {"nvidia.com/gpu.product": "H100"}, "2.50"),
    ("the first entry that fits", {"nvidia.com/gpu.product": "H100", "pool": "spot"}, "2.50"),
    ("another label", {"pool": "spot"}, "0.40"),
    ("a node that no entry fits", {"nvidia.com/gpu.product": "T4"}, "1.10"),
    ("a node without labels", {}, "1.10"),
]


@pytest.mark.parametrize(("sentence", "labels", "price"), NODES, ids=[row[0] for row in NODES])
def test_price(sentence: str, labels: dict[str, str], price: str) -> None:
    assert price_on(PRICES, labels) == Decimal(price), sentence


def test_an_estimate_reckons_with_the_highest_price() -> None:
    assert highest_price(PRICES) == Decimal("2.50")


def test_tenths_add_up() -> None:
    assert sum((cost_of(360, Decimal(1)) for _ in range(10)), Decimal(0)) == Decimal(1)
    assert cost_of(1, Decimal("1.10")) == Decimal("0.000306")


@given(st.decimals("0", "999999999", places=6))
def test_an_amount_written_is_read_back_and_fits_the_schema(amount: Decimal) -> None:
    text = written(amount)
    assert Decimal(text) == amount
    assert a_policy(maxCostPerTraining=text).max_cost_per_training == text


def test_an_amount_is_shown_in_cents() -> None:
    assert shown(Decimal("12.345"), "EUR") == "12.35 EUR"


@pytest.mark.parametrize("amount", [1.5, "1e3", "-1", "01", "1.0000001", "1,5", "", True])
def test_an_amount_that_is_no_plain_decimal_is_refused(amount: object) -> None:
    with pytest.raises(ValueError, match="maxCostPerTraining"):
        a_policy(maxCostPerTraining=amount)


CROSSINGS = [
    ("below three quarters nothing is said", "0", "74.99", []),
    ("at three quarters a warning", "74.99", "75", ["BudgetAlert"]),
    ("above it no second one", "75", "99", []),
    ("at the end another", "99", "100", ["BudgetExhausted"]),
    ("both at once", "10", "101", ["BudgetAlert", "BudgetExhausted"]),
    ("beyond the end nothing more", "101", "105", []),
]


@pytest.mark.parametrize(
    ("sentence", "before", "after", "told"), CROSSINGS, ids=[row[0] for row in CROSSINGS]
)
def test_budget_alerts(sentence: str, before: str, after: str, told: list[str]) -> None:
    policy = a_policy(**BUDGET)
    alerts = budget_alerts(Decimal(before), Decimal(after), month=NOVEMBER, policy=policy)
    assert [alert.reason for alert in alerts] == told, sentence


def test_a_costly_run_is_told_of_once_and_goes_on() -> None:
    policy = a_policy(maxCostPerTraining="2")
    assert cost_alert(Decimal(1), Decimal(2), policy) is None
    alert = cost_alert(Decimal(2), Decimal("2.5"), policy)
    assert alert is not None
    assert alert.message == (
        "The run has cost 2.50 USD, more than the 2.00 USD of the policy's maxCostPerTraining. It "
        "goes on."
    )
    assert cost_alert(Decimal("2.5"), Decimal(3), policy) is None
    assert cost_alert(Decimal(2), Decimal(3), a_policy()) is None


@pytest.mark.parametrize(("runs", "estimate"), [(1, None), (2, None), (3, Decimal(1))])
def test_nobody_is_refused_by_what_one_run_or_two_have_needed(
    runs: int, estimate: Decimal | None
) -> None:
    ledger = replace(used(), speeds=a_speed(runs=runs))
    assert estimated_cost(a_request(), a_policy(**BUDGET), ledger) == estimate
