"""Kubernetes' JSON in, views out.

A module of its own because this is the only place that knows how Jobs, pods and claims spell
things, and where a document from a newer version is read with patience.
"""

import re
from datetime import UTC, datetime

from pydantic import ValidationError

from lora_api.status import LoRATrainingStatus
from lora_api.training import LoRATrainingSpec, RetentionSettings
from lora_api.wording import explain
from lora_operator.builders.document import job_document
from lora_operator.labels import (
    QUEUE_LABEL,
    QUEUE_LABELS,
    RESUMED_ANNOTATION,
    TRAINER_CONTAINER,
)
from lora_operator.state.keys import Object, key_of
from lora_operator.state.views import Claim, Container, Job, Pod, Run

GENERATION = re.compile(r"[0-9]{1,18}")


def read_run(body: Object) -> Run:
    """Read a LoRATraining; fields we do not know are ignored, faults are told, not raised."""
    meta = body["metadata"]
    status, status_fault = LoRATrainingStatus(), ""
    try:
        status = LoRATrainingStatus.model_validate(body.get("status") or {})
    except ValidationError as error:
        status_fault = explain(error)
    spec, spec_fault = _read_spec(body, status.output_uri)
    return Run(
        key=key_of(body),
        uid=meta["uid"],
        generation=meta.get("generation", 1),
        resource_version=meta.get("resourceVersion", ""),
        created_at=read_time(meta["creationTimestamp"]),
        deleting="deletionTimestamp" in meta,
        queue_labels={k: v for k, v in meta.get("labels", {}).items() if k in QUEUE_LABELS},
        job_number=status.job_number or 1,
        spec=spec,
        spec_fault=spec_fault,
        unread_retention=_read_retention(body.get("spec", {})) if spec is None else None,
        status=status,
        status_fault=status_fault,
    )


def _read_spec(body: Object, settled: str | None) -> tuple[LoRATrainingSpec | None, str]:
    """The spec, with the place for the result that was settled where it names none itself."""
    meta = body["metadata"]
    try:
        # A field that only a newer operator knows must not fail a run; the schema of the API
        # server has already refused misspelt ones.
        read = LoRATrainingSpec.model_validate(body.get("spec", {}), extra="ignore")
        if read.output.uri is None and settled is not None:
            place = read.output.model_copy(update={"uri": settled})
            read = read.model_copy(update={"output": place})
        if read.output.uri is not None:
            job_document(name=meta["name"], uid=meta["uid"], spec=read)
    except ValidationError as error:
        return None, explain(error)
    return read, ""


def _read_retention(spec: Object) -> RetentionSettings | None:
    try:
        return RetentionSettings.model_validate(spec.get("retention", {}), extra="ignore")
    except ValidationError:
        return None


def read_claim(body: Object) -> Claim:
    """Read a PersistentVolumeClaim."""
    return Claim(
        name=body["metadata"]["name"],
        uid=body["metadata"]["uid"],
        phase=body.get("status", {}).get("phase", "Pending"),
        created_at=read_time(body["metadata"]["creationTimestamp"]),
        deleting="deletionTimestamp" in body["metadata"],
    )


def read_job(body: Object) -> Job:
    """Read a Job."""
    spec, status = body.get("spec", {}), body.get("status", {})
    complete = _condition(status, "Complete")
    failed = _condition(status, "Failed")
    return Job(
        name=body["metadata"]["name"],
        uid=body["metadata"]["uid"],
        created_at=read_time(body["metadata"]["creationTimestamp"]),
        deleting="deletionTimestamp" in body["metadata"],
        queue=body["metadata"].get("labels", {}).get(QUEUE_LABEL),
        suspended=bool(spec.get("suspend")),
        resumed_at_generation=_resumed_at(body["metadata"]),
        parallelism=spec.get("parallelism", 1),
        is_noticed="startTime" in status,
        failed_pods=status.get("failed", 0),
        active_pods=status.get("active", 0),
        completed_at=_condition_time(body, complete),
        failing_reason=_condition(status, "FailureTarget").get("reason", ""),
        failed_at=_condition_time(body, failed),
        failed_reason=failed.get("reason", ""),
        failed_message=failed.get("message", ""),
    )


def _resumed_at(meta: Object) -> int | None:
    text = meta.get("annotations", {}).get(RESUMED_ANNOTATION, "")
    # Whoever may change Jobs may write anything here, and int() refuses thousands of digits.
    return int(text) if GENERATION.fullmatch(text) else None


def read_pod(body: Object) -> Pod:
    """Read a pod of the Job."""
    status = body.get("status", {})
    scheduled = _condition(status, "PodScheduled", is_status="False")
    placed = _condition(status, "PodScheduled")
    disrupted = _condition(status, "DisruptionTarget")
    return Pod(
        name=body["metadata"]["name"],
        uid=body["metadata"]["uid"],
        created_at=read_time(body["metadata"]["creationTimestamp"]),
        phase=status.get("phase", "Pending"),
        node=body.get("spec", {}).get("nodeName"),
        scheduled_at=_optional_time(placed.get("lastTransitionTime")),
        unschedulable=(
            scheduled.get("message", "")
            if scheduled.get("reason") in {"Unschedulable", "SchedulerError"}
            else None
        ),
        deleting="deletionTimestamp" in body["metadata"],
        due_at=_optional_time(body["metadata"].get("deletionTimestamp")),
        disrupted=(
            f"{disrupted.get('reason', '')}: {disrupted.get('message', '')}".strip(": ")
            if disrupted
            else None
        ),
        reason=status.get("reason", ""),
        message=status.get("message", ""),
        container=_read_container(status),
    )


def _read_container(status: Object) -> Container:
    for container in status.get("containerStatuses", []):
        if container["name"] == TRAINER_CONTAINER:
            state = container.get("state", {})
            break
    else:
        return Container()
    waiting = state.get("waiting", {})
    running = state.get("running")
    ended = state.get("terminated")
    begun = running or ended or {}
    return Container(
        waiting_reason=waiting.get("reason", ""),
        waiting_message=waiting.get("message", ""),
        started_at=_optional_time(begun.get("startedAt")),
        ended_at=_optional_time(ended.get("finishedAt")) if ended is not None else None,
        running=running is not None,
        exit_code=ended["exitCode"] if ended is not None else None,
        end_reason=ended.get("reason", "") if ended is not None else "",
        end_message=ended.get("message", "") if ended is not None else "",
    )


def _condition(status: Object, kind: str, *, is_status: str = "True") -> Object:
    for condition in status.get("conditions", []):
        if condition["type"] == kind and condition["status"] == is_status:
            found: Object = condition
            return found
    return {}


def _condition_time(body: Object, condition: Object) -> datetime | None:
    if not condition:
        return None
    return read_time(condition.get("lastTransitionTime") or body["metadata"]["creationTimestamp"])


def read_time(text: str) -> datetime:
    """Read a Kubernetes timestamp; the result is in UTC."""
    return datetime.fromisoformat(text.replace("Z", "+00:00")).astimezone(UTC)


def _optional_time(text: str | None) -> datetime | None:
    return read_time(text) if text else None
