"""LoRATraining's spec: one training run as the platform asks for it.

A module of its own because the CRD is generated from exactly two trees, this one and that of
`status`; everything that is only said between operator and trainer lives elsewhere.
"""

from enum import StrEnum
from typing import Annotated, Self

from pydantic import Field, model_validator

from lora_api.base import (
    CpuQuantity,
    DnsLabel,
    DnsSubdomain,
    Document,
    ImageReference,
    MemoryQuantity,
    StorageUri,
    UserName,
    document_config,
    memory_bytes,
)
from lora_api.cel import CelRule
from lora_api.settings import (
    BaseModelSettings,
    CheckpointSettings,
    DatasetSettings,
    NetworkSettings,
    OptimizationSettings,
    OutputFiles,
    ValidationSettings,
)

KIND = "LoRATraining"
PLURAL = "loratrainings"
# Children are named after the run ("-workspace" is the longest suffix), and a Job's name has to
# fit a label value of 63 characters.
MAX_NAME_LENGTH = 52


CANCEL_IS_FINAL = CelRule(
    "!has(oldSelf.cancel) || has(self.cancel)",
    "cancel can't be taken back: create another run",
    field="cancel",
)
HELD_OUT_BELOW_MINIMUM = CelRule(
    "self.validation.heldOutImages < self.dataset.minImages",
    "validation.heldOutImages must be below dataset.minImages, or no picture is left to train on",
    field="validation.heldOutImages",
)
MORE_MEMORY_ON_RETRY = CelRule(
    "!has(self.memoryOnRetry) || "
    "quantity(string(self.memoryOnRetry)).isGreaterThan(quantity(string(self.memory)))",
    "memoryOnRetry must be above memory, or another attempt would run into the same limit",
    field="memoryOnRetry",
)
NAME_FITS_CHILDREN = CelRule(
    f"self.metadata.name.size() <= {MAX_NAME_LENGTH}",
    f"metadata.name must be at most {MAX_NAME_LENGTH} characters: the Job and its pod are named "
    "after it",
)


def _in_object_storage(*path: str, optional: bool = False) -> CelRule:
    """A pod has no files of the user's: what file:// means to a person at a laptop it can't."""
    name = ".".join(path)
    absent = f"!has(self.{name}) || " if optional else ""
    return CelRule(
        f"{absent}self.{name}.startsWith('s3://')",
        f"{name} {_MUST_BE_S3}",
        field=name,
    )


_MUST_BE_S3 = (
    "must start with s3:// (file:// works only with lora-trainer run, outside the cluster)"
)
FILES_IN_OBJECT_STORAGE = CelRule(
    "!has(self.dataset.uris) || self.dataset.uris.all(uri, uri.startsWith('s3://'))",
    f"dataset.uris: each {_MUST_BE_S3}",
    field="dataset.uris",
)


class ResourceSettings(Document):
    """What the training pod asks of the cluster."""

    model_config = document_config(MORE_MEMORY_ON_RETRY)

    gpus: Annotated[int, Field(ge=0, le=16)] = 1
    """GPUs (nvidia.com/gpu, unless operator or policy name another resource). Zero trains on the
    CPU, which only toy models bear."""

    gpu_memory: MemoryQuantity | None = None
    """Memory that each GPU must have, by the labels of its node; nodes without such a label are not
    ruled out. Default: estimated from recipe and settings, for the leanest way of training that
    optimization.memory allows."""

    cpu: CpuQuantity = "1"
    """CPU request of the pod."""

    memory: MemoryQuantity = "8Gi"
    """Memory request and limit of the pod; going over it ends the container."""

    memory_on_retry: MemoryQuantity | None = None
    """Memory of one further attempt after a container went over `memory`, above which it has to
    be. Default: none is made, because it would hold the GPU to run into the same limit."""

    @model_validator(mode="after")
    def _more_on_retry(self) -> Self:
        more = self.memory_on_retry
        if more is not None and memory_bytes(more) <= memory_bytes(self.memory):
            raise ValueError(MORE_MEMORY_ON_RETRY.message)
        return self


class WorkspaceType(StrEnum):
    """Kinds of workspace."""

    CLAIM = "PersistentVolumeClaim"
    EPHEMERAL = "Ephemeral"


class WorkspaceSettings(Document):
    """Where checkpoints, caches and the unsent result lie while the run is alive."""

    type: WorkspaceType = WorkspaceType.CLAIM
    """Kind of storage. A PersistentVolumeClaim survives the pod and its node, where its volume can
    follow. Ephemeral is a folder of the node; checkpoints and the unsent result are kept in the
    output's bucket meanwhile, so that the next attempt can go on anywhere."""

    size: MemoryQuantity = "20Gi"
    """Size of the claim or folder: base model, caches and a few checkpoints have to fit."""

    storage_class_name: DnsSubdomain | None = None
    """StorageClass of the claim. Default: the cluster's default class."""


class LimitSettings(Document):
    """Bounds after which the run is given up."""

    active_deadline_seconds: Annotated[int, Field(ge=60, le=1_209_600)] = 7200
    """Seconds from the start of the Job until the run fails, retries and waits included. Time in a
    queue of Kueue and time suspended don't count; after either it starts anew."""

    retries: Annotated[int, Field(ge=0, le=20)] = 3
    """New attempts after a crash, a passing fault or a stall. Bad input is never tried again;
    preemption, drain and node loss cost none."""

    creation_timeout_seconds: Annotated[int, Field(ge=30, le=1_209_600)] = 3600
    """Seconds for which a refused Job, pod or claim (a quota, a name that is taken) is tried
    again."""

    schedule_timeout_seconds: Annotated[int, Field(ge=30, le=1_209_600)] = 3600
    """Seconds that a pod may wait for a node with room, or for its volume."""

    start_timeout_seconds: Annotated[int, Field(ge=30, le=1_209_600)] = 1800
    """Seconds that a pod may take on its node until the trainer starts: image, Secret, volume."""

    stall_timeout_seconds: Annotated[int, Field(ge=30, le=86_400)] = 600
    """Seconds without any progress after which an attempt is ended and the next one goes on from
    the last checkpoint, however alive the process claims to be. At least 1800 until a stage's first
    report: weights are read, kernels compiled."""


class WorkspaceRetention(StrEnum):
    """What becomes of the workspace claim of a run that has ended."""

    DELETE = "Delete"
    RETAIN = "Retain"
    RETAIN_ON_FAILURE = "RetainOnFailure"


DEFAULT_JOB_SECONDS = 600
JobSeconds = Annotated[int, Field(ge=0, le=31_536_000)]


class RetentionSettings(Document):
    """What is kept of a run that has ended, and for how long."""

    job_seconds: JobSeconds | None = None
    """Seconds for which the Job and its pods, and with them the log, are kept. Default: the
    policy's, or else 600."""

    workspace: WorkspaceRetention | None = None
    """Delete: the claim goes with the Job. Retain: it stays until the run is deleted.
    RetainOnFailure: it stays where the run did not complete. The same holds for an Ephemeral
    workspace's copy in the bucket. A workspace that may hold the only copy of a trained LoRA is
    never deleted. Default: the policy's, or else Delete."""

    ttl_seconds: Annotated[int, Field(ge=0, le=315_360_000)] | None = None
    """Seconds after its end at which the run itself is deleted, with all that is left of it.
    Default: the policy's, or else never."""


class OutputPlace(OutputFiles):
    """Where the finished LoRA goes."""

    uri: StorageUri | None = None
    """Prefix that receives model.safetensors, config.json, report.json, contact-sheet.png,
    loss-curve.png and samples/: s3://bucket/prefix. Default: a folder of the namespace and the run
    under the policy's defaults.outputPrefix (see status.outputUri); where there is none, this must
    be given."""


class CancelSettings(Document):
    """How the run is ended."""

    keep_partial: bool = False
    """Whether the LoRA of the last checkpoint is stored under partial/ of the output, by a Job
    without a GPU. Where that fails the workspace stays until the run is deleted."""


FIXED_RULES = (
    HELD_OUT_BELOW_MINIMUM,
    _in_object_storage("baseModel", "uri"),
    _in_object_storage("baseModel", "componentsUri", optional=True),
    _in_object_storage("dataset", "uri", optional=True),
    FILES_IN_OBJECT_STORAGE,
    _in_object_storage("validation", "embedderUri", optional=True),
    _in_object_storage("output", "uri", optional=True),
)


class FixedSettings(Document):
    """What a run is from its creation on."""

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

    output: OutputPlace = OutputPlace()
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


def _never_changes(name: str) -> CelRule:
    field = FixedSettings.model_fields[name].alias
    mine, old = f"self.{field}", f"oldSelf.{field}"
    return CelRule(
        f"has({mine}) == has({old}) && (!has({mine}) || {mine} == {old})",
        f"spec.{field} is immutable: delete this run and create another (suspend, cancel, "
        "retention and priorityClassName may change)",
        field=field,
    )


class LoRATrainingSpec(FixedSettings):
    """What to train, on what, and where the result goes."""

    model_config = document_config(
        *FIXED_RULES,
        *(_never_changes(name) for name in FixedSettings.model_fields),
        CANCEL_IS_FINAL,
    )

    suspend: bool = False
    """Whether the run is held back. A trainer at work writes a checkpoint and gives its GPU back;
    unset, the run goes on from the same step."""

    cancel: CancelSettings | None = None
    """Ends the run for good, as Cancelled; an empty object is enough. It can't be taken back."""

    retention: RetentionSettings = RetentionSettings()
    """What is kept of a run that has ended, and for how long."""

    priority_class_name: DnsSubdomain | None = None
    """PriorityClass of the pods. A change holds for Jobs that are made after it."""
