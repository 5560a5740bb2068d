"""The document behind the trainer's /progress.

A module of its own because it is the one thing that a running pod can make the operator read:
its bounds, and MAX_PROGRESS_BYTES, are the operator's protection.
"""

from enum import StrEnum
from typing import Annotated

from pydantic import AwareDatetime, Field

from lora_api.base import LearningRate, LenientDocument, Loss

MAX_PROGRESS_BYTES = 16 * 1024
# No run has more: the longest job is refused before it could.
MAX_STEPS = 100_000_000
MAX_STEPS_PER_SECOND = 1e6
MAX_ETA_SECONDS = 1e9
# The first piece of a stage includes what can't be told in pieces: weights are read from a slow
# volume, kernels are compiled, an encoder of ten gigabytes is loaded.
FIRST_PIECE_SECONDS = 1800.0


class Stage(StrEnum):
    """The trainer's stages, in order."""

    PLAN = "Plan"
    FETCH = "Fetch"
    VALIDATE = "Validate"
    LOAD = "Load"
    CACHE = "Cache"
    TRAIN = "Train"
    SAVE = "Save"
    SAMPLE = "Sample"
    PUBLISH = "Publish"
    DONE = "Done"


class Progress(LenientDocument):
    """How far the trainer has come, at one moment."""

    stage: Stage
    """What it is doing."""

    stage_percent: Annotated[float, Field(ge=0, le=100)] = 0.0
    """How much of the stage is done."""

    percent: Annotated[float, Field(ge=0, le=100)] = 0.0
    """How much of the whole run is done, by the usual shares of its stages."""

    step: Annotated[int, Field(ge=0, le=MAX_STEPS)] = 0
    """Optimiser steps done."""

    total_steps: Annotated[int, Field(ge=0, le=MAX_STEPS)] = 0
    """Optimiser steps in all."""

    epoch: Annotated[int, Field(ge=0, le=MAX_STEPS)] | None = None
    """Pass over the training pictures that the last step belongs to, from 1."""

    loss: Loss | None = None
    """Training loss, smoothed over about 20 steps."""

    learning_rate: LearningRate | None = None
    """Learning rate of the last step."""

    steps_per_second: (
        Annotated[float, Field(ge=0, le=MAX_STEPS_PER_SECOND, allow_inf_nan=False)] | None
    ) = None
    """Speed in the steady state: warm-up, compiling, drawing and checkpoints don't count."""

    eta_seconds: Annotated[float, Field(ge=0, le=MAX_ETA_SECONDS, allow_inf_nan=False)] | None = (
        None
    )
    """Seconds until the last step, at that speed."""

    gpu_peak_bytes: Annotated[int, Field(ge=0, le=2**53 - 1)] | None = None
    """Most GPU memory that the process has held so far; absent on a CPU."""

    gpu_utilization_percent: Annotated[int, Field(ge=0, le=100)] | None = None
    """Share of the last second in which the GPU was busy; absent on a CPU."""

    updated_at: AwareDatetime
    """When this was true (UTC)."""


def stall_allowance(
    stage_percent: float,
    *,
    timeout_seconds: float,
    first_piece_seconds: float = FIRST_PIECE_SECONDS,
) -> float:
    """Seconds without a sign of life that are no stall; trainer and operator go by the same.

    Args:
        stage_percent: How much of the present stage is done.
        timeout_seconds: What the job allows.
        first_piece_seconds: What the first piece of a stage may take at least.
    """
    if stage_percent == 0.0:
        return max(timeout_seconds, first_piece_seconds)
    return timeout_seconds
