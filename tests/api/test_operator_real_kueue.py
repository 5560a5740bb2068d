"""With the real Job controller: Kueue holds Jobs back, lets them go and takes them back.

A module of its own because here the test plays Kueue, too.
"""

import pytest
from tests.api.operator_process import ApiServer, eventually
from tests.api.real_stage import NewStage
from tests.builders import a_training
from tests.results import a_good_result

from lora_operator.kube.resources import JOBS, WORKLOADS

pytestmark = pytest.mark.api


def test_a_queue_of_kueue_holds_the_job_and_takes_it_back(new_stage: NewStage) -> None:
    labels = {"kueue.x-k8s.io/queue-name": "gpus"}
    stage = new_stage(a_training().with_retries(0), labels=labels)
    status = stage.is_in("Queued", "Queued")
    assert "queue gpus" in status["message"]
    assert stage.job()["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "gpus"
    stage.patch_job({"suspend": False})
    first = stage.running_pod()
    stage.is_in("Starting", "Running")
    # Preempted: nobody but the Job controller deletes the pod, so nothing calls it a disruption.
    stage.patch_job({"suspend": True})
    stage.is_leaving(first)
    stage.end(first, 143)
    stage.is_in("Queued", "Queued")
    stage.patch_job({"suspend": False})
    second = stage.running_pod(but=first.name)
    stage.end(second, 0, a_good_result())
    assert stage.is_in("Completed")["attempts"] == 2


@pytest.fixture
def workloads(controlled_api: ApiServer) -> str:
    """Kueue's kind, as far as the operator reads it."""
    schema = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    version = {
        "name": WORKLOADS.version,
        "served": True,
        "storage": True,
        "schema": {"openAPIV3Schema": schema},
    }
    names = {"kind": "Workload", "plural": WORKLOADS.plural, "singular": "workload"}
    name = f"{WORKLOADS.plural}.{WORKLOADS.group}"
    body = {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {
            "name": name,
            "annotations": {"api-approved.kubernetes.io": "unapproved, a stand-in for tests"},
        },
        "spec": {
            "group": WORKLOADS.group,
            "scope": "Namespaced",
            "names": names,
            "versions": [version],
        },
    }
    path = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
    controlled_api.request("POST", path, body)

    def is_served() -> bool:
        conditions = (
            controlled_api.request("GET", f"{path}/{name}").get("status", {}).get("conditions")
        )
        return "Established" in [condition["type"] for condition in conditions or []]

    eventually(is_served, "the kind is served")
    return name


def test_kueues_own_words_are_quoted(new_stage: NewStage, workloads: str) -> None:
    stage = new_stage(labels={"kueue.x-k8s.io/queue-name": "gpus"})
    said = "couldn't assign flavors to pod set main: insufficient quota for nvidia.com/gpu"
    condition = {"type": "QuotaReserved", "status": "False", "reason": "Pending", "message": said}
    workload = {
        "apiVersion": WORKLOADS.api_version,
        "kind": "Workload",
        "metadata": {
            "name": "job-anna-train-abcde",
            "namespace": stage.namespace,
            "labels": {"kueue.x-k8s.io/job-uid": stage.job()["metadata"]["uid"]},
        },
        "status": {"conditions": [condition]},
    }
    stage.api.create(WORKLOADS, workload)
    # The operator looks again when something moves, or after half a minute.
    stage.patch({}, annotations={"looked-at": workloads})
    eventually(lambda: said in stage.status.get("message", ""), "Kueue is quoted")
    assert stage.status["phase"] == "Queued"


def test_a_job_without_a_queue_that_kueue_manages_all_the_same_is_not_fought_over(
    new_stage: NewStage,
) -> None:
    stage = new_stage()
    pod = stage.running_pod()
    stage.is_in("Starting", "Running")
    for times in (1, 2):
        stage.patch_job({"suspend": True})
        if times == 1:
            stage.is_leaving(pod)
            stage.end(pod, 143)
            eventually(lambda: not stage.job()["spec"]["suspend"], "it is let go once")
    message = stage.is_in("Suspended", "HeldElsewhere")["message"]
    assert "manageJobsWithoutQueueName" in message
    generation = stage.job()["metadata"]["generation"]
    # Something moves, and still nobody fights.
    stage.patch({}, annotations={"looked-at": "again"})
    stage.patch({"retention": {"jobSeconds": 1}})
    eventually(lambda: stage.job()["metadata"]["generation"] > generation, "it is let go once more")
    second = stage.running_pod(but=pod.name)
    stage.end(second, 0, a_good_result())
    assert stage.is_in("Completed")["attempts"] == 2


def test_a_queued_run_is_suspended_without_touching_kueues_field(new_stage: NewStage) -> None:
    labels = {"kueue.x-k8s.io/queue-name": "gpus"}
    stage = new_stage(labels=labels)
    stage.is_in("Queued")
    stage.patch_job({"suspend": False})
    first = stage.running_pod()
    stage.is_in("Starting", "Running")
    stage.patch({"suspend": True})
    stage.is_leaving(first)
    assert stage.job()["spec"]["suspend"] is False
    stage.end(first, 143)
    stage.is_in("Suspended", "Suspended")
    assert stage.has(JOBS) == []
    stage.patch({"suspend": False})
    stage.is_in("Queued")
    assert stage.has(JOBS) == ["anna-train-2"]
