"""A namespace's policy, kept for real pods: one GPU for two runs, and what each has cost."""

import re
import time
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest
from tests.e2e.conftest import Cluster, Training, condition, has_ended

from lora_api import API_VERSION, GROUP, VERSION
from lora_api.policy import ACTING_POLICY, POLICY_KIND, POLICY_PLURAL

pytestmark = pytest.mark.e2e
Build = Callable[..., Training]
PATIENCE_SECONDS = 60.0


def set_policy(cluster: Cluster, namespace: str, spec: dict[str, Any]) -> None:
    cluster.apply(
        {
            "apiVersion": API_VERSION,
            "kind": POLICY_KIND,
            "metadata": {"name": ACTING_POLICY, "namespace": namespace},
            "spec": spec,
        }
    )


def read_policy(cluster: Cluster, namespace: str) -> dict[str, Any]:
    """What the policy's status says."""
    found: dict[str, Any] = cluster.objects.get_namespaced_custom_object(
        GROUP, VERSION, namespace, POLICY_PLURAL, ACTING_POLICY
    )
    status: dict[str, Any] = found.get("status", {})
    return status


def test_of_two_runs_for_one_gpu_one_waits_with_its_place_and_each_is_paid_for(
    cluster: Cluster, namespace: str, a_run: Build
) -> None:
    # A second of a GPU costs a tenth of a cent.
    set_policy(cluster, namespace, {"maxConcurrentGPUs": 1, "prices": {"perGpuHour": "3.6"}})
    cluster.create(a_run("first", {"user": "anna", "optimization.steps": 40}))
    cluster.wait(namespace, "first", lambda s: s.get("phase") in {"Starting", "Training"})
    cluster.create(a_run("second", {"user": "ben"}))

    status = cluster.wait(namespace, "second", lambda s: s.get("phase") == "Queued")
    assert condition(status, "Running")["reason"] == "Queued"
    assert status["message"] == "1st of 1; needs 1 GPU; 1 of 1 in use by anna"
    jobs = cluster.batch.list_namespaced_job(namespace).items
    assert [job.metadata.name for job in jobs] == ["first-train"]

    costs = []
    ends = []
    for name in ("first", "second"):
        status = cluster.wait(
            namespace, name, lambda s: has_ended(s) and s.get("cost", {}).get("final", False)
        )
        assert status["phase"] == "Completed", status
        (attempt,) = status["recentAttempts"]
        ends.append((attempt["scheduledAt"], attempt["endedAt"]))
        assert status["gpuSeconds"] > 0
        assert status["cost"]["currency"] == "USD"
        costs.append(Decimal(status["cost"]["amount"]))
        assert costs[-1] == Decimal(status["gpuSeconds"]) / 1000
    assert ends[0][1] <= ends[1][0], "the second had its node before the first gave up its GPU"

    deadline = time.monotonic() + PATIENCE_SECONDS
    told: dict[str, Any] = {}
    while time.monotonic() < deadline:
        told = read_policy(cluster, namespace)
        is_paid = Decimal(told.get("spending", {}).get("amount", "0")) == sum(costs)
        # The last run's GPU is in use until its pod is known to be over, which may be told later.
        if is_paid and told.get("gpusInUse") == 0:
            break
        time.sleep(0.5)
    assert Decimal(told["spending"]["amount"]) == sum(costs)
    assert {user["user"]: user["trainings"] for user in told["users"]} == {"anna": 1, "ben": 1}
    assert (told["trainings"], told["gpusInUse"], told.get("waiting", [])) == (2, 0, [])
    assert re.fullmatch(r"\d{4}-\d\d-01T00:00:00Z", told["nextReset"])
