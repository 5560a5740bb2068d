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
from lora_trainer.group import Arithmetic, Group
from lora_trainer.loop import Trainer
from lora_trainer.processes import training_together


def _two(job: AJob) -> AJob:
    return job.having("processes", 2).having("optimization.batchSize", 1)


# How a model is trained must not tell whether several processes do it.
WAYS: dict[str, dict[str, Any]] = {
    "as it is by default": {},
    "with its text encoder, in bf16, on a base of 8 bits": {
        "network.textEncoder": True,
        "optimization.precision": "bf16",
        "optimization.memory": "fp8",
    },
}


@pytest.mark.parametrize("name", WAYS)
def test_two_processes_end_with_the_bytes_of_one_with_twice_the_batches(
    name: str, job: AJob
) -> None:
    """The mean of two gradients is the same number, whoever computed them."""
    alike = job.having("optimization.batchSize", 1).with_steps(3)
    for path, value in WAYS[name].items():
        alike = alike.having(path, value)
    two = alike.having("processes", 2)
    code, result = two.run()
    assert code == ExitCode.OK, result.message
    one = alike.having("processes", 1)
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
    with training_together(
        work, Arithmetic(), size=2, folder=tmp_path, fatal=fatal.append
    ) as group:
        work(group)
    found = [(tmp_path / f"process-{rank}").read_text() for rank in range(2)]
    assert found == [f"{name}, compiles: True" for name in said]
    assert not fatal


def _steps(folder: Path, numbers: range, group: Group) -> None:
    """Train some weights, of which one is never used, from where an earlier group left them."""
    torch.manual_seed(1)
    # Larger than the first of the pieces in which gradients are averaged.
    weights = [torch.nn.Parameter(torch.randn(size)) for size in (500_000, 3, 700_000, 5)]
    kept = folder / "weights.pt"
    if kept.exists():
        for weight, value in zip(weights, torch.load(kept), strict=True):
            weight.data.copy_(value)
    forward = group.shared(weights)

    def loss() -> torch.Tensor:
        return torch.stack([(one.tanh() * torch.randn(1)).sum() for one in weights[:3]]).sum()

    for number in numbers:
        torch.manual_seed(100 * number + group.rank)
        for _ in range(2):
            with group.accumulating(forward):
                group.backward(forward(loss))
        for weight in weights:
            if weight.grad is not None:
                weight.data -= 0.01 * weight.grad
                weight.grad = None
    if group.leads:
        torch.save([weight.data for weight in weights], kept)


def _three(folder: Path, *turns: range) -> list[torch.Tensor]:
    """The weights after some steps of three processes, which end after each turn."""
    folder.mkdir()
    for numbers in turns:
        work, fatal = partial(_steps, folder, numbers), list[TrainerError]()
        with training_together(
            work, Arithmetic(accumulation=2), size=3, folder=folder, fatal=fatal.append
        ) as group:
            work(group)
    found: list[torch.Tensor] = torch.load(folder / "weights.pt")
    return found


def test_three_processes_that_go_on_later_end_with_the_same_bytes(tmp_path: Path) -> None:
    """The order of a sum of three matters, and must not depend on when the processes began."""
    whole = _three(tmp_path / "whole", range(4))
    halves = _three(tmp_path / "halves", range(2), range(2, 4))
    assert all(torch.equal(one, other) for one, other in zip(whole, halves, strict=True))
