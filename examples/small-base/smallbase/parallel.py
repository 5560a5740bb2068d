"""Train with one single-threaded process per core instead of one process with many threads.

Measured on two cores: a step of the autoencoder takes 0.26 s with two threads and 0.10 s with two
processes, because layers this small spend their time waiting at the threads' barriers. Processes
meet once a step, which also makes other programs on the machine hurt less.
"""

import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.multiprocessing.spawn import spawn


def _worker(process: int, workers: int, meeting_point: str, train: Callable[[], None]) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{meeting_point}", rank=process, world_size=workers
    )
    try:
        train()
    finally:
        dist.destroy_process_group()


def run(train: Callable[[], None]) -> None:
    """Call `train` in one process per core; it can use this module's other functions.

    Args:
        train: a function or `functools.partial` that can be pickled.
    """
    workers = len(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory() as folder:
        meeting_point = str(Path(folder) / "meeting-point")
        spawn(_worker, (workers, meeting_point, train), nprocs=workers)  # type: ignore[no-untyped-call]


def rank() -> int:
    """This process's number; 0 logs and saves."""
    return dist.get_rank()


def share(value: float) -> float:
    """Give every process the value that process 0 has."""
    tensor = torch.tensor([value], dtype=torch.float64)
    dist.broadcast(tensor, 0)
    return float(tensor)


@torch.no_grad()
def average_gradients(parameters: list[nn.Parameter]) -> None:
    """Replace each gradient by its mean over the processes, in one message."""
    gradients: list[Tensor] = [p.grad for p in parameters if p.grad is not None]
    flat = torch.cat([g.reshape(-1) for g in gradients])
    dist.all_reduce(flat)
    flat /= dist.get_world_size()
    start = 0
    for gradient in gradients:
        gradient.copy_(flat[start : start + gradient.numel()].view_as(gradient))
        start += gradient.numel()
