"""A workspace without room, for real: the libraries that write have words of their own for it."""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.trainer.jobs import AJob

from lora_api.exit_codes import ExitCode
from lora_api.progress import Stage
from lora_api.reasons import Reason
from lora_trainer.progress import ProgressBoard


@pytest.fixture
def small_disk(job: AJob) -> Iterator[Path]:
    """The job's workspace as a file system of its own, with room for the job and little more."""
    job.workspace.mkdir()
    subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(job.workspace)], check=True
    )
    try:
        yield job.workspace
    finally:
        subprocess.run(["umount", "--lazy", str(job.workspace)], check=True)


def _fill(folder: Path) -> None:
    with (folder / "ballast").open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            return


def _full_from(stage: Stage, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Use up the room when a stage begins."""
    honest = ProgressBoard.enter

    def enter(self: ProgressBoard, entered: Stage) -> None:
        honest(self, entered)
        if entered is stage:
            _fill(folder)

    monkeypatch.setattr(ProgressBoard, "enter", enter)


@pytest.mark.parametrize("stage", [Stage.FETCH, Stage.CACHE, Stage.TRAIN, Stage.SAVE])
def test_a_full_disk_is_called_a_full_workspace(
    stage: Stage, job: AJob, small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _full_from(stage, small_disk, monkeypatch)
    code, result = job.run()
    assert (code, result.reason) == (ExitCode.BAD_INPUT, Reason.WORKSPACE_FULL), result.message
    assert str(small_disk) in result.message
    assert "workspace.size" in result.message


def test_a_disk_that_fills_while_samples_are_drawn_does_not_keep_the_lora_from_being_stored(
    job: AJob, small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _full_from(Stage.SAMPLE, small_disk, monkeypatch)
    code, result = job.run()
    assert code == ExitCode.OK, result.message
    assert job.model
    assert "samples: left out" in result.message
    assert "workspace.size" in result.message
    report = json.loads((job.output / "report.json").read_text())
    assert report["gate"]["passed"] is False
    assert not (job.output / "contact-sheet.png").exists()


def test_a_disk_that_is_full_once_the_lora_is_stored_costs_nothing(
    job: AJob, small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _full_from(Stage.PUBLISH, small_disk, monkeypatch)
    code, result = job.run()
    assert code == ExitCode.OK, result.message
    assert (job.output / "report.json").exists()
