"""LoRATraining's status: one training run as the operator reports it.

Read with patience (unknown fields are kept out, not refused), because a newer operator may have
written it.
"""

from enum import StrEnum
from typing import Annotated, Literal

from pydantic import AwareDatetime, Field

from lora_api.base import (
    Count,
    Digest,
    LearningRate,
    LenientDocument,
    Loss,
    Message,
    ReasonWord,
)
from lora_api.policy import ComputedMoney

MAX_RECENT_ATTEMPTS = 10
Name = Annotated[str, Field(max_length=253)]
GateReason = Annotated[str, Field(max_length=200)]
ExitStatus = Annotated[int, Field(ge=0, le=255)]


class Phase(StrEnum):
    """Where the run stands, in one word for people; conditions are the truth."""

    PENDING = "Pending"
    QUEUED = "Queued"
    STARTING = "Starting"
    TRAINING = "Training"
    VALIDATING = "Validating"
    UPLOADING = "Uploading"
    COMPLETED = "Completed"
    FAILED = "Failed"
    SUSPENDED = "Suspended"
    CANCELLED = "Cancelled"

    @property
    def is_terminal(self) -> bool:
        """Whether the run has ended; a terminal phase never changes."""
        return self in {Phase.COMPLETED, Phase.FAILED, Phase.CANCELLED}


class ConditionType(StrEnum):
    """The conditions of a run, in the order in which they become true.

    The last two follow from the others. They are the words of kstatus, by which Flux, kpt and
    others judge any resource.
    """

    ADMITTED = "Admitted"
    WORKSPACE_READY = "WorkspaceReady"
    RUNNING = "Running"
    ARTIFACT_STORED = "ArtifactStored"
    VALIDATED = "Validated"
    SUCCEEDED = "Succeeded"
    SUSPENDED = "Suspended"
    RECONCILING = "Reconciling"
    STALLED = "Stalled"


class Condition(LenientDocument):
    """One aspect of the run's state, as in metav1.Condition."""

    type: Annotated[str, Field(min_length=1, max_length=64)]
    """Aspect: Admitted, WorkspaceReady, Running, ArtifactStored, Validated, Succeeded or Suspended;
    and, for tools that know any kind, Reconciling and Stalled."""

    status: Literal["True", "False", "Unknown"]
    """Whether it holds."""

    reason: ReasonWord
    """Stable CamelCase word for programs."""

    message: Message = ""
    """Sentence for people: what, where, and what to do about it."""

    observed_generation: Count | None = None
    """metadata.generation that this was found at."""

    last_transition_time: AwareDatetime
    """When status last changed."""


class ProgressStatus(LenientDocument):
    """How far the training has come, as last read from the pod."""

    stage: Annotated[str, Field(max_length=64)] | None = None
    """What the trainer is doing: Fetch, Cache, Train, Sample, Publish, ..."""

    step: Count = 0
    """Optimiser steps done."""

    total_steps: Count = 0
    """Optimiser steps in all."""

    percent: Annotated[int, Field(ge=0, le=100)] = 0
    """step / totalSteps in percent, rounded down."""

    loss: Loss | None = None
    """Smoothed training loss (denoising mean squared error)."""

    learning_rate: LearningRate | None = None
    """Learning rate of the last step."""

    steps_per_second: Annotated[float, Field(ge=0, le=1e6)] | None = None
    """Speed in the steady state, without start and checkpoints."""

    eta_seconds: Count | None = None
    """Seconds until the last step, at that speed."""

    eta: Annotated[str, Field(max_length=32)] | None = None
    """etaSeconds for people: 7m50s."""

    updated_at: AwareDatetime | None = None
    """When this was read."""


class ArtifactStatus(LenientDocument):
    """The stored LoRA."""

    uri: Annotated[str, Field(max_length=1100)]
    """URI of model.safetensors."""

    digest: Digest
    """sha256 of the file."""

    size_bytes: Count
    """Size of the file in bytes."""

    format: Annotated[str, Field(max_length=64)]
    """Key format: kohya."""

    contact_sheet_uri: Annotated[str, Field(max_length=1100)] | None = None
    """URI of the picture that shows training pictures, base and base + LoRA side by side."""

    report_uri: Annotated[str, Field(max_length=1100)] | None = None
    """URI of report.json with all settings, figures and file digests."""


class PartialStatus(LenientDocument):
    """What a cancelled run had trained by its last checkpoint."""

    uri: Annotated[str, Field(max_length=1100)] | None = None
    """URI of partial/model.safetensors; absent where no checkpoint had been written."""

    digest: Digest | None = None
    """sha256 of the file."""

    size_bytes: Count | None = None
    """Size of the file in bytes."""

    format: Annotated[str, Field(max_length=64)] | None = None
    """Key format: kohya."""

    step: Count = 0
    """Optimiser steps that are in it."""

    total_steps: Count = 0
    """Optimiser steps that were wanted."""


class ValidationStatus(LenientDocument):
    """How good the LoRA is: what was measured against the base model, and the gate's verdict."""

    base_loss: Loss | None = None
    """Mean squared error of the base model."""

    lora_loss: Loss | None = None
    """Mean squared error of base + LoRA."""

    improvement_percent: Annotated[float, Field(ge=-1e9, le=100)] | None = None
    """100 * (baseLoss - loraLoss) / baseLoss; negative where the LoRA made it worse."""

    held_out_images: Count = 0
    """Pictures that the losses were measured on, with the same noise for both models."""

    alike: Count | None = None
    """Prompts whose samples are more alike to the training pictures than the base model's; absent
    where spec.validation.embedderUri names no embedder."""

    compared: Count | None = None
    """Prompts that were compared so."""

    passed: bool | None = None
    """Whether the LoRA reached what spec.validation.gate asks for."""

    reasons: Annotated[tuple[GateReason, ...], Field(max_length=4)] = ()
    """What it did not reach, in sentences."""


class FailureStatus(LenientDocument):
    """Why the run, or its latest attempt, failed."""

    reason: ReasonWord
    """Stable CamelCase word for programs."""

    message: Message
    """Sentence for people: what, where, and what to do about it."""

    retryable: bool
    """Whether the same run can succeed if it is tried again unchanged."""

    exit_code: ExitStatus | None = None
    """Exit code of the trainer, where it ended by itself."""


class AttemptStatus(LenientDocument):
    """One trainer pod, from its creation to its end."""

    number: Count
    """Which attempt it was, counted from 1."""

    pod_name: Name
    """The pod."""

    node_name: Name | None = None
    """Where it ran."""

    scheduled_at: AwareDatetime | None = None
    """When it was given its node, and with it its GPUs."""

    started_at: AwareDatetime | None = None
    """When the trainer started."""

    ended_at: AwareDatetime | None = None
    """When it ended, or was found to be gone."""

    exit_code: ExitStatus | None = None
    """Exit code of the trainer, where it ended by itself."""

    reason: ReasonWord | None = None
    """Why it ended."""

    step: Count | None = None
    """Optimiser steps done by then."""

    gpu_seconds: Count | None = None
    """GPUs times seconds that the pod held them."""


class TimelineStatus(LenientDocument):
    """Seconds spent in each part of the run so far, as the operator saw it."""

    part: Annotated[str, Field(max_length=32)] | None = None
    """The part that it is in now; its seconds are added when it ends."""

    part_started_at: AwareDatetime | None = None
    """When that part began."""

    queued_seconds: Count = 0
    """Waiting for a Job, a queue's quota, a pod and a node; between two attempts."""

    image_pull_seconds: Count = 0
    """On a node, until the trainer started: image, volume and Secret."""

    prepare_seconds: Count = 0
    """Fetching, checking and caching the data, loading the base model."""

    train_seconds: Count = 0
    """Optimiser steps."""

    validate_seconds: Count = 0
    """Saving, checking and drawing samples."""

    upload_seconds: Count = 0
    """Storing the result."""

    suspended_seconds: Count = 0
    """Held back by spec.suspend."""


class CostStatus(LenientDocument):
    """What the run has cost, where its namespace has a policy."""

    amount: ComputedMoney
    """GPU-seconds held, at the prices of the nodes they were held on."""

    currency: Annotated[str, Field(max_length=3)]
    """The policy's currency."""

    final: bool = False
    """Whether the run is over and stands in the month's TrainingLedger."""


class TrainedStatus(LenientDocument):
    """The end of the training itself; it stays, whatever later attempts meet."""

    at: AwareDatetime
    """When the LoRA was first seen to be trained."""

    claim_uid: Name | None = None
    """uid of the workspace claim that it lies in; absent for an Ephemeral workspace."""


class UploadStatus(LenientDocument):
    """Repeated tries to store what is trained but could not be stored."""

    tries: Count = 0
    """Tries that failed."""

    next_try_at: AwareDatetime | None = None
    """When the next one begins."""


class LoRATrainingStatus(LenientDocument):
    """What the operator observes of the run."""

    observed_generation: Count | None = None
    """metadata.generation that this status was derived from."""

    phase: Phase | None = None
    """Summary for people; the conditions are the truth."""

    phase_started_at: AwareDatetime | None = None
    """When the run entered its present phase."""

    message: Message | None = None
    """Why the run waits or failed, or what it produced, in one sentence."""

    conditions: Annotated[tuple[Condition, ...], Field(max_length=16)] = ()
    """Aspects of the run's state, by type."""

    progress: ProgressStatus | None = None
    """How far the training has come."""

    attempts: Count | None = None
    """Trainer pods that were started, the present one included."""

    recent_attempts: Annotated[
        tuple[AttemptStatus, ...], Field(max_length=MAX_RECENT_ATTEMPTS)
    ] = ()
    """The last of them, oldest first, with how each ended."""

    stalls: Count | None = None
    """Attempts that the operator ended because they made no progress."""

    timeline: TimelineStatus | None = None
    """Seconds spent in each part of the run."""

    gpu_seconds: Count | None = None
    """GPUs times seconds that pods held them, from node to end; as of the last write."""

    started_at: AwareDatetime | None = None
    """When the first trainer pod started."""

    completed_at: AwareDatetime | None = None
    """When the run ended, well or badly."""

    job_name: Name | None = None
    """Job that runs the trainer."""

    job_number: Count | None = None
    """Which Job of the run that is, where it is not the first: another one follows a Job that can't
    go on (more memory is needed, Kueue gave its quota back)."""

    memory: Annotated[str, Field(max_length=32)] | None = None
    """Memory of the pod where it was raised to spec.resources.memoryOnRetry."""

    pod_name: Name | None = None
    """Latest trainer pod."""

    node_name: Name | None = None
    """Node of the latest trainer pod."""

    cost: CostStatus | None = None
    """What the run has cost; as of the last write."""

    output_uri: Annotated[str, Field(max_length=1100)] | None = None
    """Where the result goes, where spec.output.uri says nothing and the policy's default does."""

    artifact: ArtifactStatus | None = None
    """The stored LoRA."""

    partial: PartialStatus | None = None
    """The LoRA as far as it was trained, where spec.cancel.keepPartial asked for it."""

    trained: TrainedStatus | None = None
    """That the LoRA is trained, and where it lies until it is stored."""

    upload: UploadStatus | None = None
    """Repeated tries to store the LoRA, where it is trained but could not be stored."""

    workspace_copy_removed_at: AwareDatetime | None = None
    """When the copy of an Ephemeral workspace was removed from the output's bucket, where the run
    did not remove it itself."""

    validation: ValidationStatus | None = None
    """How good the LoRA is, against the base model."""

    failure: FailureStatus | None = None
    """Why the run, or its latest attempt, failed."""
