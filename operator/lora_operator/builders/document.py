"""The job document of a run: the spec's training settings without the cluster's part.

A module of its own because reading a run checks it before anything is created, and the Job carries
it.
"""

from lora_api.job import PROGRESS_PORT, JobDocument, JobLimits, JobWorkspace, ServerSettings
from lora_api.settings import OutputSettings
from lora_api.training import LoRATrainingSpec, WorkspaceType
from lora_operator.errors import InternalError


def job_document(*, name: str, uid: str, spec: LoRATrainingSpec) -> JobDocument:
    """What the trainer is told.

    Raises:
        pydantic.ValidationError: The settings contradict each other.
        InternalError: Nobody has settled where the result goes.
    """
    place = spec.output.uri
    if place is None:
        raise InternalError(f"run {name} has no output yet, so nothing can be made for it")
    return JobDocument(
        name=name,
        run_id=uid,
        recipe=spec.recipe,
        base_model=spec.base_model,
        dataset=spec.dataset,
        network=spec.network,
        optimization=spec.optimization,
        checkpoints=spec.checkpoints,
        validation=spec.validation,
        output=OutputSettings(uri=place, tensorboard=spec.output.tensorboard),
        limits=JobLimits(stall_timeout_seconds=spec.limits.stall_timeout_seconds),
        workspace=JobWorkspace(ephemeral=spec.workspace.type is WorkspaceType.EPHEMERAL),
        server=ServerSettings(host="0.0.0.0", port=PROGRESS_PORT),  # noqa: S104 - a pod's own IP
    )
