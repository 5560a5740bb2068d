"""The change of the month, by a clock that the test sets: whom it lets train, what it forgets."""

from datetime import datetime, timedelta
from decimal import Decimal

import pytest
from tests.policies import a_policy, a_request, seen

from lora_api.policy_ledger import RunState
from lora_api.reasons import Reason
from lora_operator.policy.gate import ask, note
from lora_operator.policy.space import Applicant, Deferred, Namespace

ONCE_A_MONTH = a_policy(monthlyTrainingsPerUser=1)
TEN_A_MONTH = a_policy(monthlyBudget={"amount": "10"}, prices={"perGpuHour": "3.6"})


def at(text: str) -> datetime:
    return datetime.fromisoformat(text)


def admitted(space: Namespace, created_at: datetime, uid: str = "") -> tuple[Namespace, str]:
    """The namespace after one more run of anna's, and why it was refused."""
    uid = uid or f"created-{created_at.isoformat()}"
    run = Applicant(uid=uid, name=uid, request=a_request(), created_at=created_at)
    space, verdict = ask(space, run)
    assert not isinstance(verdict, Deferred)
    return space, "" if verdict is None else verdict.reason


LIMIT = Reason.MONTHLY_LIMIT_REACHED
# Sentence, creation of the first run and of the second, why the second is refused.
CHANGES = [
    ("a second before the month ends", "2026-11-01T00:00:00Z", "2026-11-30T23:59:59Z", LIMIT),
    ("the first second of the next", "2026-11-30T23:59:59Z", "2026-12-01T00:00:00Z", ""),
    ("a leap day is still February", "2028-02-01T00:00:00Z", "2028-02-29T23:59:59Z", LIMIT),
    ("after a leap day comes March", "2028-02-29T23:59:59Z", "2028-03-01T00:00:00Z", ""),
    ("no leap year, no leap day", "2027-02-28T23:59:59Z", "2027-03-01T00:00:00Z", ""),
    ("a century without a leap day", "2100-02-28T23:59:59Z", "2100-03-01T00:00:00Z", ""),
    ("the year's end", "2026-12-31T23:59:59Z", "2027-01-01T00:00:00Z", ""),
    ("the same month a year later", "2026-11-15T12:00:00Z", "2027-11-15T12:00:00Z", ""),
    ("another's midnight is not ours", "2026-11-30T12:00:00Z", "2026-12-01T00:30:00+01:00", LIMIT),
    ("midnight far in the west", "2026-11-30T12:00:00Z", "2026-11-30T23:30:00-01:00", ""),
    ("a clock an hour back, same month", "2026-11-30T23:30:00Z", "2026-11-30T22:30:00Z", LIMIT),
    ("a clock back into the old month", "2026-12-01T00:30:00Z", "2026-11-30T23:30:00Z", ""),
]


@pytest.mark.parametrize(
    ("first", "second", "reason"), [row[1:] for row in CHANGES], ids=[row[0] for row in CHANGES]
)
def test_one_training_a_month_is_one_in_each_month(first: str, second: str, reason: str) -> None:
    space, refused = admitted(Namespace(policy=ONCE_A_MONTH), at(first))
    assert refused == ""
    space, refused = admitted(space, at(second))
    assert refused == reason
    assert space.ledger_of(at(first)).places == {"anna": 1}


def test_a_clock_that_goes_back_and_forth_gives_no_month_a_place_twice() -> None:
    space = Namespace(policy=ONCE_A_MONTH)
    november, december = at("2026-11-30T23:59:59Z"), at("2026-12-01T00:00:01Z")
    outcomes: list[str] = []
    for when in (november, december, november, december, november):
        space, refused = admitted(space, when, uid=f"run-{len(outcomes)}")
        outcomes.append(refused)
    assert outcomes == ["", "", LIMIT, LIMIT, LIMIT]


def test_a_run_seen_after_midnight_counts_for_the_month_of_its_creation() -> None:
    created = at("2026-11-30T23:59:59Z")
    space, _ = admitted(Namespace(policy=TEN_A_MONTH), created, uid="late")
    for hours in (1, 2, 40 * 24):
        looked = seen(RunState.RUNNING, gpu_seconds=hours * 3600)
        space = note(space, "late", looked, created_at=created)
    assert space.ledger_of(created).spent == Decimal("3.6") * 40 * 24
    assert space.ledger_of(created + timedelta(seconds=1)).spent == 0
    space, refused = admitted(space, created, uid="in november")
    assert refused == Reason.BUDGET_EXHAUSTED
    space, refused = admitted(space, created + timedelta(seconds=1), uid="in december")
    assert refused == ""
