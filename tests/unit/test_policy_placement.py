"""What a policy adds to a run: defaults, and the figures it shows."""

from decimal import Decimal

import pytest
from tests.builders import a_training
from tests.policies import NOON, a_ledger, a_policy, seen, waiting, working

from lora_api.policy_ledger import RunState
from lora_api.policy_status import MAX_LISTED
from lora_api.training import LoRATrainingSpec, WorkspaceRetention
from lora_operator.policy.defaults import priority_of, with_defaults
from lora_operator.policy.ledger import admit, observe, settle
from lora_operator.policy.usage import acting_condition, usage


def spec_of(**fields: object) -> LoRATrainingSpec:
    body = a_training().without_secret()
    for path, value in fields.items():
        body = body.with_spec(path, value)
    return LoRATrainingSpec.model_validate(body.spec)


DEFAULTS = a_policy(
    defaults={"credentialsSecretName": "shared", "priorityClassName": "low", "ttlSeconds": 600},
    priorityClasses=[{"name": "low", "value": 10}, {"name": "high", "value": 90}],
)


def test_a_run_that_says_nothing_takes_the_policys_defaults() -> None:
    spec = with_defaults(spec_of(), DEFAULTS)
    assert spec.credentials_secret_name == "shared"
    assert spec.priority_class_name == "low"
    assert spec.retention.ttl_seconds == 600


def test_each_part_of_the_retention_is_filled_by_itself() -> None:
    policy = a_policy(
        defaults={"jobSeconds": 60, "workspaceRetention": "RetainOnFailure", "ttlSeconds": 600}
    )
    given = with_defaults(spec_of(retention={"jobSeconds": 0}), policy).retention
    assert (given.job_seconds, given.ttl_seconds) == (0, 600)
    assert given.workspace is WorkspaceRetention.RETAIN_ON_FAILURE


def test_what_a_run_says_itself_stays() -> None:
    given = spec_of(
        credentialsSecretName="own", priorityClassName="high", retention={"ttlSeconds": 0}
    )
    assert with_defaults(given, DEFAULTS) == given


def test_what_neither_run_nor_policy_says_of_retention_is_said_by_the_operator() -> None:
    kept = a_training().run().retention
    assert (kept.job_seconds, kept.ttl_seconds) == (600, None)
    assert kept.workspace is WorkspaceRetention.DELETE


def test_without_defaults_nothing_is_added() -> None:
    assert with_defaults(spec_of(), a_policy()) == spec_of()


@pytest.mark.parametrize(("name", "value"), [(None, 10), ("high", 90), ("unlisted", 0)])
def test_priority_is_the_weight_of_the_class_in_the_policy(name: str | None, value: int) -> None:
    spec = spec_of(priorityClassName=name) if name else spec_of()
    assert priority_of(spec, DEFAULTS) == value


def test_usage_tells_who_used_what_and_who_waits() -> None:
    ledger = observe(a_ledger(), "u1", seen(RunState.COUNTED, gpu_seconds=1000, steps=9))
    ledger = settle(ledger, "u1")
    ledger = observe(ledger, "u2", seen(RunState.RUNNING, gpu_seconds=500))
    ledger = admit(ledger, "u3", seen(RunState.WAITING, user="ben"), Decimal(1))
    status = usage(
        generation=3,
        acting=acting_condition("default", since=NOON),
        policy=a_policy(monthlyBudget={"amount": 2}),
        ledger=ledger,
        queue=[waiting("third", "ben")],
        working=[working("second", "anna", gpus=2)],
    )
    assert status.model_dump(mode="json", by_alias=True, exclude_none=True) == {
        "observedGeneration": 3,
        "conditions": [
            {
                "type": "Acting",
                "status": "True",
                "reason": "Acting",
                "message": "",
                "lastTransitionTime": "2026-11-22T12:00:00Z",
            }
        ],
        "month": "2026-11",
        "nextReset": "2026-12-01T00:00:00Z",
        "trainings": 3,
        "gpusInUse": 2,
        "runningCount": 1,
        "waitingCount": 1,
        "spending": {"amount": "1.5", "currency": "USD", "budget": "2", "percent": 75},
        "users": [
            {
                "user": "anna",
                "trainings": 2,
                "running": 1,
                "gpus": 2,
                "gpuSeconds": 1500,
                "cost": "1.5",
            },
            {"user": "ben", "trainings": 1, "running": 0, "gpus": 0, "gpuSeconds": 0, "cost": "0"},
        ],
        "running": [{"name": "second", "user": "anna", "gpus": 2}],
        "waiting": [{"name": "third", "user": "ben", "gpus": 1, "position": 1}],
    }


def test_usage_lists_a_hundred_and_counts_all() -> None:
    ledger = a_ledger()
    for number in range(MAX_LISTED + 50):
        ledger = admit(ledger, f"u{number}", seen(RunState.WAITING, user=f"user-{number}"), None)
    status = usage(
        generation=1,
        acting=acting_condition("default", since=NOON),
        policy=a_policy(),
        ledger=ledger,
        queue=[waiting(f"r{number}") for number in range(MAX_LISTED + 50)],
        working=[],
    )
    assert (len(status.users), len(status.waiting)) == (MAX_LISTED, MAX_LISTED)
    assert (status.trainings, status.waiting_count) == (150, 150)


def test_a_policy_of_another_name_is_told_that_it_does_not_act() -> None:
    condition = acting_condition("strict", since=NOON)
    assert (condition.status, condition.reason) == ("False", "NotNamedDefault")
    assert "Only the policy named default acts" in condition.message
