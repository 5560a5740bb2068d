"""What is left of a run that ended early: its partial LoRA is published, its copy removed.

A module of its own because nothing here trains: it runs on any CPU, without torch, after the run.
"""

from pathlib import Path
from typing import Any

from lora_api.job import JobDocument
from lora_api.progress import Stage
from lora_api.reasons import Reason
from lora_api.result import Outcome, Result
from lora_api.status import ArtifactStatus
from lora_trainer import log
from lora_trainer.disk import read_json, sha256_of_file
from lora_trainer.mirror import kept_safe, remove_copy
from lora_trainer.plan import make_plan, with_identity
from lora_trainer.progress import ProgressBoard
from lora_trainer.publish import CONFIG, MODEL, publish
from lora_trainer.recipes import RECIPES
from lora_trainer.stopping import StopFlag
from lora_trainer.storage import open_storage
from lora_trainer.workspace import Workspace, open_workspace, recorded_run_id, refuse_overlap

# Below the output, so that it never stands where a finished LoRA is looked for.
PARTIAL = "partial"


def publish_partial(
    job: JobDocument, root: Path, *, board: ProgressBoard, stop: StopFlag
) -> Result:
    """Store the LoRA of the last checkpoint under `partial/` of the output.

    Args:
        job: The checked document.
        root: The workspace folder.
        board: Told how far the upload is.
        stop: Looked at between two files.

    Returns:
        The result; without an artifact where no checkpoint was ever written.

    Raises:
        TrainerError: What the storage says, or that the workspace is not this run's.
    """
    job = with_identity(job, recorded_run_id(root))
    plan = make_plan(job)
    refuse_overlap(root, job)
    with (
        open_workspace(root, run_id=job.run_id, key=plan.key) as workspace,
        kept_safe(job, workspace, fresh=False),
    ):
        folder, config = _newest(workspace)
        if folder is None:
            return _result("There is nothing to publish: no checkpoint had been written.")
        board.enter(Stage.PUBLISH)
        place = f"{job.output.uri.rstrip('/')}/{PARTIAL}"
        storage = open_storage(place, field="output.uri", stop=stop)
        publish(storage, folder, run_id=job.run_id, advance=board.advance, stop=stop)
        model = folder / MODEL
        artifact = ArtifactStatus(
            uri=f"{place}/{MODEL}",
            digest=f"sha256:{sha256_of_file(model)}",
            size_bytes=model.stat().st_size,
            format=RECIPES[job.recipe].file_format.value,
        )
    step, total_steps = config["partial"]["step"], config["partial"]["totalSteps"]
    return _result(
        f"The LoRA as of step {step} of {total_steps} lies at {artifact.uri}.",
        artifact=artifact,
        step=step,
        total_steps=total_steps,
    )


def remove_workspace_copy(job: JobDocument) -> Result:
    """Delete the copy that an Ephemeral workspace keeps beside the output.

    Raises:
        TrainerError: What the storage says.
    """
    files = remove_copy(job.output.uri, run_id=job.run_id)
    log.info("the copy of the workspace is removed", files=files)
    return _result(f"The copy of the workspace is removed ({files} files).")


def _newest(workspace: Workspace) -> tuple[Path | None, dict[str, Any]]:
    """The newest folder that is whole; the config is written last."""
    for folder in sorted(workspace.partial.glob("step-*"), reverse=True):
        config = read_json(folder / CONFIG)
        if isinstance(config, dict) and "partial" in config and (folder / MODEL).is_file():
            return folder, config
    return None, {}


def _result(
    message: str, *, artifact: ArtifactStatus | None = None, step: int = 0, total_steps: int = 0
) -> Result:
    return Result(
        outcome=Outcome.SUCCEEDED,
        reason=Reason.COMPLETED,
        message=message,
        retryable=False,
        artifact=artifact,
        step=step,
        total_steps=total_steps,
    )
