"""Writes down when each optimiser step of any trainer ended, and what memory the process took.

Python imports a module of this name by itself at every start; the benchmark puts its folder on
PYTHONPATH. Every trainer is measured by the same hook, so that none is asked how fast it was.
"""

import atexit
import json
import os
import sys
import threading
import time
from pathlib import Path

TARGET = os.environ.get("STEP_PROBE_FILE")


def _watch(target: Path) -> None:
    stamps: list[float] = []

    def stepped(*_: object) -> None:
        stamps.append(time.time())

    def keep() -> None:
        torch = sys.modules.get("torch")
        gpu = torch.cuda.max_memory_allocated() if torch and torch.cuda.is_initialized() else None
        target.write_text(json.dumps({"steps": stamps, "gpu_bytes": gpu}))

    def attach() -> None:
        # torch is imported late by every trainer; until then there is nothing to attach to.
        while not hasattr(
            sys.modules.get("torch.optim.optimizer"), "register_optimizer_step_post_hook"
        ):
            time.sleep(0.02)
        sys.modules["torch.optim.optimizer"].register_optimizer_step_post_hook(stepped)

    atexit.register(keep)
    threading.Thread(target=attach, name="step-probe", daemon=True).start()


if TARGET:
    _watch(Path(TARGET))
