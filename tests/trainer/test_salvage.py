"""What a cancelled run leaves: its partial LoRA is published, its copy in the bucket removed."""

import json
import os
import signal

import pytest
from safetensors import safe_open
from tests.trainer.jobs import AJob

from lora_api.exit_codes import ExitCode
from lora_api.job import PUBLISH_PARTIAL, REMOVE_COPY
from lora_api.result import Outcome
from lora_trainer.publish import CONFIG, MODEL

pytestmark = pytest.mark.trainer


@pytest.fixture(params=["kept", "lost"])
def long(job: AJob, request: pytest.FixtureRequest) -> AJob:
    """A job whose workspace is kept between two attempts, or lost with each process."""
    steps = job.with_steps(24)
    return steps if request.param == "kept" else steps.ephemeral()


def test_the_lora_of_the_last_checkpoint_is_published_as_what_it_is(long: AJob) -> None:
    run = long.start()
    run.wait_until(lambda: run.checkpoint_exists(at_least=6))
    os.kill(run.pid, signal.SIGTERM)
    assert run.exit_code() == ExitCode.INTERRUPTED
    long.lose()
    code, result = long.run(command=PUBLISH_PARTIAL)
    assert (code, result.outcome) == (ExitCode.OK, Outcome.SUCCEEDED), result.message
    assert 6 <= result.step < 24
    assert f"step {result.step} of 24" in result.message
    assert result.artifact is not None
    folder = long.output / "partial"
    assert result.artifact.uri == f"file://{folder / MODEL}"
    config = json.loads((folder / CONFIG).read_text())
    assert config["partial"] == {"step": result.step, "totalSteps": 24}
    with safe_open(folder / MODEL, "pt") as file:
        assert file.metadata()["lora_trainer.partial"] == f"{result.step} of 24 steps"
        assert any(file.get_tensor(key).any() for key in file.keys() if "lora_up" in key)  # noqa: SIM118
    assert not (long.output / MODEL).exists(), "it does not pass for the finished one"
    assert not (long.output / ".workspace").exists()


def test_without_a_checkpoint_there_is_nothing_to_publish(job: AJob) -> None:
    code, result = job.run(command=PUBLISH_PARTIAL)
    assert (code, result.artifact) == (ExitCode.OK, None)
    assert "no checkpoint" in result.message
    assert not (job.output / "partial").exists()


def test_the_copy_of_a_workspace_is_removed_and_nobody_elses(job: AJob) -> None:
    lost = job.with_steps(24).ephemeral()
    run = lost.start()
    run.wait_until(lambda: run.checkpoint_exists(at_least=2))
    os.kill(run.pid, signal.SIGKILL)
    run.exit_code()
    other = lost.memory.parent / "run-2" / "checkpoints" / "step-1.pt"
    other.parent.mkdir(parents=True)
    other.write_bytes(b"theirs")
    for _ in range(2):
        code, result = lost.run(command=REMOVE_COPY)
        assert code == ExitCode.OK, result.message
    assert not lost.memory.exists()
    assert other.read_bytes() == b"theirs"
