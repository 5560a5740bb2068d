"""With the real controllers: suspend, cancel, second Jobs and clean-up, as they really go.

A module of its own because what a Job counts as a failure, and what waits for what in a deletion,
is the controllers' to say; the test plays nobody but the kubelet.
"""

import pytest
from tests.api.operator_process import Object, eventually
from tests.api.real_stage import NewStage
from tests.builders import a_training
from tests.results import a_bad_result, a_good_result

from lora_api.reasons import Reason
from lora_operator.kube.resources import CLAIMS, JOBS, PODS, TRAININGS

pytestmark = pytest.mark.api


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


def test_what_a_cancelled_run_had_trained_is_stored_where_its_user_wants_it(
    new_stage: NewStage,
) -> None:
    stage = new_stage(a_training().with_spec("retention.jobSeconds", 0))
    pod = stage.running_pod()
    stage.is_in("Starting", "Running")
    stage.patch({"cancel": {"keepPartial": True}})
    stage.is_leaving(pod)
    stage.end(pod, 143)
    storing = stage.running_pod(job="anna-partial")
    assert "Job anna-partial" in stage.is_in("Starting", "Cancelling")["message"]
    (container,) = stage.pod(storing)["spec"]["containers"]
    assert container["args"] == ["publish-partial"]
    assert "nvidia.com/gpu" not in container["resources"]["limits"]
    stage.end(storing, 0, a_good_result())
    status = stage.is_in("Cancelled")
    assert status["partial"]["step"] == 100
    assert status["partial"]["uri"] in status["message"]
    stage.is_empty_of(JOBS, PODS, CLAIMS)


def test_where_that_fails_for_too_long_the_workspace_stays(new_stage: NewStage) -> None:
    training = a_training().with_spec("limits.creationTimeoutSeconds", 30)
    stage = new_stage(training.with_spec("retention.jobSeconds", 0))
    pod = stage.running_pod()
    stage.is_in("Starting", "Running")
    quota = {"metadata": {"name": "one-job"}, "spec": {"hard": {"count/jobs.batch": "0"}}}
    path = f"/api/v1/namespaces/{stage.namespace}/resourcequotas"
    stage.api.request("POST", path, quota)
    eventually(
        lambda: "hard" in stage.api.request("GET", f"{path}/one-job").get("status", {}),
        "the quota counts",
    )
    stage.patch({"cancel": {"keepPartial": True}})
    stage.is_leaving(pod)
    stage.end(pod, 143)
    stage.is_in("Pending", "CreationRefused")
    message = stage.is_in("Cancelled")["message"]
    assert "exceeded quota: one-job" in message
    assert "claim anna-workspace" in message
    stage.is_empty_of(JOBS, PODS)
    assert stage.has(CLAIMS) == ["anna-workspace"]


def test_what_a_failed_run_left_in_the_bucket_is_removed(new_stage: NewStage) -> None:
    training = a_training().with_spec("workspace.type", "Ephemeral")
    stage = new_stage(training.with_spec("retention.jobSeconds", 0))
    stage.end(stage.running_pod(), 65, a_bad_result())
    ended = stage.is_in("Failed", "TooFewImages")
    tidying = stage.running_pod(job="anna-tidy")
    (container,) = stage.pod(tidying)["spec"]["containers"]
    assert container["args"] == ["remove-copy"]
    stage.end(tidying, 0)
    removed = eventually(lambda: stage.status.get("workspaceCopyRemovedAt"), "it is written down")
    assert {**ended, "workspaceCopyRemovedAt": removed} == stage.status
    stage.is_empty_of(JOBS, PODS)


def test_what_is_left_of_a_completed_run_goes_in_its_time(new_stage: NewStage) -> None:
    stage = new_stage(a_training().with_spec("retention", {"jobSeconds": 1}))
    stage.end(stage.running_pod(), 0, a_good_result())
    stage.is_in("Completed")
    stage.is_empty_of(JOBS, PODS, CLAIMS)
    assert stage.status["phase"] == "Completed"
    # Who changes his mind afterwards is heard, too.
    stage.patch({"retention": {"ttlSeconds": 0}})
    stage.is_empty_of(TRAININGS)


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
