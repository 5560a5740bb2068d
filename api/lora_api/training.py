"""LoRATraining's spec: one training run as the platform asks for it.

A module of its own because the CRD is generated from exactly two trees, this one and that of
`status`; everything that is only said between operator and trainer lives elsewhere.
"""

from typing import Annotated, Literal

from pydantic import Field

from lora_api.base import (
    CpuQuantity,
    DnsLabel,
    DnsSubdomain,
    Document,
    ImageReference,
    MemoryQuantity,
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


class ResourceSettings(Document):
    """What the training pod asks of the cluster."""

    gpus: Annotated[int, Field(ge=0, le=16)] = 1
    """GPUs (nvidia.com/gpu). Zero trains on the CPU, which only toy models bear."""

    cpu: CpuQuantity = "1"
    """CPU request of the pod."""

    memory: MemoryQuantity = "8Gi"
    """Memory request and limit of the pod; going over it ends the container."""


class WorkspaceSettings(Document):
    """Where checkpoints, caches and the unsent result lie while the run is alive."""

    type: Literal["PersistentVolumeClaim"] = "PersistentVolumeClaim"
    """Kind of storage. A claim survives the loss of the pod and of the node's container runtime."""

    size: MemoryQuantity = "20Gi"
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
