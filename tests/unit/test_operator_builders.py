"""What a run becomes: claim and Job, field by field."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from tests.builders import RUN_UID, ATraining, a_training

from lora_api import GROUP
from lora_api.job import JobDocument
from lora_api.status import LoRATrainingStatus
from lora_operator.builders.errands import build_partial_job, build_tidy_job, build_upload_job
from lora_operator.builders.job import build_job
from lora_operator.builders.ownership import (
    is_left_by_predecessor,
    is_owned_by,
    is_pod_of,
    metadata,
)
from lora_operator.builders.workspace import build_workspace
from lora_operator.labels import QUEUE_LABEL

Object = dict[str, Any]
EPHEMERAL = a_training().with_spec("workspace.type", "Ephemeral")


def job_of(training: ATraining) -> Object:
    run = training.run()
    assert run.spec is not None
    return build_job(run, run.spec, default_image="default:1")


def upload_of(training: ATraining) -> Object:
    run = training.run()
    assert run.spec is not None
    return build_upload_job(run, run.spec, default_image="default:1")


def claim_of(training: ATraining) -> Object:
    run = training.run()
    assert run.spec is not None
    return build_workspace(run, run.spec)


def pod(training: ATraining) -> Object:
    spec: Object = job_of(training)["spec"]["template"]["spec"]
    return spec


def container(training: ATraining) -> Object:
    found: Object = pod(training)["containers"][0]
    return found


def environment(training: ATraining) -> dict[str, Object]:
    return {entry["name"]: entry for entry in container(training)["env"]}


def document(training: ATraining) -> JobDocument:
    # The kubelet halves doubled dollars, and so must whoever plays it.
    text = environment(training)["LORA_JOB"]["value"].replace("$$", "$")
    return JobDocument.model_validate_json(text)


@pytest.mark.parametrize(
    ("build", "command"),
    [(build_partial_job, "publish-partial"), (build_tidy_job, "remove-copy")],
)
def test_what_follows_a_cancelled_or_failed_run_is_lean(
    build: Callable[..., Object], command: str
) -> None:
    training = a_training().with_gpus(4).with_memory("64Gi")
    run = training.run()
    assert run.spec is not None
    spec = build(run, run.spec, default_image="default:1")["spec"]
    (found,) = spec["template"]["spec"]["containers"]
    assert found["args"] == [command]
    assert found["resources"] == {
        "requests": {"cpu": "500m", "memory": "1Gi"},
        "limits": {"memory": "1Gi"},
    }
    assert found["env"] == container(training)["env"], "it is told what the training was told"
    assert spec["template"]["spec"]["volumes"] == pod(training)["volumes"][:1] + [
        volume for volume in pod(training)["volumes"][1:] if volume["name"] != "shm"
    ]
    assert spec["activeDeadlineSeconds"] == 1800


@pytest.mark.parametrize("build", [build_upload_job, build_partial_job, build_tidy_job])
def test_what_follows_a_queued_run_goes_through_its_queue_and_needs_no_kueue(
    build: Callable[..., Object],
) -> None:
    run = a_training().queued_in("gpus").run()
    assert run.spec is not None
    job = build(run, run.spec, default_image="default:1")
    assert job["metadata"]["labels"][QUEUE_LABEL] == "gpus"
    assert "suspend" not in job["spec"]


JOB_FIELDS: dict[str, tuple[Callable[[], Any], Any]] = {
    "retries become the back-off limit": (
        lambda: job_of(a_training().with_retries(5))["spec"]["backoffLimit"],
        5,
    ),
    "the deadline includes retries": (
        lambda: job_of(a_training())["spec"]["activeDeadlineSeconds"],
        7200,
    ),
    "the next attempt waits until the last is gone": (
        lambda: job_of(a_training())["spec"]["podReplacementPolicy"],
        "Failed",
    ),
    "disruptions cost no retry, whatever code the trainer then ends with": (
        lambda: job_of(a_training())["spec"]["podFailurePolicy"]["rules"][0],
        {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
    ),
    "a checkpoint written on SIGTERM costs none either": (
        lambda: job_of(a_training())["spec"]["podFailurePolicy"]["rules"][1],
        {
            "action": "Ignore",
            "onExitCodes": {"containerName": "trainer", "operator": "In", "values": [143]},
        },
    ),
    "bad input, divergence, no start and too little memory are never tried again": (
        lambda: job_of(a_training())["spec"]["podFailurePolicy"]["rules"][2],
        {
            "action": "FailJob",
            "onExitCodes": {
                "containerName": "trainer",
                "operator": "In",
                "values": [2, 65, 70, 126, 127, 137],
            },
        },
    ),
    "finished Jobs stay, so that the result can still be read": (
        lambda: job_of(a_training())["spec"].get("ttlSecondsAfterFinished"),
        None,
    ),
    "without spec.image the operator's is used": (
        lambda: container(a_training())["image"],
        "default:1",
    ),
    "spec.image wins": (
        lambda: container(a_training().with_image("mine:2"))["image"],
        "mine:2",
    ),
    "the image's entry point gets one argument": (lambda: container(a_training())["args"], ["run"]),
    "GPUs are limits": (
        lambda: container(a_training().with_gpus(2))["resources"]["limits"]["nvidia.com/gpu"],
        "2",
    ),
    "no GPU, no limit": (
        lambda: container(a_training().with_gpus(0))["resources"]["limits"],
        {"memory": "8Gi"},
    ),
    "memory is request and limit": (
        lambda: container(a_training().with_memory("3Gi"))["resources"],
        {
            "requests": {"cpu": "1", "memory": "3Gi", "nvidia.com/gpu": "1"},
            "limits": {"memory": "3Gi", "nvidia.com/gpu": "1"},
        },
    ),
    "GPU nodes' taint is tolerated": (
        lambda: pod(a_training())["tolerations"],
        [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}],
    ),
    "a CPU run tolerates no taint": (
        lambda: pod(a_training().with_gpus(0)).get("tolerations"),
        None,
    ),
    "the pod carries no API token": (
        lambda: pod(a_training())["automountServiceAccountToken"],
        False,
    ),
    "the pod learns nothing of other Services": (
        lambda: pod(a_training())["enableServiceLinks"],
        False,
    ),
    "SIGTERM leaves time for a checkpoint": (
        lambda: pod(a_training())["terminationGracePeriodSeconds"],
        60,
    ),
    "a crash is a new pod, never a restarted container": (
        lambda: pod(a_training())["restartPolicy"],
        "Never",
    ),
    "the container may do nothing special": (
        lambda: container(a_training())["securityContext"],
        {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
    ),
    "the log's end is the last word where there is no other": (
        lambda: container(a_training())["terminationMessagePolicy"],
        "FallbackToLogsOnError",
    ),
    "the workspace claim is mounted": (
        lambda: pod(a_training())["volumes"][0]["persistentVolumeClaim"]["claimName"],
        "anna-workspace",
    ),
    "/tmp has a bound": (
        lambda: pod(a_training())["volumes"][1]["emptyDir"],
        {"sizeLimit": "2Gi"},
    ),
    "several GPUs share memory that is large enough for NCCL": (
        lambda: [
            next(volume for volume in pod(a_training().with_gpus(2))["volumes"][2:]),
            container(a_training().with_gpus(2))["volumeMounts"][2],
        ],
        [
            {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": "1Gi"}},
            {"name": "shm", "mountPath": "/dev/shm"},
        ],
    ),
    "one GPU needs none": (
        lambda: [volume["name"] for volume in pod(a_training().with_gpus(1))["volumes"]],
        ["workspace", "tmp"],
    ),
    "the access key must exist": (
        lambda: environment(a_training())["AWS_ACCESS_KEY_ID"]["valueFrom"]["secretKeyRef"],
        {"name": "s3", "key": "AWS_ACCESS_KEY_ID"},
    ),
    "the endpoint need not": (
        lambda: environment(a_training())["AWS_ENDPOINT_URL"]["valueFrom"]["secretKeyRef"],
        {"name": "s3", "key": "AWS_ENDPOINT_URL", "optional": True},
    ),
    "without a Secret no key is asked for": (
        lambda: sorted(environment(a_training().without_secret())),
        ["LORA_JOB", "LORA_WORKSPACE"],
    ),
    "the trainer is told the run's uid": (lambda: document(a_training()).run_id, RUN_UID),
    "progress is served on the pod's address": (
        lambda: (document(a_training()).server.host, document(a_training()).server.port),
        ("0.0.0.0", 8080),  # noqa: S104
    ),
    "a dollar in a prompt stays a dollar": (
        lambda: document(
            a_training().with_spec("validation.prompts", ["$(AWS_SECRET_ACCESS_KEY) for $$5"])
        ).validation.prompts[0],
        "$(AWS_SECRET_ACCESS_KEY) for $$5",
    ),
    "the trainer is told how long it may stand still": (
        lambda: (
            document(
                a_training().with_spec("limits.stallTimeoutSeconds", 90)
            ).limits.stall_timeout_seconds
        ),
        90,
    ),
    "a claim outlives its pod, and the trainer knows": (
        lambda: document(a_training()).workspace.ephemeral,
        False,
    ),
    "an ephemeral workspace is a bounded folder of the node": (
        lambda: pod(EPHEMERAL)["volumes"][0],
        {"name": "workspace", "emptyDir": {"sizeLimit": "20Gi"}},
    ),
    "and the trainer is told that it is lost with the pod": (
        lambda: document(EPHEMERAL).workspace.ephemeral,
        True,
    ),
    "the priority class is the pod's": (
        lambda: pod(a_training().with_spec("priorityClassName", "high"))["priorityClassName"],
        "high",
    ),
    "memory that was raised is request and limit": (
        lambda: container(
            a_training().with_memory("3Gi").with_status(LoRATrainingStatus(memory="5Gi"))
        )["resources"]["limits"]["memory"],
        "5Gi",
    ),
    "another Job has another name": (
        lambda: job_of(a_training().with_status(LoRATrainingStatus(job_number=2)))["metadata"][
            "name"
        ],
        "anna-train-2",
    ),
    "a Job is let go by the operator": (
        lambda: job_of(a_training())["spec"].get("suspend", False),
        False,
    ),
    "a queued Job waits for Kueue": (
        lambda: job_of(a_training().queued_in("gpus"))["spec"]["suspend"],
        True,
    ),
    "and carries Kueue's label, which its pods do not need": (
        lambda: (
            job_of(a_training().queued_in("gpus"))["metadata"]["labels"].get(QUEUE_LABEL),
            QUEUE_LABEL
            in job_of(a_training().queued_in("gpus"))["spec"]["template"]["metadata"]["labels"],
        ),
        ("gpus", False),
    ),
    "a repeated upload holds no GPU": (
        lambda: upload_of(a_training())["spec"]["template"]["spec"]["containers"][0]["resources"],
        {"requests": {"cpu": "500m", "memory": "8Gi"}, "limits": {"memory": "8Gi"}},
    ),
    "and works on the same workspace": (
        lambda: upload_of(a_training())["spec"]["template"]["spec"]["volumes"][0],
        {"name": "workspace", "persistentVolumeClaim": {"claimName": "anna-workspace"}},
    ),
    "and may go where the volume of a GPU node is": (
        lambda: upload_of(a_training())["spec"]["template"]["spec"]["tolerations"],
        [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}],
    ),
    "and tries once": (lambda: upload_of(a_training())["spec"]["backoffLimit"], 0),
    "the claim has the wanted size": (
        lambda: claim_of(a_training().with_spec("workspace.size", "7Gi"))["spec"],
        {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "7Gi"}}},
    ),
    "the claim has the wanted class": (
        lambda: claim_of(a_training().with_storage_class("fast"))["spec"]["storageClassName"],
        "fast",
    ),
}


@pytest.mark.parametrize("sentence", JOB_FIELDS)
def test_a_run_becomes_objects_in_which(sentence: str) -> None:
    actual, expected = JOB_FIELDS[sentence]
    assert actual() == expected


@pytest.mark.parametrize("build", [job_of, claim_of])
def test_children_are_owned_by_their_run_and_say_so(build: Callable[[ATraining], Object]) -> None:
    body = build(a_training())
    assert is_owned_by(body, RUN_UID)
    assert body["metadata"]["ownerReferences"][0]["blockOwnerDeletion"] is False
    assert body["metadata"]["labels"]["loratraining.dev/run"] == "anna"
    assert body["metadata"]["labels"]["loratraining.dev/run-uid"] == RUN_UID


def test_the_pod_carries_the_labels_it_is_found_by() -> None:
    job = job_of(a_training())
    assert job["spec"]["template"]["metadata"]["labels"] == job["metadata"]["labels"]


def test_an_owner_that_does_not_control_is_no_owner() -> None:
    body = {"metadata": {"ownerReferences": [{"uid": RUN_UID, "controller": False}]}}
    assert not is_owned_by(body, RUN_UID)


def test_labels_alone_make_no_child() -> None:
    body = job_of(a_training())
    del body["metadata"]["ownerReferences"]
    assert not is_owned_by(body, RUN_UID)


def test_what_is_built_is_plain_json() -> None:
    job = job_of(a_training())
    assert json.loads(json.dumps(job)) == job


@pytest.mark.parametrize(
    ("sentence", "changes", "left"),
    [
        ("an earlier run's", {"uid": "another"}, True),
        ("an earlier API version's", {"uid": "a", "apiVersion": f"{GROUP}/v1"}, True),
        ("our own", {}, False),
        ("another run's", {"uid": "another", "name": "ben"}, False),
        ("another kind's", {"uid": "another", "kind": "Workflow"}, False),
        ("another group's", {"uid": "another", "apiVersion": "x.dev/v1"}, False),
        ("a mere dependent's", {"uid": "another", "controller": False}, False),
    ],
)
def test_what_an_earlier_run_left_is_told_by_its_owner(
    sentence: str, changes: Object, left: bool
) -> None:
    run = a_training().run()
    body = {"metadata": metadata(run, "anna-train")}
    body["metadata"]["ownerReferences"][0].update(changes)
    assert is_left_by_predecessor(body, run) is left, sentence


OWNERS: dict[str, tuple[Object, bool, bool]] = {
    "a run": ({"apiVersion": "loratraining.dev/v1alpha1", "kind": "LoRATraining"}, True, False),
    "a Job": ({"apiVersion": "batch/v1", "kind": "Job"}, False, True),
    "anything else": ({"apiVersion": "v1", "kind": "ConfigMap"}, False, False),
    "another group's kind": ({"apiVersion": "x.dev/v1", "kind": "LoRATraining"}, False, False),
}


@pytest.mark.parametrize("sentence", OWNERS)
def test_an_owner_is_of_the_right_kind_or_none_if_it_is(sentence: str) -> None:
    owner, is_run, is_job = OWNERS[sentence]
    body = {"metadata": {"ownerReferences": [{**owner, "uid": "u", "controller": True}]}}
    assert (is_owned_by(body, "u"), is_pod_of(body, "u")) == (is_run, is_job)
