"""The processes that train together, as the loop sees them: one, or one per GPU.

A module of its own so that the loop reads the same for one process and for eight. A LoRA's
gradients are small (tens of megabytes), so they are averaged in one piece after the backward
pass: no wrapper around the model, and the result is that of one process with as many batches
more to accumulate. accelerate's wrapper is as fast on CPUs and ends with the same bytes
(docs/measurements.md, "Beside accelerate").
"""

from dataclasses import dataclass, field

import torch
import torch.distributed as dist


@dataclass(frozen=True, kw_only=True, slots=True)
class Group:
    """This process among those that train together."""

    rank: int = 0
    """Number of this process, from 0; the first one saves, serves and publishes."""

    size: int = 1
    """How many there are."""

    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    """Where this process computes."""

    @property
    def leads(self) -> bool:
        """Whether this is the process that saves and reports."""
        return self.rank == 0

    def average(self, gradients: list[torch.Tensor]) -> None:
        """Replace gradients by their mean over the processes.

        Args:
            gradients: In the same order everywhere, in float32.
        """
        if self.size == 1:
            return
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        dist.all_reduce(flat)
        flat /= self.size
        parts = torch.split(flat, [gradient.numel() for gradient in gradients])
        for gradient, part in zip(gradients, parts, strict=True):
            gradient.copy_(part.view_as(gradient))

    def gather(self, values: torch.Tensor) -> torch.Tensor:
        """The values of all processes, one after the other.

        Args:
            values: One-dimensional, as many everywhere.
        """
        if self.size == 1:
            return values
        found = [torch.empty_like(values) for _ in range(self.size)]
        dist.all_gather(found, values.contiguous())
        return torch.cat(found)

    def anyone(self, flag: bool) -> bool:
        """Whether the flag is set in any process; all must ask at the same place."""
        if self.size == 1:
            return flag
        answer = torch.tensor(float(flag))  # on the CPU: asking must not wait for the device
        dist.all_reduce(answer, op=dist.ReduceOp.MAX)
        return bool(answer)
