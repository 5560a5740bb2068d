"""The processes that train together, as the loop sees them: one, or one per GPU.

A module of its own because it is all that the trainer knows of accelerate, which says where a
process computes, casts, averages gradients (DistributedDataParallel) and gathers figures. The
loop reads the same for one process and for eight.

What of accelerate is left out, and why:

- Its fp16: it comes with PyTorch's GradScaler, which asks the device at every step whether to
  apply the update, so that the host waits; and on a CPU it casts nothing. See scaling.py.
- Its wrapper around the optimiser, for the same reason: whether a step is applied is not known
  to the host. See update.py.
- Its flag for stopping early (`check_trigger`), which lies on the device, too.
- Preparing the model. The wrapper would hold a frozen base of gigabytes, broadcast it, and rename
  its tensors; it gets the trained parameters alone.
"""

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState
from accelerate.utils import (
    DistributedDataParallelKwargs,
    check_cuda_p2p_ib_support,
    patch_environment,
)

from lora_api.settings import Precision

Compute = Callable[[], torch.Tensor]


@dataclass(frozen=True, kw_only=True, slots=True)
class Arithmetic:
    """How the gradients of a step are computed; the same in every process."""

    precision: Precision = Precision.FP32
    """Of the forward pass, never `auto`."""

    accumulation: int = 1
    """Batches of one step and process."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Group:
    """This process among those that train together."""

    accelerator: Any
    """Of this process."""

    precision: Precision
    """Of the forward pass."""

    @property
    def rank(self) -> int:
        """Number of this process, from 0; the first one saves, serves and publishes."""
        return int(self.accelerator.process_index)

    @property
    def size(self) -> int:
        """How many there are."""
        return int(self.accelerator.num_processes)

    @property
    def device(self) -> torch.device:
        """Where this process computes."""
        device: torch.device = self.accelerator.device
        return device

    @property
    def leads(self) -> bool:
        """Whether this is the process that saves and reports."""
        return bool(self.accelerator.is_main_process)

    def autocast(self) -> AbstractContextManager[None]:
        """In here the forward pass is computed in its precision."""
        if self.precision is Precision.FP16:
            return torch.autocast(self.device.type, torch.float16)
        casting: AbstractContextManager[None] = self.accelerator.autocast()
        return casting

    def shared(self, parameters: Iterable[torch.nn.Parameter]) -> torch.nn.Module:
        """A way to compute losses whose gradients are averaged over the processes.

        All processes must ask at the same place: they agree on the values that they begin with.

        Args:
            parameters: All that will have gradients; in float32, in the same order everywhere.

        Returns:
            What is called with a function that computes losses, and returns these.
        """
        module: torch.nn.Module = self.accelerator.prepare_model(Trained(parameters))
        return module

    def accumulating(self, module: torch.nn.Module) -> AbstractContextManager[None]:
        """In here one batch is computed; gradients are averaged with the last one of a step.

        Args:
            module: What `shared` returned.
        """
        batch: AbstractContextManager[None] = self.accelerator.accumulate(module)
        return batch

    def backward(self, loss: torch.Tensor) -> None:
        """Add a batch's part to the gradients of the step's mean loss."""
        self.accelerator.backward(loss)

    def gather(self, values: torch.Tensor) -> torch.Tensor:
        """The values of all processes, one after the other.

        Args:
            values: One-dimensional, as many everywhere.
        """
        gathered: torch.Tensor = self.accelerator.gather(values)
        return gathered

    def anyone(self, flag: bool) -> bool:
        """Whether the flag is set in any process; all must ask at the same place."""
        if self.size == 1:
            return flag
        mine = torch.tensor(float(flag))  # on the CPU: asking must not wait for the device
        return bool(self.accelerator.reduce(mine, "max"))


class Trained(torch.nn.Module):
    """The parameters that are trained, as a module whose forward pass is whatever it is given.

    Args:
        parameters: In the order in which the forward pass needs them, for the averaging to begin
            with the last ones.
    """

    def __init__(self, parameters: Iterable[torch.nn.Parameter]) -> None:
        super().__init__()
        self.trained = torch.nn.ParameterList(parameters)

    def forward(self, compute: Compute) -> torch.Tensor:
        """What `compute` returns."""
        return compute()


@contextmanager
def accelerated(
    arithmetic: Arithmetic | None = None, *, rank: int = 0, size: int = 1
) -> Iterator[Group]:
    """A group, for one training.

    accelerate keeps process and precision in variables of the interpreter and refuses to change
    them; a run may train more than once (an expert after the other, a rung of the memory ladder
    after the other), so they are forgotten before and after.

    Args:
        arithmetic: How gradients are computed.
        rank: Number of this process.
        size: How many there are; if several, torch.distributed has joined them already.
    """
    how = arithmetic or Arithmetic()
    _forget()
    _avoid_broken_links()
    # Only one process of several has a local rank. A pod's own variables are about other things.
    numbers = {"rank": rank, "local_rank": rank if size > 1 else -1}
    numbers |= {"world_size": size, "local_world_size": size, "master_port": 29500}
    with patch_environment(**numbers):
        accelerator = Accelerator(
            cpu=not torch.cuda.is_available(),
            mixed_precision="bf16" if how.precision is Precision.BF16 else "no",
            gradient_accumulation_steps=how.accumulation,
            kwargs_handlers=[
                DistributedDataParallelKwargs(
                    # A job may name layers that a model has and doesn't use, and the last layer
                    # of a text encoder often is one. It also keeps the order of the sums the same
                    # from the first step on; else it changes with the second, and of three
                    # processes a resumed run could end with other bytes.
                    find_unused_parameters=True,
                    gradient_as_bucket_view=True,
                )
            ],
        )
    try:
        yield Group(accelerator=accelerator, precision=how.precision)
    finally:
        _forget()


def _forget() -> None:
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()


def _avoid_broken_links() -> None:
    """Let consumer GPUs with an old driver talk through the host: accelerate refuses them else."""
    if torch.cuda.device_count() > 1 and not check_cuda_p2p_ib_support():
        os.environ |= {"NCCL_P2P_DISABLE": "1", "NCCL_IB_DISABLE": "1"}
