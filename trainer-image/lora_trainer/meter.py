"""What the GPU says of itself: memory held at most, and how busy it is.

A module of its own because it is asked from threads that must neither import torch nor wake a
device: it tells only what is there already.
"""

import sys
import time
from threading import Lock
from typing import Any

# NVML is asked at most this often, however many ask.
_SECONDS_BETWEEN_LOOKS = 1.0


class Meter:
    """Reads the process's GPU; everything is None where there is none."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._looked_at = -_SECONDS_BETWEEN_LOOKS
        self._utilization: int | None = None
        self._broken = False

    @property
    def peak_bytes(self) -> int | None:
        """Most memory that torch has reserved on the GPU so far."""
        torch = _torch_with_gpu()
        return None if torch is None else int(torch.cuda.max_memory_reserved())

    @property
    def utilization_percent(self) -> int | None:
        """How busy the GPU was just now."""
        torch = _torch_with_gpu()
        if torch is None or self._broken:
            return None
        with self._lock:
            if time.monotonic() - self._looked_at >= _SECONDS_BETWEEN_LOOKS:
                try:
                    self._utilization = min(100, max(0, int(torch.cuda.utilization())))
                except Exception:  # no NVML on this machine: a figure less, not a run less
                    self._broken = True
                    self._utilization = None
                self._looked_at = time.monotonic()
            return self._utilization


def _torch_with_gpu() -> Any | None:
    """torch, where the run has imported it and put something on a GPU."""
    torch = sys.modules.get("torch")
    # While it is being imported, the module is there before its parts are.
    cuda = getattr(torch, "cuda", None)
    initialized = getattr(cuda, "is_initialized", None)
    return torch if initialized is not None and initialized() else None
