"""The Jobs that follow a training: the same trainer on the same workspace, without a GPU.

A module of its own because they share what a training must not have: little of everything, a
deadline of their own, and no say of the run's limits.
"""

from typing import Any

from lora_api.job import PUBLISH_PARTIAL, REMOVE_COPY, RUN
from lora_api.training import LoRATrainingSpec
from lora_operator.builders.job import gpu_tolerations, one_pod_job
from lora_operator.builders.ownership import metadata
from lora_operator.labels import partial_job_name, tidy_job_name, upload_job_name
from lora_operator.state.views import Run

CPU = "500m"
DEADLINE_SECONDS = 1800
# Files are read and sent piece by piece, and nothing of torch is imported.
LEAN_MEMORY = "1Gi"
# A storage that does not answer for a minute or two must not cost what was trained.
RETRIES = 4


def build_upload_job(run: Run, spec: LoRATrainingSpec, *, default_image: str) -> dict[str, Any]:
    """One more try to store what is trained.

    It finds all stages but the last done. One pod, because the next try comes within the hour.
    """
    return _errand(run, spec, upload_job_name(run.key.name), RUN, default_image=default_image)


def build_partial_job(run: Run, spec: LoRATrainingSpec, *, default_image: str) -> dict[str, Any]:
    """Stores what a cancelled run had trained by its last checkpoint."""
    name = partial_job_name(run.key.name)
    job = _errand(run, spec, name, PUBLISH_PARTIAL, default_image=default_image)
    return _lean(job, retries=RETRIES)


def build_tidy_job(run: Run, spec: LoRATrainingSpec, *, default_image: str) -> dict[str, Any]:
    """Removes what an Ephemeral workspace left in the bucket."""
    name = tidy_job_name(run.key.name)
    job = _errand(run, spec, name, REMOVE_COPY, default_image=default_image)
    return _lean(job, retries=RETRIES)


def _errand(
    run: Run, spec: LoRATrainingSpec, name: str, command: str, *, default_image: str
) -> dict[str, Any]:
    on_cpu = spec.model_copy(
        update={"resources": spec.resources.model_copy(update={"gpus": 0, "cpu": CPU})}
    )
    meta = metadata(run, name)
    # Where Kueue manages every Job it lets none go that names no queue. Not made suspended, as the
    # training is: it takes no GPU, so where Kueue is away it need not wait for it.
    meta["labels"] |= run.queue_labels
    job = one_pod_job(run, meta, on_cpu, default_image=default_image, command=command)
    if spec.resources.gpus:
        # The workspace's volume may be bound to the GPU node that it was made on.
        job["spec"]["template"]["spec"]["tolerations"] = gpu_tolerations()
    job["spec"] |= {"backoffLimit": 0, "activeDeadlineSeconds": DEADLINE_SECONDS}
    return job


def _lean(job: dict[str, Any], *, retries: int) -> dict[str, Any]:
    job["spec"]["backoffLimit"] = retries
    (container,) = job["spec"]["template"]["spec"]["containers"]
    container["resources"] = {
        "requests": {"cpu": CPU, "memory": LEAN_MEMORY},
        "limits": {"memory": LEAN_MEMORY},
    }
    return job
