"""Two processes train as one does with twice the batches, and live and die together."""

import os
import signal
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
import torch
from safetensors.torch import load_file
from tests.trainer.jobs import AJob, Forked

from lora_api.exit_codes import ExitCode
from lora_api.reasons import Reason
from lora_api.result import Result
from lora_api.settings import Switch
from lora_trainer import compiling
from lora_trainer.errors import TrainerError
from lora_trainer.group import Group
from lora_trainer.loop import Trainer
from lora_trainer.processes import training_together


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


def test_what_a_killed_run_left_behind_does_not_mislead_the_next_one(job: AJob) -> None:
    """In a container the next run has the same process id."""
    long = _two(job).with_steps(400).having("checkpoints.everySteps", 5)
    run = long.start()
    run.wait_until(lambda: run.checkpoint_exists(at_least=5))
    os.kill(run.pid, signal.SIGKILL)
    run.exit_code()
    (left,) = long.workspace.glob("rendezvous-*")
    left.rename(left.with_name(f"rendezvous-{os.getpid()}-none"))
    code, result = long.with_steps(30).run()
    assert code == ExitCode.OK, result.message
    assert not list(long.workspace.glob("rendezvous-*"))


def _try(folder: Path, fault: Exception, group: Group) -> None:
    """A trial that fails in the second process only, and a clock that differs in it."""

    def losses(batch: object) -> torch.Tensor:
        if not group.leads:
            raise fault
        return torch.zeros(1)

    trainer: Any = SimpleNamespace(
        denoiser=torch.nn.Identity(),
        source=SimpleNamespace(trials=lambda: ["a batch"]),
        updater=SimpleNamespace(reserved=nullcontext, try_out=float),
        losses=losses,
        group=group,
    )
    try:
        Trainer.try_shapes(trainer)
        said = "fits"
    except Exception as error:
        said = type(error).__name__
    seconds = 1.0 if group.leads else 0.0
    compiles = compiling.agreed_to_compile(
        Switch.AUTO, group, steps=10_000, step_seconds=seconds, shapes=1
    )
    (folder / f"process-{group.rank}").write_text(f"{said}, compiles: {compiles}")


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (ValueError("no kernel for this"), ["RuntimeError", "ValueError"]),
        (torch.OutOfMemoryError("CUDA out of memory"), ["OutOfMemoryError"] * 2),
    ],
)
def test_processes_agree_on_what_a_trial_tells_and_on_compiling(
    fault: Exception, said: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compiling, "has_compiler", lambda: True)
    work, fatal = partial(_try, tmp_path, fault), list[TrainerError]()
    with training_together(work, size=2, folder=tmp_path, fatal=fatal.append) as group:
        work(group)
    found = [(tmp_path / f"process-{rank}").read_text() for rank in range(2)]
    assert found == [f"{name}, compiles: True" for name in said]
    assert not fatal
