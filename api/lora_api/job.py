"""The job document: everything the trainer is told, and all it knows of the world around it.

A module of its own because it is the trainer's whole input, with or without a cluster: the
operator writes it into the pod, a person writes it into job.json.
"""

from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from lora_api.base import DnsLabel, Document
from lora_api.recipes import RECIPES
from lora_api.settings import (
    BaseModelSettings,
    CheckpointSettings,
    DatasetSettings,
    NetworkSettings,
    OptimizationSettings,
    OutputSettings,
    ValidationSettings,
)
from lora_api.spelling import Spelled

JOB_ENVIRONMENT_VARIABLE = "LORA_JOB"
WORKSPACE_ENVIRONMENT_VARIABLE = "LORA_WORKSPACE"
TERMINATION_LOG_ENVIRONMENT_VARIABLE = "LORA_TERMINATION_LOG"
# The trainer's commands: a run, and what may be done after one that ended early.
RUN = "run"
PUBLISH_PARTIAL = "publish-partial"
REMOVE_COPY = "remove-copy"
BUILT_IN_RECIPES = tuple(RECIPES)
PROGRESS_PORT = 8080


class ServerSettings(Document):
    """Where the trainer serves /progress, /metrics and /healthz while it runs."""

    host: Annotated[str, Field(min_length=1, max_length=253)] = "127.0.0.1"
    """Address to listen on; the operator sets 0.0.0.0."""

    port: Annotated[int, Field(ge=0, le=65535)] = 0
    """TCP port; 0 serves nothing."""


class JobLimits(Document):
    """Bounds that the trainer itself keeps."""

    stall_timeout_seconds: Annotated[int, Field(ge=30, le=86_400)] = 600
    """Seconds without any progress after which the process writes down where its threads are and
    ends, to be started again from its last checkpoint."""


class JobWorkspace(Document):
    """What the trainer may expect of its workspace folder."""

    ephemeral: bool = False
    """Whether the folder is lost with the process: checkpoints and the unsent result are then kept
    in the output's storage, under .workspace/, until the run is done."""


class JobDocument(Document):
    """One training job, complete: `lora-trainer run job.json` needs nothing else but storage."""

    version: Literal["v1"] = "v1"
    """Version of this document."""

    name: Annotated[
        str,
        StringConstraints(min_length=1, max_length=253),
        Spelled(r"(.|\n)*[^.](.|\n)*", "must be more than dots: folders are named after it"),
    ]
    """Name of the run; goes into file metadata, report and log."""

    run_id: Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9._-]+$")] = (
        "local"
    )
    """Identity of the run (the resource's UID); a workspace of another run is refused."""

    recipe: DnsLabel
    """How the model family is trained: sd15, sdxl, flux or wan."""

    base_model: BaseModelSettings
    """The diffusion model that the LoRA adapts."""

    dataset: DatasetSettings
    """The training pictures and their captions."""

    network: NetworkSettings = NetworkSettings()
    """The LoRA itself."""

    optimization: OptimizationSettings = OptimizationSettings()
    """How long and how fast to train."""

    checkpoints: CheckpointSettings = CheckpointSettings()
    """How often progress is made safe in the workspace."""

    validation: ValidationSettings = ValidationSettings()
    """What is drawn and measured after training."""

    output: OutputSettings
    """Where the finished LoRA goes."""

    server: ServerSettings = ServerSettings()
    """Where progress is served."""

    limits: JobLimits = JobLimits()
    """Bounds that the trainer itself keeps."""

    workspace: JobWorkspace = JobWorkspace()
    """What the trainer may expect of its workspace folder."""

    processes: Annotated[int, Field(ge=1, le=16)] | None = None
    """Training processes on this machine, each with its GPU. Default: as many as there are GPUs,
    and one without."""
