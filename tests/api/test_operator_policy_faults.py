"""Where nothing can be decided a real run says so, and goes on by itself once it can."""

import uuid
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest
from tests.api.operator_process import ApiServer, Object, Operator, eventually
from tests.api.stage import Stage
from tests.builders import a_training

from lora_api import API_VERSION
from lora_api.policy import ACTING_POLICY, POLICY_KIND
from lora_api.policy_ledger import LEDGER_KIND
from lora_cluster.light import LightCluster
from lora_operator.kube.resources import LEDGERS, POLICIES

pytestmark = pytest.mark.api

MERGE = "application/merge-patch+json"


@pytest.fixture(scope="module")
def api(light_cluster: LightCluster) -> ApiServer:
    return ApiServer(light_cluster.kubeconfig)


@pytest.fixture
def namespace(api: ApiServer) -> str:
    name = api.make_namespace(f"ns-{uuid.uuid4().hex[:8]}")
    metadata = {"name": ACTING_POLICY, "namespace": name}
    spec = {"maxConcurrentGPUs": 4, "prices": {"perGpuHour": "2"}}
    api.create(
        POLICIES,
        {"apiVersion": API_VERSION, "kind": POLICY_KIND, "metadata": metadata, "spec": spec},
    )
    return name


@pytest.fixture
def operator(api: ApiServer, namespace: str) -> Iterator[Operator]:
    process = Operator(api.kubeconfig, f"--lease-namespace={namespace}", f"--namespace={namespace}")
    yield process.start()
    process.kill()


def hold_ledger(api: ApiServer, namespace: str, month: str, **spec: object) -> None:
    """As somebody with the right to mend one left it."""
    body = {
        "apiVersion": API_VERSION,
        "kind": LEDGER_KIND,
        "metadata": {"name": month, "namespace": namespace},
        "spec": {"month": month, **spec},
    }
    api.create(LEDGERS, body)


def waits(stage: Stage, reason: str) -> str:
    """What the run says while nothing can be decided."""
    status = stage.is_in("Queued", reason)
    assert not stage.jobs()
    message: str = status["message"]
    return message


def acting(api: ApiServer, namespace: str) -> Object:
    body = api.get(POLICIES, namespace, ACTING_POLICY) or {}
    conditions = body.get("status", {}).get("conditions", [{}])
    assert isinstance(conditions[0], dict)
    return conditions[0]


def test_a_ledger_that_can_not_be_read_holds_new_runs_until_it_is_gone(
    api: ApiServer, namespace: str, operator: Operator
) -> None:
    del operator  # has to run
    hold_ledger(api, namespace, "2026-99")
    stage = Stage(api, a_training().in_namespace(namespace))
    stage.apply()
    assert f"TrainingLedger {namespace}/2026-99 can't be read" in waits(stage, "PolicyUnreadable")
    eventually(lambda: acting(api, namespace).get("reason") == "PolicyUnreadable", "it is told")
    api.delete(LEDGERS, namespace, "2026-99")
    stage.is_in("Pending", "PodPending")


def test_a_policy_in_another_currency_than_the_months_sums_starts_nothing(
    api: ApiServer, namespace: str, operator: Operator
) -> None:
    del operator  # has to run
    month = f"{datetime.now(UTC):%Y-%m}"
    users = [{"user": "ben", "trainings": 1, "gpuSeconds": 3600, "cost": "2"}]
    hold_ledger(api, namespace, month, currency="EUR", users=users)
    stage = Stage(api, a_training().in_namespace(namespace))
    stage.apply()
    assert f"TrainingLedger {month} counts in EUR" in waits(stage, "CurrencyChanged")
    eventually(lambda: acting(api, namespace).get("reason") == "CurrencyChanged", "it is told")
    path = POLICIES.path(namespace, ACTING_POLICY)
    api.request("PATCH", path, {"spec": {"currency": "EUR"}}, MERGE)
    stage.is_in("Pending", "PodPending")
