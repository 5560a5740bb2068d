"""LoRATraining: one training run as the platform asks for it and as the operator reports it.

A module of its own because the CRD is generated from exactly these two trees, spec and status;
everything that is only said between operator and trainer lives elsewhere.
"""

from enum import StrEnum
from typing import Annotated, Literal

from pydantic import AwareDatetime, Field

from lora_api.base import (
    Count,
    Digest,
    DnsLabel,
    DnsSubdomain,
    Document,
    ImageReference,
    LenientDocument,
    Loss,
    Message,
    Quantity,
    ReasonWord,
    UnitInterval,
    UserName,
    document_config,
)
from lora_api.cel import CelRule
from lora_api.settings import (
    BaseModelSettings,
    CheckpointSettings,
    DatasetSettings,
    NetworkSettings,
    OptimizationSettings,
    OutputSettings,
    ValidationSettings,
)

KIND = "LoRATraining"
PLURAL = "loratrainings"
# Children are named after the run ("-workspace" is the longest suffix), and a Job's name has to
# fit a label value of 63 characters.
MAX_NAME_LENGTH = 52


SPEC_IMMUTABLE = CelRule("self == oldSelf", "spec is immutable: delete this run and create another")
HELD_OUT_BELOW_MINIMUM = CelRule(
    "self.validation.heldOutImages < self.dataset.minImages",
    "validation.heldOutImages must be below dataset.minImages, or no picture is left to train on",
    field="validation.heldOutImages",
)
NAME_FITS_CHILDREN = CelRule(
    f"self.metadata.name.size() <= {MAX_NAME_LENGTH}",
    f"metadata.name must be at most {MAX_NAME_LENGTH} characters: the Job and its pod are named "
    "after it",
)


def _in_object_storage(*path: str) -> CelRule:
    """A pod has no files of the user's: what file:// means to a person at a laptop it can't."""
    name = ".".join(path)
    return CelRule(
        f"self.{name}.startsWith('s3://')",
        f"{name} must start with s3:// (file:// works only with lora-trainer run, outside the "
        "cluster)",
        field=name,
    )


class Phase(StrEnum):
    """Where the run stands, in one word for people; conditions are the truth."""

    PENDING = "Pending"
    STARTING = "Starting"
    TRAINING = "Training"
    VALIDATING = "Validating"
    UPLOADING = "Uploading"
    COMPLETED = "Completed"
    FAILED = "Failed"

    @property
    def is_terminal(self) -> bool:
        """Whether the run has ended; a terminal phase never changes."""
        return self in {Phase.COMPLETED, Phase.FAILED}


class ConditionType(StrEnum):
    """The conditions of a run, in the order in which they become true."""

    ADMITTED = "Admitted"
    WORKSPACE_READY = "WorkspaceReady"
    RUNNING = "Running"
    ARTIFACT_STORED = "ArtifactStored"
    VALIDATED = "Validated"
    SUCCEEDED = "Succeeded"


class ResourceSettings(Document):
    """What the training pod asks of the cluster."""

    gpus: Annotated[int, Field(ge=0, le=16)] = 1
    """GPUs (nvidia.com/gpu). Zero trains on the CPU, which only toy models bear."""

    cpu: Quantity = "1"
    """CPU request of the pod."""

    memory: Quantity = "8Gi"
    """Memory request and limit of the pod; going over it ends the container."""


class WorkspaceSettings(Document):
    """Where checkpoints, caches and the unsent result lie while the run is alive."""

    type: Literal["PersistentVolumeClaim"] = "PersistentVolumeClaim"
    """Kind of storage. A claim survives the loss of the pod and of the node's container runtime."""

    size: Quantity = "20Gi"
    """Size of the claim: base model, caches and a few checkpoints have to fit."""

    storage_class_name: DnsSubdomain | None = None
    """StorageClass of the claim. Default: the cluster's default class."""


class LimitSettings(Document):
    """Bounds after which the run is given up."""

    active_deadline_seconds: Annotated[int, Field(ge=60, le=1_209_600)] = 7200
    """Seconds from the start of the Job until the run fails, retries included."""

    retries: Annotated[int, Field(ge=0, le=20)] = 3
    """New attempts after a crash or a passing fault. Bad input is never tried again."""


class LoRATrainingSpec(Document):
    """What to train, on what, and where the result goes."""

    model_config = document_config(
        SPEC_IMMUTABLE,
        HELD_OUT_BELOW_MINIMUM,
        _in_object_storage("baseModel", "uri"),
        _in_object_storage("dataset", "uri"),
        _in_object_storage("output", "uri"),
    )

    user: UserName | None = None
    """Person or account on whose behalf the run is made."""

    recipe: DnsLabel
    """How the model family is trained: sd15."""

    base_model: BaseModelSettings
    """The diffusion model that the LoRA adapts."""

    dataset: DatasetSettings
    """The training pictures and their captions."""

    network: NetworkSettings = NetworkSettings()
    """The LoRA itself: low-rank matrices added to chosen layers of the base model."""

    optimization: OptimizationSettings = OptimizationSettings()
    """How long and how fast to train."""

    checkpoints: CheckpointSettings = CheckpointSettings()
    """How often progress is made safe in the workspace."""

    validation: ValidationSettings = ValidationSettings()
    """What is drawn and measured after training."""

    output: OutputSettings
    """Where the finished LoRA goes."""

    credentials_secret_name: DnsSubdomain | None = None
    """Secret in the run's namespace with AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY and, where
    needed, AWS_SESSION_TOKEN, AWS_REGION and AWS_ENDPOINT_URL. The pod reads it; the operator
    never does."""

    image: ImageReference | None = None
    """Trainer image. Default: the operator's."""

    resources: ResourceSettings = ResourceSettings()
    """What the training pod asks of the cluster."""

    workspace: WorkspaceSettings = WorkspaceSettings()
    """Where checkpoints, caches and the unsent result lie while the run is alive."""

    limits: LimitSettings = LimitSettings()
    """Bounds after which the run is given up."""


class Condition(LenientDocument):
    """One aspect of the run's state, as in metav1.Condition."""

    type: Annotated[str, Field(min_length=1, max_length=64)]
    """Aspect: Admitted, WorkspaceReady, Running, ArtifactStored, Validated or Succeeded."""

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

    learning_rate: UnitInterval | None = None
    """Learning rate of the last step."""

    steps_per_second: Annotated[float, Field(ge=0, le=1e6)] | None = None
    """Speed in the steady state, without start and checkpoints."""

    eta_seconds: Count | None = None
    """Seconds until the last step, at that speed."""

    eta: Annotated[str, Field(max_length=32)] | None = None
    """etaSeconds for people: 7m50s."""

    updated_at: AwareDatetime | None = None
    """When the trainer reported this."""


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


class ValidationStatus(LenientDocument):
    """The held-out denoising loss, same pictures, noise and timesteps for both models."""

    base_loss: Loss | None = None
    """Mean squared error of the base model."""

    lora_loss: Loss | None = None
    """Mean squared error of base + LoRA."""

    improvement_percent: Annotated[float, Field(ge=-1e9, le=100)] | None = None
    """100 * (baseLoss - loraLoss) / baseLoss; negative where the LoRA made it worse."""

    held_out_images: Count = 0
    """Pictures that the losses were measured on."""


class FailureStatus(LenientDocument):
    """Why the run, or its latest attempt, failed."""

    reason: ReasonWord
    """Stable CamelCase word for programs."""

    message: Message
    """Sentence for people: what, where, and what to do about it."""

    retryable: bool
    """Whether the same run can succeed if it is tried again unchanged."""

    exit_code: Annotated[int, Field(ge=0, le=255)] | None = None
    """Exit code of the trainer, where it ended by itself."""


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

    started_at: AwareDatetime | None = None
    """When the first trainer pod started."""

    completed_at: AwareDatetime | None = None
    """When the run ended, well or badly."""

    job_name: Annotated[str, Field(max_length=253)] | None = None
    """Job that runs the trainer."""

    pod_name: Annotated[str, Field(max_length=253)] | None = None
    """Latest trainer pod."""

    node_name: Annotated[str, Field(max_length=253)] | None = None
    """Node of the latest trainer pod."""

    artifact: ArtifactStatus | None = None
    """The stored LoRA."""

    validation: ValidationStatus | None = None
    """How much better the LoRA predicts held-out pictures than the base model."""

    failure: FailureStatus | None = None
    """Why the run, or its latest attempt, failed."""
