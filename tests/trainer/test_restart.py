"""A run that dies anywhere goes on where it was, and ends with the same bytes."""

import hashlib
import os
import shutil
import signal
from pathlib import Path

import pytest
from tests.trainer.jobs import AJob

from lora_api.exit_codes import ExitCode
from lora_api.reasons import Reason
from lora_api.result import Outcome, Result
from lora_trainer import results, run
from lora_trainer.errors import InterruptedRunError, TrainerError
from lora_trainer.publish import CONFIG, MODEL, REPORT, SHEET
from lora_trainer.storage.local import LocalStorage
from lora_trainer.workspace import Workspace

pytestmark = pytest.mark.trainer


@pytest.fixture(params=["kept", "lost"])
def long(job: AJob, request: pytest.FixtureRequest) -> AJob:
    """A job whose workspace is kept between two attempts, or lost with each process."""
    steps = job.with_steps(24)
    return steps if request.param == "kept" else steps.ephemeral()


def test_the_same_seed_gives_the_same_bytes(finished: tuple[AJob, Result], job: AJob) -> None:
    again = job.with_steps(24)
    assert again.run()[0] == ExitCode.OK
    assert again.model == finished[0].model


def test_an_equal_run_under_another_identity_gives_the_same_bytes(
    finished: tuple[AJob, Result], job: AJob
) -> None:
    again = job.with_steps(24).having("runId", "run-2")
    assert again.run()[0] == ExitCode.OK
    assert again.model == finished[0].model


def test_another_seed_gives_other_bytes(finished: tuple[AJob, Result], job: AJob) -> None:
    other = job.with_steps(24).having("optimization.seed", 8)
    assert other.run()[0] == ExitCode.OK
    assert other.model != finished[0].model


def test_a_killed_run_resumes_to_the_same_bytes(finished: tuple[AJob, Result], long: AJob) -> None:
    run = long.start()
    run.wait_until(lambda: run.checkpoint_exists(at_least=6))
    os.kill(run.pid, signal.SIGKILL)
    assert run.exit_code() == -signal.SIGKILL
    assert not (long.memory / "stages" / "save.json").exists(), "killed too late to tell"
    long.lose()
    code, result = long.run()
    assert code == ExitCode.OK
    assert result.step == 24
    assert long.model == finished[0].model
    assert not (long.output / ".workspace").exists()


def test_a_terminated_run_saves_a_checkpoint_says_so_and_resumes_to_the_same_bytes(
    finished: tuple[AJob, Result], long: AJob
) -> None:
    long = long.having("checkpoints.everySteps", 5)
    run = long.start()
    run.wait_until(lambda: run.checkpoint_exists(at_least=5))
    os.kill(run.pid, signal.SIGTERM)
    assert run.exit_code() == ExitCode.INTERRUPTED
    said = Result.model_validate_json((long.folder / "said-workspace").read_bytes())
    assert (said.outcome, said.retryable) == (Outcome.INTERRUPTED, True)
    assert 5 <= said.step < 24
    assert run.checkpoint_exists(at_least=said.step)
    long.lose()
    code, _ = long.run()
    assert code == ExitCode.OK
    assert long.model == finished[0].model


def test_a_damaged_checkpoint_costs_its_steps_not_the_run(
    finished: tuple[AJob, Result], job: AJob
) -> None:
    long = job.with_steps(24)
    run = long.start()
    run.wait_until(lambda: run.checkpoint_exists(at_least=6))
    os.kill(run.pid, signal.SIGKILL)
    run.exit_code()
    newest = max(long.workspace.glob("checkpoints/*/step-*.pt"))
    newest.write_bytes(newest.read_bytes()[: newest.stat().st_size // 2])
    assert long.run()[0] == ExitCode.OK
    assert long.model == finished[0].model


def test_a_run_that_failed_at_the_upload_only_uploads(job: AJob) -> None:
    small = job.with_steps(2)
    assert small.run()[0] == ExitCode.OK
    trained = small.model
    (small.workspace / "stages" / "publish.json").unlink()
    shutil.rmtree(small.output)
    shutil.rmtree(small.workspace / "dataset", ignore_errors=True)
    shutil.rmtree(small.workspace / "cache")
    code, result = small.run()
    assert code == ExitCode.OK
    assert small.model == trained
    assert result.stage_seconds.keys() <= {"Plan", "Publish", "Done"}


@pytest.mark.parametrize("file", [CONFIG, MODEL, SHEET, REPORT])
def test_a_run_that_is_killed_while_it_uploads_only_uploads_again(
    file: str, long: AJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = long.with_steps(2)
    honest = LocalStorage.upload

    def upload(self: LocalStorage, source: Path, name: str, *, content_type: str) -> None:
        if name == file:
            os.kill(os.getpid(), signal.SIGKILL)
        honest(self, source, name, content_type=content_type)

    with monkeypatch.context() as patch:
        patch.setattr(LocalStorage, "upload", upload)
        assert small.start().exit_code() == -signal.SIGKILL
    small.lose()
    code, result = small.run()
    assert code == ExitCode.OK, result.message
    assert small.is_ephemeral or "Train" not in result.stage_seconds
    assert result.artifact is not None
    assert result.artifact.digest == f"sha256:{hashlib.sha256(small.model).hexdigest()}"
    assert not (small.output / ".workspace").exists()


def test_an_output_that_fails_after_training_keeps_the_result_for_another_attempt(
    job: AJob,
) -> None:
    small = job.with_steps(2)
    run = small.start()
    samples = small.workspace / "result" / "samples"
    run.wait_until(samples.exists)  # trained and saved; the output was found writable long before
    shutil.rmtree(small.output, ignore_errors=True)
    small.output.write_text("a file where the folder should be")
    assert run.exit_code() == ExitCode.NOT_STORED
    said = Result.model_validate_json((small.folder / "said-workspace").read_bytes())
    assert (said.reason, said.retryable) == (Reason.UPLOAD_FAILED, True)
    assert (small.workspace / "result" / "model.safetensors").exists()
    small.output.unlink()
    code, result = small.run()
    assert code == ExitCode.OK
    assert "Train" not in result.stage_seconds
    assert (small.output / "report.json").exists()


# What is wrong with the environment of a later attempt; before the training each is bad input.
SPOILT = {
    "the endpoint is no address": {"AWS_ENDPOINT_URL": "minio:9000"},
    "the credentials are gone": {"AWS_SECRET_ACCESS_KEY": ""},
}


@pytest.mark.parametrize("name", SPOILT)
def test_a_result_that_waits_outlives_a_spoilt_environment(
    name: str, job: AJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = job.with_steps(2).having("output.uri", "s3://models/x")
    os.environ.update(AWS_ACCESS_KEY_ID="x", AWS_SECRET_ACCESS_KEY="y")
    with monkeypatch.context() as patch:
        patch.setattr(run, "check_output", lambda *_: None)
        _stopping(run, "publish", TrainerError(Reason.UPLOAD_FAILED, "no"), patch)
        small.run()
    os.environ.update(SPOILT[name])
    code, result = small.run()
    assert (code, result.reason) == (ExitCode.NOT_STORED, Reason.UPLOAD_FAILED)
    assert "AWS_" in result.message
    assert small.in_workspace("new").having("output.uri", "s3://models/x").run()[0] == (
        ExitCode.BAD_INPUT
    )


def _stopping(
    where: object, call: str, error: TrainerError, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(where, call, stopped)


# Where the other job is stopped: its files lie there already, not all of its markers do.
STOPPED_AT = {
    "while it samples": (results, "draw_samples"),
    "before it is marked as saved": (Workspace, "mark"),
}


@pytest.mark.parametrize("name", STOPPED_AT)
def test_another_jobs_model_is_never_published_in_the_place_of_ones_own(
    name: str, job: AJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine, other = job.with_steps(2), job.with_steps(2).having("optimization.seed", 8)
    with monkeypatch.context() as patch:
        _stopping(run, "publish", TrainerError(Reason.UPLOAD_FAILED, "no"), patch)
        assert mine.run()[0] == ExitCode.NOT_STORED
    trained = (mine.workspace / "result" / "model.safetensors").read_bytes()
    with monkeypatch.context() as patch:
        _stopping(*STOPPED_AT[name], InterruptedRunError("stop"), patch)
        assert other.run()[0] == ExitCode.INTERRUPTED
    code, result = mine.run()
    assert code == ExitCode.OK, result.message
    assert mine.model == trained
    assert result.artifact is not None
    assert result.artifact.digest == f"sha256:{hashlib.sha256(mine.model).hexdigest()}"


def test_a_model_that_changed_in_the_workspace_is_made_again_not_published(
    job: AJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = job.with_steps(2)
    with monkeypatch.context() as patch:
        _stopping(run, "publish", TrainerError(Reason.UPLOAD_FAILED, "no"), patch)
        small.run()
    model = small.workspace / "result" / "model.safetensors"
    trained = model.read_bytes()
    model.write_bytes(trained[:-1] + b"!")
    code, result = small.run()
    assert code == ExitCode.OK, result.message
    assert small.model == trained


def test_a_finished_run_does_nothing_when_it_is_started_again(long: AJob) -> None:
    small = long.with_steps(2)
    first = small.run()[1]
    small.lose()
    before = (small.output / "model.safetensors").stat().st_mtime_ns
    code, result = small.run()
    assert code == ExitCode.OK
    assert (result.artifact, result.validation) == (first.artifact, first.validation)
    assert (result.message, result.loss) == (first.message, first.loss)
    assert (small.output / "model.safetensors").stat().st_mtime_ns == before


def test_fresh_trains_again_in_the_same_workspace(long: AJob) -> None:
    small = long.with_steps(2)
    small.run()
    code, result = small.run("--fresh")
    assert code == ExitCode.OK
    assert "Train" in result.stage_seconds


def test_another_runs_copy_of_its_workspace_is_left_alone(job: AJob) -> None:
    other = job.output / ".workspace" / "run-2" / "checkpoints" / "0" / "step-00000009.pt"
    other.parent.mkdir(parents=True)
    other.write_bytes(b"of another run")
    assert job.with_steps(2).ephemeral().run()[0] == ExitCode.OK
    assert other.read_bytes() == b"of another run"
    assert not (job.output / ".workspace" / "run-1").exists()


def test_pictures_on_the_way_change_nothing_of_what_is_trained(
    finished: tuple[AJob, Result], long: AJob
) -> None:
    shown = long.having("validation.sampleEverySteps", 10)
    run = shown.start()
    run.wait_until(lambda: run.checkpoint_exists(at_least=10))
    os.kill(run.pid, signal.SIGKILL)
    run.exit_code()
    shown.lose()
    assert shown.run()[0] == ExitCode.OK
    assert shown.model == finished[0].model
    drawn = sorted(path.parent.name for path in shown.output.glob("samples/step-*/*.png"))
    assert drawn == ["step-00000010", "step-00000020"]


def test_a_changed_dataset_starts_the_training_anew(job: AJob, pictures: object) -> None:
    own = shutil.copytree(str(pictures), job.folder / "own")
    small = job.with_steps(2).having("dataset.uri", f"file://{own}")
    small.run()
    (job.folder / "own" / "picture-01.txt").write_text("a zorp on the moon")
    first = small.model
    assert small.run("--fresh")[0] == ExitCode.OK
    assert small.model != first
