"""The Job of a run: one pod, hardened, told everything by one environment variable.

A module of its own because it is the whole of what we ask Kubernetes to do, and the place where
the rules of a "restricted" namespace are kept.
"""

from typing import Any

from lora_api.exit_codes import ExitCode
from lora_api.job import (
    JOB_ENVIRONMENT_VARIABLE,
    PROGRESS_PORT,
    RUN,
    WORKSPACE_ENVIRONMENT_VARIABLE,
)
from lora_api.training import LoRATrainingSpec
from lora_operator.builders.document import job_document
from lora_operator.builders.ownership import metadata
from lora_operator.builders.workspace import workspace_volume
from lora_operator.labels import TRAINER_CONTAINER, labels_of
from lora_operator.state.last_codes import LAST_CODES
from lora_operator.state.views import Run

GPU_RESOURCE = "nvidia.com/gpu"
WORKSPACE_PATH = "/workspace"
# The image's user; the kubelet refuses root under runAsNonRoot, and fsGroup opens the volume to it.
TRAINER_ID = 65532
# SIGTERM writes a checkpoint; a large LoRA's optimizer state on slow storage takes tens of seconds.
GRACE_SECONDS = 60
# Python's tempfile and torch's compiler caches; bounded so that a pod can't fill the node's disk.
TMP_SIZE = "2Gi"
# NCCL's buffers between the GPUs of one pod; the runtime's own 64 MiB are too few for it. It counts
# against the memory limit as far as it is used.
SHARED_MEMORY_SIZE = "1Gi"
REQUIRED_KEYS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
OPTIONAL_KEYS = ("AWS_SESSION_TOKEN", "AWS_REGION", "AWS_ENDPOINT_URL")


def build_job(run: Run, spec: LoRATrainingSpec, *, default_image: str) -> dict[str, Any]:
    """The run's Job.

    Args:
        run: The run that the Job belongs to.
        spec: What it asks for.
        default_image: Trainer image where the spec names none.
    """
    meta = metadata(run, run.job_name)
    meta["labels"] |= run.queue_labels
    job = one_pod_job(run, meta, spec, default_image=default_image)
    job["spec"] |= {
        "backoffLimit": spec.limits.retries,
        "activeDeadlineSeconds": spec.limits.active_deadline_seconds,
        "podFailurePolicy": _failure_policy(),
    }
    if run.queue is not None:
        # Kueue lets it go; its webhook would do the same, but may be down just now.
        job["spec"]["suspend"] = True
    return job


def one_pod_job(
    run: Run,
    meta: dict[str, Any],
    spec: LoRATrainingSpec,
    *,
    default_image: str,
    command: str = RUN,
) -> dict[str, Any]:
    """A Job of one trainer pod at a time, whatever the trainer is to do.

    Args:
        run: The run that the Job belongs to.
        meta: The Job's metadata.
        spec: What the run asks for.
        default_image: Trainer image where the spec names none.
        command: The trainer's command.
    """
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": meta,
        "spec": {
            "completions": 1,
            "parallelism": 1,
            # The next attempt waits until the last one is really gone: they share a workspace.
            "podReplacementPolicy": "Failed",
            "template": {
                "metadata": {"labels": labels_of(run.key.name, run.uid)},
                "spec": _pod_spec(run, spec, default_image=default_image, command=command),
            },
        },
    }


def _failure_policy() -> dict[str, Any]:
    return {
        "rules": [
            # Preemption, eviction, drain and node loss are not the run's fault: no retry is spent.
            # First, because they kill with the same signal as too little memory does.
            {
                "action": "Ignore",
                "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}],
            },
            # SIGTERM that the trainer answered with a checkpoint: suspension, Kueue, a deletion.
            {
                "action": "Ignore",
                "onExitCodes": {
                    "containerName": TRAINER_CONTAINER,
                    "operator": "In",
                    "values": [int(ExitCode.INTERRUPTED)],
                },
            },
            {
                "action": "FailJob",
                "onExitCodes": {
                    "containerName": TRAINER_CONTAINER,
                    "operator": "In",
                    "values": sorted(int(code) for code in LAST_CODES),
                },
            },
        ]
    }


def _pod_spec(
    run: Run, spec: LoRATrainingSpec, *, default_image: str, command: str
) -> dict[str, Any]:
    pod: dict[str, Any] = {
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": GRACE_SECONDS,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": TRAINER_ID,
            "runAsGroup": TRAINER_ID,
            "fsGroup": TRAINER_ID,
            # Changing the owner of every cached file at each restart takes minutes on big volumes.
            "fsGroupChangePolicy": "OnRootMismatch",
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [_container(run, spec, default_image=default_image, command=command)],
        "volumes": [
            {"name": "workspace", **workspace_volume(run, spec)},
            {"name": "tmp", "emptyDir": {"sizeLimit": TMP_SIZE}},
        ],
    }
    if spec.resources.gpus > 1:
        shared = {"medium": "Memory", "sizeLimit": SHARED_MEMORY_SIZE}
        pod["volumes"].append({"name": "shm", "emptyDir": shared})
        pod["containers"][0]["volumeMounts"].append({"name": "shm", "mountPath": "/dev/shm"})  # noqa: S108
    if spec.priority_class_name is not None:
        pod["priorityClassName"] = spec.priority_class_name
    if spec.resources.gpus:
        pod["tolerations"] = gpu_tolerations()
    return pod


def gpu_tolerations() -> list[dict[str, Any]]:
    """What lets a pod onto nodes with GPUs."""
    return [{"key": GPU_RESOURCE, "operator": "Exists", "effect": "NoSchedule"}]


def _container(
    run: Run, spec: LoRATrainingSpec, *, default_image: str, command: str
) -> dict[str, Any]:
    return {
        "name": TRAINER_CONTAINER,
        "image": spec.image or default_image,
        "args": [command],
        "env": _environment(run, spec),
        "ports": [{"name": "progress", "containerPort": PROGRESS_PORT}],
        "resources": _resources(run, spec),
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "volumeMounts": [
            {"name": "workspace", "mountPath": WORKSPACE_PATH},
            {"name": "tmp", "mountPath": "/tmp"},  # noqa: S108 - a path inside the container
        ],
    }


def _resources(run: Run, spec: LoRATrainingSpec) -> dict[str, Any]:
    wanted = spec.resources
    memory = run.status.memory or wanted.memory
    requests = {"cpu": wanted.cpu, "memory": memory}
    limits = {"memory": memory}
    if wanted.gpus:
        requests[GPU_RESOURCE] = limits[GPU_RESOURCE] = str(wanted.gpus)
    return {"requests": requests, "limits": limits}


def _environment(run: Run, spec: LoRATrainingSpec) -> list[dict[str, Any]]:
    document = job_document(name=run.key.name, uid=run.uid, spec=spec)
    # The kubelet expands $(NAME) in values; doubled, a dollar of a prompt stays a dollar.
    text = document.model_dump_json(by_alias=True, exclude_none=True).replace("$", "$$")
    environment: list[dict[str, Any]] = [
        {"name": JOB_ENVIRONMENT_VARIABLE, "value": text},
        {"name": WORKSPACE_ENVIRONMENT_VARIABLE, "value": WORKSPACE_PATH},
    ]
    if spec.credentials_secret_name is not None:
        for key in REQUIRED_KEYS + OPTIONAL_KEYS:
            source: dict[str, Any] = {"name": spec.credentials_secret_name, "key": key}
            if key in OPTIONAL_KEYS:
                source["optional"] = True
            environment.append({"name": key, "valueFrom": {"secretKeyRef": source}})
    return environment
