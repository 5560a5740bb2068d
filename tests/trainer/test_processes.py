"""Two processes train as one does with twice the batches, and live and die together."""

import os
import signal
from pathlib import Path

import psutil
import pytest
from safetensors.torch import load_file
from tests.trainer.jobs import AJob, Forked

from lora_api.exit_codes import ExitCode
from lora_api.reasons import Reason
from lora_api.result import Result


def _two(job: AJob) -> AJob:
    return job.having("processes", 2).having("optimization.batchSize", 1)


def test_two_processes_end_with_the_bytes_of_one_with_twice_the_batches(job: AJob) -> None:
    """The mean of two gradients is the same number, whoever computed them."""
    two = _two(job).with_steps(3)
    code, result = two.run()
    assert code == ExitCode.OK, result.message
    one = job.having("optimization.batchSize", 1).having("processes", 1).with_steps(3)
    one = one.having("optimization.gradientAccumulationSteps", 2).in_workspace("one")
    assert one.run()[0] == ExitCode.OK
    tensors = [_tensors(job.output / "model.safetensors") for job in (two, one)]
    assert tensors[0] == tensors[1]


def _tensors(path: Path) -> dict[str, list[float]]:
    return {name: tensor.flatten().tolist() for name, tensor in load_file(path).items()}


def _helper_of(run: Forked) -> int:
    """Pid of the second training process."""
    for child in psutil.Process(run.pid).children(recursive=True):
        if "spawn_main" in " ".join(child.cmdline()):
            return child.pid
    raise AssertionError("there is no second process")


def test_a_stop_reaches_both_and_the_run_goes_on_later(job: AJob) -> None:
    long = _two(job).with_steps(400).having("checkpoints.everySteps", 5)
    run = long.start()
    run.wait_until(lambda: run.checkpoint_exists(at_least=5))
    helper = _helper_of(run)
    os.kill(run.pid, signal.SIGTERM)
    assert run.exit_code() == ExitCode.INTERRUPTED
    assert not psutil.pid_exists(helper)
    said = Result.model_validate_json((long.folder / "said-workspace").read_bytes())
    assert run.checkpoint_exists(at_least=said.step)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV])
def test_a_process_that_dies_ends_the_run_and_is_named(job: AJob, number: int) -> None:
    long = _two(job).with_steps(400).having("checkpoints.everySteps", 5)
    run = long.start()
    run.wait_until(lambda: run.checkpoint_exists(at_least=5))
    os.kill(_helper_of(run), number)
    assert run.exit_code() == ExitCode.CRASHED
    said = Result.model_validate_json((long.folder / "said-workspace").read_bytes())
    assert (said.reason, said.retryable) == (Reason.INTERNAL_ERROR, True)
    assert f"process 1 ended with signal {int(number)}" in said.message


def test_a_helper_does_not_outlive_a_killed_run(job: AJob) -> None:
    long = _two(job).with_steps(400).having("checkpoints.everySteps", 5)
    run = long.start()
    run.wait_until(lambda: run.checkpoint_exists(at_least=5))
    helper = psutil.Process(_helper_of(run))
    os.kill(run.pid, signal.SIGKILL)
    run.exit_code()
    helper.wait(60)
