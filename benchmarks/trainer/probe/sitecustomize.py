"""Writes down when each optimiser step of any trainer ended, and what GPU memory it had taken.

Python imports a module of this name by itself at every start; the benchmark puts its folder on
PYTHONPATH. Every trainer is measured by the same hook, so that none is asked how fast it was. A
line is written at once: a trainer may leave without the interpreter's farewell.
"""

import os
import sys
import threading
import time
from pathlib import Path

TARGET = os.environ.get("STEP_PROBE_FILE")
# Steps at which the GPU's queue is waited for, so that a rate between them is that of work done.
SYNCHRONISED = {int(step) for step in os.environ.get("STEP_PROBE_SYNC", "").split(",") if step}


def _watch(target: Path) -> None:
    count = 0

    def stepped(*_: object) -> None:
        nonlocal count
        count += 1
        cuda = sys.modules["torch"].cuda
        on_gpu = cuda.is_initialized()
        if on_gpu and count in SYNCHRONISED:
            cuda.synchronize()
        with target.open("a") as lines:
            lines.write(f"{time.time()} {cuda.max_memory_allocated() if on_gpu else 0}\n")

    def attach() -> None:
        # torch is imported late by every trainer; until then there is nothing to attach to.
        while not hasattr(
            sys.modules.get("torch.optim.optimizer"), "register_optimizer_step_post_hook"
        ):
            time.sleep(0.02)
        sys.modules["torch.optim.optimizer"].register_optimizer_step_post_hook(stepped)

    threading.Thread(target=attach, name="step-probe", daemon=True).start()


if TARGET:
    _watch(Path(TARGET))
