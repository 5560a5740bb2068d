"""What every stage of a run gets to see.

A module of its own so that a stage's signature names its data, and not the five things that all
of them share.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass

from lora_trainer.errors import TrainerError
from lora_trainer.plan import Plan
from lora_trainer.progress import ProgressBoard
from lora_trainer.stopping import StopFlag
from lora_trainer.workspace import Workspace


@dataclass(frozen=True, kw_only=True, slots=True)
class Context:
    """One run, as its stages see it."""

    plan: Plan
    """The job with its defaults filled in."""

    workspace: Workspace
    """Its folder."""

    board: ProgressBoard
    """Its progress."""

    stop: StopFlag
    """Whether it was asked to stop."""

    started: float
    """time.time() at which the process started."""

    keep_safe: Callable[[], None] = lambda: None
    """Told that something in the workspace is worth a copy elsewhere."""

    fatal: Callable[[TrainerError], None] = lambda _: None
    """Ends the process with this failure at once, from any thread; for a main thread that hangs."""

    def seconds_since_start(self) -> float:
        """Wall-clock seconds since the process started."""
        return round(time.time() - self.started, 3)
