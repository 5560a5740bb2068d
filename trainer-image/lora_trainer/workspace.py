"""The workspace folder: whose it is, what lies where, which stages are done.

A module of its own because it is the run's only memory between attempts; the layout here is what
a restart trusts.
"""

import fcntl
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lora_api.exit_codes import ExitCode
from lora_api.job import JobDocument
from lora_api.progress import Stage
from lora_api.reasons import Reason
from lora_trainer.disk import read_json, write_json
from lora_trainer.errors import TrainerError

# The last one first: wherever a kill comes between them, no marker stands on one that is gone.
_ABOUT_THE_RESULT = (Stage.PUBLISH, Stage.SAMPLE, Stage.SAVE)
# What may lie in a folder that is nobody's yet: the claim of a start that was killed, and what
# mkfs puts into every new volume.
_OF_A_NEW_FOLDER = re.compile(r"\.lock|\.run\.json\..*\.part|lost\+found")


@dataclass(frozen=True, slots=True)
class Workspace:
    """One run's folder."""

    root: Path
    """The folder itself."""

    key: str
    """Digest of the job; markers of another one don't count."""

    @property
    def dataset(self) -> Path:
        """Pictures and captions as they were fetched."""
        return self.root / "dataset"

    @property
    def base(self) -> Path:
        """The base model, where it had to be fetched."""
        return self.root / "base"

    @property
    def embedder(self) -> Path:
        """The image embedder, where it had to be fetched."""
        return self.root / "embedder"

    @property
    def cache(self) -> Path:
        """Latents and text embeddings under content hashes; any job may reuse them."""
        return self.root / "cache"

    def checkpoints(self, inputs: str) -> Path:
        """Checkpoints of a training.

        Args:
            inputs: Digest of all that shapes the weights; another dataset starts anew.
        """
        return self.root / "checkpoints" / inputs[:16]

    def course(self, inputs: str) -> Path:
        """What is recorded and drawn while training.

        Args:
            inputs: As for `checkpoints`.
        """
        return self.root / "course" / inputs[:16]

    @property
    def result(self) -> Path:
        """What is published: model.safetensors and everything beside it."""
        return self.root / "result"

    @property
    def partial(self) -> Path:
        """The LoRA as of the last checkpoint."""
        return self.root / "partial"

    def done(self, stage: Stage) -> dict[str, Any] | None:
        """What a finished stage left behind; None where it is not finished for this job."""
        marker = read_json(self._marker(stage))
        if isinstance(marker, dict) and marker.get("key") == self.key:
            data = marker.get("data")
            return data if isinstance(data, dict) else None
        return None

    def mark(self, stage: Stage, data: dict[str, Any]) -> None:
        """Make it known, durably, that a stage is finished."""
        write_json(self._marker(stage), {"key": self.key, "stage": stage.value, "data": data})

    def clear_result(self) -> None:
        """Make the result folder empty, and forget first what any job said of its content.

        The markers of an earlier job go too: it may come back, and must not find them beside
        another one's model.
        """
        for stage in _ABOUT_THE_RESULT:
            self._marker(stage).unlink(missing_ok=True)
        shutil.rmtree(self.result, ignore_errors=True)
        self.result.mkdir(parents=True, exist_ok=True)

    def take_previews(self, inputs: str) -> None:
        """Put what was drawn while training among the samples.

        Args:
            inputs: As for `checkpoints`.
        """
        for folder in sorted(self.course(inputs).glob("step-*")):
            shutil.copytree(folder, self.result / "samples" / folder.name, dirs_exist_ok=True)

    def make_room(self) -> None:
        """Drop what a saved LoRA does not need any more, so that its papers can be written."""
        for name in ("checkpoints", "partial", "tmp"):
            shutil.rmtree(self.root / name, ignore_errors=True)

    def forget(self) -> None:
        """Drop markers, checkpoints, course and result; what content hashes name stays."""
        for name in ("stages", "checkpoints", "partial", "course", "result"):
            shutil.rmtree(self.root / name, ignore_errors=True)

    def _marker(self, stage: Stage) -> Path:
        return self.root / "stages" / f"{stage.value.lower()}.json"


def recorded_run_id(root: Path) -> str | None:
    """The run that a workspace belongs to; None where it is nobody's or can't be read.

    Args:
        root: The folder; it need not exist.
    """
    try:
        owner = read_json(root / "run.json")
    except OSError:
        return None  # opening it says what is wrong with it
    run_id = owner.get("runId") if isinstance(owner, dict) else None
    return run_id if isinstance(run_id, str) else None


def refuse_overlap(root: Path, job: JobDocument) -> None:
    """Refuse a workspace that is, or holds, a folder that the job names.

    Datasets come and go in a workspace, and results are cleared: what is somebody's own must not
    lie in it.

    Args:
        root: The workspace folder; it need not exist.
        job: The document.

    Raises:
        TrainerError: WorkspaceNotWritable, with the field that names the folder.
    """
    named = {
        "baseModel.uri": job.base_model.uri,
        "baseModel.componentsUri": job.base_model.components_uri,
        "dataset.uri": job.dataset.uri,
        **{f"dataset.uris[{place}]": uri for place, uri in enumerate(job.dataset.uris)},
        "validation.embedderUri": job.validation.embedder_uri,
        "output.uri": job.output.uri,
    }
    for field, uri in named.items():
        if uri is None or not uri.startswith("file://"):
            continue
        path = Path(uri.removeprefix("file://")).resolve()
        if path.is_relative_to(root.resolve()):
            raise TrainerError(
                Reason.WORKSPACE_NOT_WRITABLE,
                f"{field}: {path} lies in the workspace {root}, where files come and go; name a "
                "folder of its own with --workspace or LORA_WORKSPACE",
            )


@contextmanager
def open_workspace(root: Path, *, run_id: str, key: str) -> Iterator[Workspace]:
    """Make the folder this run's own, or find that it is already; hold it until the end.

    The kernel drops the lock however the process ends, so a killed run blocks nobody.

    Args:
        root: The folder; made where it does not exist.
        run_id: Identity of the run.
        key: Digest of the job.

    Raises:
        TrainerError: WorkspaceNotWritable; it can't be written, is another run's, is in use, or
            holds what no run put there.
    """
    try:
        root.mkdir(parents=True, exist_ok=True)
        _refuse_content(root)
        handle = os.open(root / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise TrainerError(
            Reason.WORKSPACE_NOT_WRITABLE,
            f"the workspace {root} can't be written ({error.strerror}); name a folder that "
            "belongs to this user with --workspace or LORA_WORKSPACE",
        ) from error
    try:
        _lock(handle, root)
        _claim(root, run_id)
        _sweep(root)
        yield Workspace(root, key)
    finally:
        os.close(handle)


def _refuse_content(root: Path) -> None:
    """A folder that no run has claimed may be anybody's: then it must be empty."""
    if (root / "run.json").exists():
        return
    others = sorted(
        path.name for path in root.iterdir() if not _OF_A_NEW_FOLDER.fullmatch(path.name)
    )
    if others:
        raise TrainerError(
            Reason.WORKSPACE_NOT_WRITABLE,
            f"the workspace {root} is not empty ({', '.join(others[:3])}) and no run's: it has no "
            "run.json; name an empty or a new folder with --workspace or LORA_WORKSPACE",
        )


def _lock(handle: int, root: Path) -> None:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        raise TrainerError(
            Reason.WORKSPACE_NOT_WRITABLE,
            f"the workspace {root} is in use by another trainer; wait for it or name another one",
            exit_code=ExitCode.TRANSIENT,
        ) from error


def _sweep(root: Path) -> None:
    """Remove what killed attempts had half written: of a base model that may be gigabytes."""
    for path in root.rglob(".*.part"):
        path.unlink(missing_ok=True)


def _claim(root: Path, run_id: str) -> None:
    owner = read_json(root / "run.json")
    if not isinstance(owner, dict):
        write_json(root / "run.json", {"runId": run_id})
    elif owner.get("runId") != run_id:
        raise TrainerError(
            Reason.WORKSPACE_NOT_WRITABLE,
            f"the workspace {root} belongs to run {owner.get('runId')!r}, this is run "
            f"{run_id!r}; name another folder or delete that one",
        )
