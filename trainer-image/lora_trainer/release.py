"""What no variable holds any more leaves the process and its device.

A module of its own because several stages end by it, and nothing does it by itself: Python keeps
what refers to itself, the C library keeps freed memory for the next call, torch keeps the GPU's.
Whoever counts a process's memory counts all of that, and so does the limit of a container.
"""

import ctypes
import gc

import torch


def release(device: torch.device) -> None:
    """Collect, and hand freed memory back.

    Args:
        device: Where models were.
    """
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's; others need none
    if trim is not None:
        trim(0)
    if device.type == "cuda":
        torch.cuda.empty_cache()
