"""The operator's whole way, as a process, against a real API server; the test plays the kubelet."""

import time
from collections.abc import Callable, Iterator

import pytest
from tests.api.operator_process import ApiServer, Operator, eventually
from tests.api.stage import Stage
from tests.builders import a_job, a_pod, a_training
from tests.results import a_bad_result, a_good_result

from lora_operator.kube.resources import CLAIMS, JOBS, LEASES, PODS, TRAININGS

pytestmark = pytest.mark.api
NewStage = Callable[..., Stage]


@pytest.fixture(scope="module")
def operator(api: ApiServer) -> Iterator[Operator]:
    process = Operator(api.kubeconfig, "--no-leader-elect").start()
    yield process
    process.kill()


@pytest.fixture
def stage(api: ApiServer, namespace: str, operator: Operator) -> Stage:
    del operator  # has to run
    return Stage(api, a_training().in_namespace(namespace))


def test_a_run_goes_from_apply_to_completed(stage: Stage) -> None:
    stage.apply()
    stage.bind_claim()
    pod = a_pod()
    stage.add_pod(pod)
    stage.is_in("Pending", "PodPending")
    stage.bind_pod(pod)
    stage.is_in("Starting", "PodStarting")
    stage.set_pod(pod.running())
    stage.is_in("Starting", "Running")
    stage.set_pod(pod.ended(0, a_good_result()))
    stage.is_in("Uploading")
    stage.set_job(a_job().complete())
    status = stage.is_in("Completed")

    truths = {c["type"]: c["status"] for c in status["conditions"]}
    assert truths == {
        "Admitted": "True",
        "WorkspaceReady": "True",
        "Running": "False",
        "ArtifactStored": "True",
        "Validated": "True",
        "Succeeded": "True",
        "Suspended": "False",
        "Reconciling": "False",
        "Stalled": "False",
    }
    assert status["artifact"]["uri"] == "s3://models/anna/model.safetensors"
    assert status["validation"]["improvementPercent"] == 50
    assert status["progress"]["percent"] == 100
    assert (status["attempts"], status["podName"]) == (1, pod.name)
    assert status["startedAt"]
    assert status["completedAt"]
    eventually(lambda: stage.told() and stage.told()[-1] == "Completed", "the end is told")
    assert "Starting" in stage.told()


def test_bad_input_ends_in_failed_with_the_trainers_words(stage: Stage) -> None:
    stage.apply()
    pod = a_pod().placed()
    stage.add_pod(pod.ended(65, a_bad_result()))
    stage.set_job(a_job().failed("PodFailurePolicy", "exit code 65").with_failed_pods(1))
    status = stage.is_in("Failed", "TooFewImages")
    assert status["failure"]["exitCode"] == 65
    assert status["failure"]["retryable"] is False
    assert "spec.dataset.minImages" in status["message"]


def test_an_image_that_cannot_be_pulled_waits_and_recovers(stage: Stage) -> None:
    stage.apply()
    pod = a_pod().placed()
    stage.add_pod(pod.waiting("ErrImagePull", "lora-trainer:test: not found"))
    status = stage.is_in("Starting", "ImagePullFailed")
    assert "not found" in status["message"]
    stage.set_pod(pod.running())
    assert stage.is_in("Starting", "Running")["message"] == (
        f"Starting in pod {pod.name} on node node-1."
    )


def test_a_pod_that_no_node_can_take_quotes_the_scheduler(stage: Stage) -> None:
    stage.apply()
    pod = a_pod().unschedulable("0/1 nodes are available: 1 Insufficient nvidia.com/gpu.")
    stage.add_pod(pod)
    status = stage.is_in("Pending", "Unschedulable")
    assert "Insufficient nvidia.com/gpu" in status["message"]
    assert "spec.resources.gpus" in status["message"]


def test_too_little_memory_names_the_field(stage: Stage) -> None:
    stage.apply()
    stage.add_pod(a_pod().placed().ended(137, "", "OOMKilled"))
    stage.set_job(a_job().failed().with_failed_pods(4))
    status = stage.is_in("Failed", "OutOfMemory")
    assert "8Gi" in status["message"]
    assert "spec.resources.memory" in status["message"]


def test_a_missing_secret_is_waited_for(stage: Stage) -> None:
    stage.apply()
    waiting = a_pod().placed().waiting("CreateContainerConfigError", 'secret "s3" not found')
    stage.add_pod(waiting)
    assert "spec.credentialsSecretName" in stage.is_in("Starting", "SecretNotFound")["message"]


def test_a_strangers_job_of_the_same_name_is_not_touched(
    api: ApiServer, namespace: str, stage: Stage
) -> None:
    stranger = {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": "anna-train", "namespace": namespace},
        "spec": {
            "template": {
                "spec": {"restartPolicy": "Never", "containers": [{"name": "x", "image": "x"}]}
            }
        },
    }
    before = api.create(JOBS, stranger)
    stage.apply()
    status = stage.is_in("Pending", "NameTaken")
    assert "Job anna-train exists and belongs to something else" in status["message"]
    after = api.get(JOBS, namespace, "anna-train")
    assert after is not None
    assert after["metadata"]["resourceVersion"] == before["metadata"]["resourceVersion"]


def test_a_run_made_again_waits_for_what_the_earlier_one_left(
    api: ApiServer, namespace: str, stage: Stage
) -> None:
    old = Stage(api, stage.training)
    old.apply()
    old.job()
    path = CLAIMS.path(namespace, "anna-workspace")
    hold = {"metadata": {"finalizers": ["example.com/in-use"]}}
    api.request("PATCH", path, hold, "application/merge-patch+json")
    # Without the garbage collector the test takes the children away.
    api.delete(TRAININGS, namespace, "anna")
    api.delete(JOBS, namespace, "anna-train")
    api.delete(CLAIMS, namespace, "anna-workspace")
    stage.apply()
    status = stage.is_in("Pending", "PredecessorTerminating")
    assert "PersistentVolumeClaim anna-workspace of an earlier run" in status["message"]
    release: dict[str, object] = {"metadata": {"finalizers": []}}
    api.request("PATCH", path, release, "application/merge-patch+json")
    stage.is_in("Pending", "PodPending")
    assert "PredecessorTerminating" not in stage.told()


def test_a_quota_that_refuses_the_job_is_quoted(
    api: ApiServer, namespace: str, stage: Stage
) -> None:
    quota = {
        "apiVersion": "v1",
        "kind": "ResourceQuota",
        "metadata": {"name": "few", "namespace": namespace},
        "spec": {"hard": {"count/jobs.batch": "0"}},
    }
    path = f"/api/v1/namespaces/{namespace}/resourcequotas"
    api.request("POST", path, quota)
    # Without the quota controller nobody fills the status that admission counts against.
    hard = {"hard": {"count/jobs.batch": "0"}, "used": {"count/jobs.batch": "0"}}
    patch = {"status": hard}
    api.request("PATCH", f"{path}/few/status", patch, "application/merge-patch+json")
    stage.apply()
    status = stage.is_in("Pending", "CreationRefused")
    assert "exceeded quota" in status["message"]


def test_an_unknown_recipe_fails_without_any_child(
    api: ApiServer, namespace: str, operator: Operator
) -> None:
    del operator
    stage = Stage(api, a_training().in_namespace(namespace).with_recipe("sd99"))
    stage.apply()
    stage.is_in("Failed", "RecipeNotFound")
    assert api.list(JOBS, namespace) == []
    assert api.list(CLAIMS, namespace) == []


def test_a_job_deleted_under_a_run_ends_it_and_is_not_made_again(stage: Stage) -> None:
    stage.apply()
    stage.job()
    stage.is_in("Pending", "PodPending")
    stage.api.delete(JOBS, stage.namespace, "anna-train")
    status = stage.is_in("Failed", "JobVanished")
    assert status["failure"]["retryable"] is True
    assert stage.jobs() == []


def test_a_finished_run_is_not_resurrected_by_the_loss_of_its_job(stage: Stage) -> None:
    stage.apply()
    stage.add_pod(a_pod().placed().ended(0, a_good_result()))
    stage.set_job(a_job().complete())
    stage.is_in("Completed")
    version = stage.version
    stage.api.delete(JOBS, stage.namespace, "anna-train")
    # A second run, worked on after the deletion was seen, shows that the first was looked at.
    other = Stage(stage.api, a_training().in_namespace(stage.namespace).named("ben"))
    other.apply()
    other.is_in("Pending", "PodPending")
    assert stage.version == version
    assert stage.jobs() == []


def test_a_failed_attempt_is_told_and_the_next_one_counted(stage: Stage) -> None:
    stage.apply()
    first = a_pod().placed()
    stage.add_pod(first.ended(1, "Traceback\nRuntimeError: boom"))
    status = stage.is_in("Pending", "Retrying")
    assert "RuntimeError: boom" in status["message"]
    second = a_pod().named("anna-train-x2").placed()
    stage.add_pod(second.running())
    eventually(lambda: stage.status.get("attempts") == 2, "the second attempt is counted")
    stage.set_pod(second.ended(0, a_good_result()))
    stage.set_job(a_job().with_failed_pods(1).complete())
    assert "failure" not in stage.is_in("Completed")


def test_when_nothing_changes_nothing_is_written(stage: Stage, operator: Operator) -> None:
    stage.apply()
    stage.bind_claim()
    stage.add_pod(a_pod().placed().running())
    stage.is_in("Starting", "Running")
    version, writes = stage.version, operator.metric("lora_operator_status_writes_total")
    # Touching the pod without changing what it says makes the operator look, and look only.
    for number in range(5):
        stage.api.request(
            "PATCH",
            PODS.path(stage.namespace, a_pod().name),
            {"metadata": {"annotations": {"touched": str(number)}}},
            "application/merge-patch+json",
        )
    other = Stage(stage.api, a_training().in_namespace(stage.namespace).named("ben"))
    other.apply()
    other.is_in("Pending", "PodPending")
    assert stage.version == version
    assert operator.metric("lora_operator_status_writes_total") == writes + 1


def test_a_deleted_run_is_forgotten(stage: Stage, operator: Operator) -> None:
    stage.apply()
    stage.job()
    known = operator.metric("lora_operator_cached_objects")
    stage.api.delete(TRAININGS, stage.namespace, "anna")
    eventually(
        lambda: operator.metric("lora_operator_cached_objects") < known, "the run is forgotten"
    )
    assert stage.api.get(TRAININGS, stage.namespace, "anna") is None


def test_a_user_who_edits_the_run_in_between_is_not_overwritten(stage: Stage) -> None:
    stage.apply()
    stage.job()
    path = TRAININGS.path(stage.namespace, "anna")
    for number in range(20):
        patch = {"metadata": {"labels": {"team": f"t{number}"}}}
        stage.api.request("PATCH", path, patch, "application/merge-patch+json")
        if number == 10:
            stage.add_pod(a_pod().placed().running())
    stage.is_in("Starting", "Running")
    body = stage.api.get(TRAININGS, stage.namespace, "anna")
    assert body is not None
    assert body["metadata"]["labels"] == {"team": "t19"}


def test_no_lease_is_written_without_leader_election(api: ApiServer, operator: Operator) -> None:
    assert operator.leads
    assert api.get(LEASES, "default", "lora-operator") is None


def test_a_pod_that_its_node_cannot_start_says_why(stage: Stage) -> None:
    stage.apply()
    stage.bind_claim()
    pod = a_pod()
    stage.add_pod(pod)
    stage.bind_pod(pod)
    stage.is_in("Starting", "PodStarting")
    stage.warn_about(pod, "FailedMount", "MountVolume.SetUp failed: no such device")
    time.sleep(1.1)  # times of events are whole seconds
    stage.warn_about(pod, "FailedScheduling", "0/1 nodes are available")
    status = stage.is_in("Starting", "ContainerConfigError")
    assert "on node node-1: MountVolume.SetUp failed: no such device" in status["message"]
    stage.set_pod(pod.running())
    stage.is_in("Starting", "Running")
