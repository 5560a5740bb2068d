"""With the real controllers: suspend, cancel, queue, second Jobs and clean-up, as they really go.

A module of its own because what a Job counts as a failure, and what waits for what in a deletion,
is the controllers' to say; the test plays nobody but the kubelet (and Kueue).
"""

import copy
import functools
import uuid
from collections.abc import Iterator

import pytest
from tests.api.operator_process import ApiServer, Object, Operator, eventually
from tests.api.stage import Stage
from tests.builders import APod, ATraining, a_pod, a_training
from tests.conftest import start_with_crds
from tests.results import a_bad_result, a_good_result

from lora_api.reasons import Reason
from lora_operator.kube.resources import (
    CLAIMS,
    JOBS,
    PODS,
    TRAININGS,
    WORKLOADS,
    Resource,
)

pytestmark = pytest.mark.api
MERGE = "application/merge-patch+json"


@pytest.fixture(scope="module")
def api() -> Iterator[ApiServer]:
    with start_with_crds(controller_manager=True) as cluster:
        api = ApiServer(cluster.kubeconfig)
        # Pods on a node that does not exist would be collected.
        node = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "node-1"}}
        api.request("POST", "/api/v1/nodes", node)
        yield api


@pytest.fixture(scope="module")
def operator(api: ApiServer) -> Iterator[Operator]:
    process = Operator(api.kubeconfig, "--no-leader-elect").start()
    yield process
    process.kill()


class RealStage(Stage):
    """A stage on which the Job controller acts by itself."""

    def patch(self, spec: Object, **meta: object) -> None:
        """Change the run as its user would."""
        path = TRAININGS.path(self.namespace, self.name)
        self.api.request("PATCH", path, {"spec": spec, "metadata": meta}, MERGE)

    def patch_job(self, spec: Object) -> None:
        """Change the Job behind the operator's back, or as Kueue does."""
        path = JOBS.path(self.namespace, "anna-train")
        self.api.request("PATCH", path, {"spec": spec}, MERGE)

    def running_pod(self, *, job: str = "anna-train", but: str = "") -> APod:
        """The Job's newest pod, on a node and running."""

        def newest() -> str | None:
            for pod in self.api.list(PODS, self.namespace):
                owner, name = pod["metadata"]["ownerReferences"][0]["name"], pod["metadata"]["name"]
                if owner == job and name != but and pod["status"]["phase"] == "Pending":
                    found: str = name
                    return found
            return None

        pod = a_pod().named(eventually(newest, f"{job} has a pod"))
        self.bind_pod(pod)
        self.set_pod(pod.running())
        return pod

    def pod(self, pod: APod) -> Object:
        """The pod as it is."""
        body = self.api.get(PODS, self.namespace, pod.name)
        assert body is not None
        return body

    def is_leaving(self, pod: APod) -> None:
        """Wait until the pod's deletion has begun."""
        eventually(lambda: "deletionTimestamp" in self.pod(pod)["metadata"], f"{pod.name} is to go")

    def end(self, pod: APod, code: int, message: str = "") -> None:
        """End a pod as its kubelet would: its conditions stay, then it goes."""
        conditions = self.pod(pod)["status"]["conditions"]
        self.set_pod(pod.ended(code, message), conditions=conditions)
        if "deletionTimestamp" in self.pod(pod)["metadata"]:
            self.api.delete(PODS, self.namespace, pod.name)

    def has(self, resource: Resource) -> list[str]:
        """Names of what there is of a kind and not on its way out."""
        return [
            body["metadata"]["name"]
            for body in self.api.list(resource, self.namespace)
            if "deletionTimestamp" not in body["metadata"]
        ]

    def is_empty_of(self, *resources: Resource) -> None:
        for resource in resources:
            eventually(functools.partial(self._lacks, resource), f"no {resource.plural} left")

    def _lacks(self, resource: Resource) -> bool:
        return not self.api.list(resource, self.namespace)


@pytest.fixture
def new_stage(api: ApiServer, operator: Operator) -> "NewStage":
    del operator  # has to run
    return NewStage(api)


class NewStage:
    """Makes stages, each in a namespace of its own."""

    def __init__(self, api: ApiServer) -> None:
        self._api = api

    def __call__(
        self, training: ATraining | None = None, *, labels: Object | None = None
    ) -> RealStage:
        name = f"ns-{uuid.uuid4().hex[:8]}"
        body = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}
        self._api.request("POST", "/api/v1/namespaces", body)
        path = f"/api/v1/namespaces/{name}/serviceaccounts"
        eventually(lambda: self._api.request("GET", path)["items"], "the namespace is usable")
        stage = RealStage(self._api, (training or a_training()).in_namespace(name))
        manifest = copy.deepcopy(stage.training.manifest())
        manifest["metadata"]["labels"] = labels or {}
        self._api.create(TRAININGS, manifest)
        return stage


@pytest.mark.parametrize(
    ("sentence", "code"), [("a checkpoint is written", 143), ("the trainer has to be killed", 137)]
)
def test_suspending_and_resuming_costs_no_retry(
    new_stage: NewStage, sentence: str, code: int
) -> None:
    stage = new_stage(a_training().with_retries(0))
    first = stage.running_pod()
    stage.is_in("Starting", "Running")
    stage.patch({"suspend": True})
    stage.is_leaving(first)
    eventually(lambda: stage.job()["spec"]["suspend"], "the Job is suspended")
    assert "writes a checkpoint" in stage.is_in("Starting", "Suspending")["message"]
    stage.end(first, code)
    status = stage.is_in("Suspended", "Suspended")
    assert [a["exitCode"] for a in status["recentAttempts"]] == [code], sentence
    assert stage.job()["status"].get("failed", 0) == 0
    stage.patch({"suspend": False})
    second = stage.running_pod(but=first.name)
    stage.is_in("Starting", "Running")
    stage.end(second, 0, a_good_result())
    status = stage.is_in("Completed")
    assert status["attempts"] == 2
    assert stage.has(JOBS) == ["anna-train"]


def test_a_deleted_pod_that_had_to_be_killed_ends_a_job_but_not_the_run(
    new_stage: NewStage,
) -> None:
    stage = new_stage(a_training().with_retries(0))
    first = stage.running_pod()
    stage.is_in("Starting", "Running")
    stage.api.request("DELETE", PODS.path(stage.namespace, first.name))
    stage.is_leaving(first)
    stage.end(first, 137)
    second = stage.running_pod(job="anna-train-2")
    stage.is_in("Starting", "Running")
    stage.end(second, 0, a_good_result())
    assert stage.is_in("Completed")["attempts"] == 2


def test_a_disruption_budget_does_not_keep_a_run_from_being_suspended(
    new_stage: NewStage,
) -> None:
    stage = new_stage()
    budget = {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": {"name": "all"},
        "spec": {"minAvailable": 1, "selector": {}},
    }
    path = f"/apis/policy/v1/namespaces/{stage.namespace}/poddisruptionbudgets"
    stage.api.request("POST", path, budget)
    pod = stage.running_pod()
    stage.is_in("Starting", "Running")
    stage.patch({"suspend": True})
    stage.is_leaving(pod)
    stage.end(pod, 143)
    stage.is_in("Suspended", "Suspended")
    assert stage.job()["status"].get("failed", 0) == 0


def test_a_run_suspended_from_the_start_makes_nothing_until_it_is_resumed(
    new_stage: NewStage,
) -> None:
    stage = new_stage(a_training().suspended())
    stage.is_in("Suspended", "Suspended")
    assert stage.has(JOBS) == stage.has(CLAIMS) == []
    stage.patch({"suspend": False})
    stage.running_pod()
    stage.is_in("Starting", "Running")


def test_a_cancelled_run_gives_everything_back(new_stage: NewStage) -> None:
    stage = new_stage(a_training().with_spec("retention.jobSeconds", 0))
    pod = stage.running_pod()
    stage.is_in("Starting", "Running")
    stage.patch({"cancel": {}})
    stage.is_leaving(pod)
    assert "anna-train" in stage.is_in("Starting", "Cancelling")["message"]
    stage.end(pod, 143)
    status = stage.is_in("Cancelled", "Cancelled")
    assert status["completedAt"]
    assert "failure" not in status
    stage.is_empty_of(JOBS, PODS, CLAIMS)


def test_what_a_cancelled_run_trained_stays_where_its_user_wants_it(new_stage: NewStage) -> None:
    stage = new_stage(a_training().with_spec("retention.jobSeconds", 0))
    pod = stage.running_pod()
    stage.patch({"cancel": {"keepPartial": True}})
    stage.is_leaving(pod)
    stage.end(pod, 143)
    assert "claim anna-workspace" in stage.is_in("Cancelled")["message"]
    stage.is_empty_of(JOBS, PODS)
    assert stage.has(CLAIMS) == ["anna-workspace"]


def test_what_is_left_of_a_completed_run_goes_in_its_time(new_stage: NewStage) -> None:
    stage = new_stage(a_training().with_spec("retention", {"jobSeconds": 1}))
    stage.end(stage.running_pod(), 0, a_good_result())
    stage.is_in("Completed")
    stage.is_empty_of(JOBS, PODS, CLAIMS)
    assert stage.status["phase"] == "Completed"
    # Who changes his mind afterwards is heard, too.
    stage.patch({"retention": {"ttlSeconds": 0}})
    stage.is_empty_of(TRAININGS)


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
def workloads(api: ApiServer) -> str:
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
    api.request("POST", path, body)

    def is_served() -> bool:
        conditions = api.request("GET", f"{path}/{name}").get("status", {}).get("conditions")
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


def test_too_little_memory_is_tried_once_more_with_more(new_stage: NewStage) -> None:
    training = a_training().with_memory("3Gi").with_spec("resources.memoryOnRetry", "5Gi")
    stage = new_stage(training)
    first = stage.running_pod()
    stage.set_pod(first.ended(137, "", "OOMKilled"))
    second = stage.running_pod(job="anna-train-2")
    (container,) = stage.pod(second)["spec"]["containers"]
    assert container["resources"]["limits"]["memory"] == "5Gi"
    assert stage.is_in("Starting", "Running")["memory"] == "5Gi"
    stage.set_pod(second.ended(137, "", "OOMKilled"))
    status = stage.is_in("Failed", "OutOfMemory")
    assert "limit of 5Gi" in status["message"]
    assert status["attempts"] == 2


def test_what_could_not_be_stored_is_stored_later_without_a_gpu(new_stage: NewStage) -> None:
    stage = new_stage(a_training().with_retries(0))
    pod = stage.running_pod()
    stage.is_in("Starting", "Running")
    said = a_bad_result(Reason.UPLOAD_FAILED, "s3://models does not answer.", retryable=True)
    stage.end(pod, 76, said)
    status = stage.is_in("Uploading", "UploadFailed")
    assert "does not answer" in status["message"]
    # The hour is over.
    now = {"upload": {"tries": 0, "nextTryAt": "2026-01-01T00:00:00Z"}}
    stage.api.patch_status(TRAININGS, stage.namespace, stage.name, now)
    upload = stage.running_pod(job="anna-upload")
    (container,) = stage.pod(upload)["spec"]["containers"]
    assert "nvidia.com/gpu" not in container["resources"]["limits"]
    stage.end(upload, 0, a_good_result())
    status = stage.is_in("Completed")
    assert status["artifact"]["uri"] == "s3://models/anna/model.safetensors"
    assert status["attempts"] == 1


def test_a_job_that_somebody_stops_is_put_right(new_stage: NewStage) -> None:
    stage = new_stage()
    stage.job()
    stage.is_in("Pending", "PodPending")
    for change in ({"suspend": True}, {"parallelism": 0}):
        stage.patch_job(change)
        eventually(
            lambda: (
                not stage.job()["spec"].get("suspend") and stage.job()["spec"]["parallelism"] == 1
            ),
            f"{change} is put right",
        )


def test_a_status_that_somebody_else_wrote_is_put_right(new_stage: NewStage) -> None:
    stage = new_stage()
    stage.running_pod()
    true = stage.is_in("Starting", "Running")
    wrongs: list[Object] = [
        {"phase": "Completed"},
        {"conditions": []},
        {"jobName": None, "attempts": 7},
    ]
    for wrong in wrongs:
        stage.api.patch_status(TRAININGS, stage.namespace, stage.name, wrong)
        eventually(
            lambda: (
                stage.status.get("phase") == "Starting"
                and stage.condition("Running").get("status") == "True"
                and stage.status.get("jobName") == true["jobName"]
            ),
            f"{wrong} is put right",
        )
    assert stage.has(JOBS) == ["anna-train"]
