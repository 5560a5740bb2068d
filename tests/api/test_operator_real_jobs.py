"""With the real controllers: how Jobs really fail, are refused, and are collected as garbage."""

import functools

import pytest
from tests.api.operator_process import ApiServer, Object, Operator, eventually
from tests.api.real_stage import make_namespace
from tests.api.stage import Stage
from tests.builders import a_pod, a_training
from tests.results import a_bad_result, a_good_result

from lora_operator.kube.resources import CLAIMS, JOBS, PODS, TRAININGS, Resource

pytestmark = pytest.mark.api


@pytest.fixture
def stage(controlled_api: ApiServer, controlled_operator: Operator) -> Stage:
    """A run that is not applied yet, in a restricted namespace."""
    del controlled_operator  # has to run
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    namespace = make_namespace(controlled_api, labels)
    return Stage(controlled_api, a_training().in_namespace(namespace))


def is_empty(stage: Stage, resource: Resource) -> bool:
    return not stage.api.list(resource, stage.namespace)


def pods_of(stage: Stage) -> list[Object]:
    return [
        pod
        for pod in stage.api.list(PODS, stage.namespace)
        if "deletionTimestamp" not in pod["metadata"]
    ]


def the_pod(stage: Stage, *, after: int = 0) -> str:
    """Name of the newest pod, once there are more than `after`."""

    def newest() -> str | None:
        pods = pods_of(stage)
        if len(pods) <= after:
            return None
        pods.sort(key=lambda pod: int(pod["metadata"]["resourceVersion"]))
        waiting = [pod for pod in pods if pod["status"]["phase"] == "Pending"]
        name: str | None = waiting[-1]["metadata"]["name"] if waiting else None
        return name

    name: str = eventually(newest, "the Job controller made a pod")
    return name


def test_a_restricted_namespace_admits_the_pod_and_the_job_completes(stage: Stage) -> None:
    stage.apply()
    pod = a_pod().named(the_pod(stage))
    stage.is_in("Pending", "PodPending")
    stage.bind_pod(pod)
    stage.set_pod(pod.running())
    stage.is_in("Starting", "Running")
    stage.set_pod(pod.ended(0, a_good_result()))
    assert stage.is_in("Completed")["attempts"] == 1


def test_bad_input_is_not_tried_again(stage: Stage) -> None:
    stage.apply()
    pod = a_pod().named(the_pod(stage))
    stage.bind_pod(pod)
    stage.set_pod(pod.ended(65, a_bad_result()))
    status = stage.is_in("Failed", "TooFewImages")
    assert status["attempts"] == 1
    assert stage.job()["status"]["conditions"][-1]["reason"] == "PodFailurePolicy"


def test_too_little_memory_is_not_tried_again(stage: Stage) -> None:
    stage.apply()
    pod = a_pod().named(the_pod(stage))
    stage.bind_pod(pod)
    stage.set_pod(pod.ended(137, "", "OOMKilled"))
    status = stage.is_in("Failed", "OutOfMemory")
    assert status["attempts"] == 1
    assert "Retrying" not in stage.told()
    assert stage.job()["status"]["conditions"][-1]["reason"] == "PodFailurePolicy"


def test_a_kill_by_a_disruption_costs_no_retry(stage: Stage) -> None:
    stage = Stage(stage.api, stage.training.with_retries(0))
    stage.apply()
    first = a_pod().named(the_pod(stage))
    stage.bind_pod(first)
    stage.set_pod(first.ended(137).disrupted("EvictionByEvictionAPI", "the node is drained"))
    assert "the node is drained" in stage.is_in("Pending", "Retrying")["message"]
    second = a_pod().named(the_pod(stage, after=1))
    stage.bind_pod(second)
    stage.set_pod(second.ended(0, a_good_result()))
    assert stage.is_in("Completed")["attempts"] == 2


def test_a_crash_is_tried_again(stage: Stage) -> None:
    stage.apply()
    first = a_pod().named(the_pod(stage))
    stage.bind_pod(first)
    stage.set_pod(first.ended(1, "RuntimeError: boom"))
    assert "RuntimeError: boom" in stage.is_in("Pending", "Retrying")["message"]
    # The Job controller waits ten seconds before the second attempt.
    second = a_pod().named(the_pod(stage, after=1))
    stage.bind_pod(second)
    stage.set_pod(second.ended(0, a_good_result()))
    status = stage.is_in("Completed")
    assert status["attempts"] == 2
    assert status["podName"] == second.name


def test_a_dead_node_is_told_with_what_ends_the_wait(stage: Stage) -> None:
    # A node without a kubelet: nobody confirms that a pod on it is gone.
    node = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "dead"}}
    stage.api.request("POST", "/api/v1/nodes", node)
    stage.apply()
    first = a_pod().named(the_pod(stage))
    stage.bind_pod(first, "dead")
    stage.set_pod(first.running())
    stage.is_in("Starting", "Running")
    stage.api.request("DELETE", PODS.path(stage.namespace, first.name))
    message = stage.is_in("Starting", "Interrupted")["message"]
    assert f"Pod {first.name} is being taken from node dead" in message
    taint = {"key": "node.kubernetes.io/out-of-service", "effect": "NoExecute"}
    assert taint["key"] in message
    patch = {"spec": {"taints": [taint]}}
    stage.api.request("PATCH", "/api/v1/nodes/dead", patch, "application/merge-patch+json")
    second = a_pod().named(the_pod(stage))
    stage.bind_pod(second)
    stage.set_pod(second.running())
    assert stage.is_in("Starting", "Running")["attempts"] == 2


def test_a_quota_on_pods_is_explained_by_the_jobs_events(stage: Stage) -> None:
    quota = {
        "apiVersion": "v1",
        "kind": "ResourceQuota",
        "metadata": {"name": "no-pods"},
        "spec": {"hard": {"pods": "0"}},
    }
    path = f"/api/v1/namespaces/{stage.namespace}/resourcequotas"
    stage.api.request("POST", path, quota)
    eventually(
        lambda: "hard" in stage.api.request("GET", f"{path}/no-pods").get("status", {}),
        "the quota counts",
    )
    stage.apply()
    status = stage.is_in("Pending", "PodCreationRefused")
    assert "exceeded quota: no-pods" in status["message"]


def test_a_storage_class_that_does_not_exist_is_named(stage: Stage) -> None:
    stage = Stage(stage.api, stage.training.with_storage_class("fast"))
    stage.apply()
    status = stage.is_in("Pending", "WorkspacePending")
    assert '"fast" not found' in status["message"]
    assert "spec.workspace.storageClassName" in status["message"]


def test_a_deleted_run_takes_its_children_along_while_no_operator_lives(
    stage: Stage, controlled_operator: Operator
) -> None:
    stage.apply()
    the_pod(stage)
    controlled_operator.kill()
    try:
        stage.api.delete(TRAININGS, stage.namespace, stage.name)
        # A claim that a pod used is kept by its protection until the pod is gone.
        for resource in (JOBS, PODS, CLAIMS):
            eventually(functools.partial(is_empty, stage, resource), f"no {resource.plural} left")
    finally:
        controlled_operator.start()
