"""TrainingLedger: what the runs of one namespace and month used, kept after the runs are gone.

A module of its own because it is no wish of anybody's: the operator alone writes it, and reads it
back after a crash.
"""

from enum import StrEnum
from typing import Annotated

from pydantic import AwareDatetime, Field

from lora_api.base import Count, LenientDocument
from lora_api.policy import ComputedMoney
from lora_api.policy_status import Month, Text

LEDGER_KIND = "TrainingLedger"
LEDGER_PLURAL = "trainingledgers"
MAX_OPEN_RUNS = 4000
MAX_USERS = 2000
MAX_SPEEDS = 64
# Those three alone would let long names of users fill more than the 1.5 MiB that etcd takes at
# once. What is left up to there is for metadata, and for a thousand runs that completed at once.
MAX_LEDGER_BYTES = 1_400_000
# What a row takes as JSON, at numbers as large as a month of training makes them: a run without
# names and timing, its timing, a user's sum without the name, a speed.
RUN_BYTES = 230
MEASURE_BYTES = 140
USER_BYTES = 90
SPEED_BYTES = 260
GpuProduct = Annotated[str, Field(max_length=63)]


class RunState(StrEnum):
    """Where a run stands, as far as counting goes."""

    WAITING = "Waiting"
    """Admitted and in the queue: it has its place in the month, and holds no GPU."""

    RUNNING = "Running"
    """It was let go, and holds GPUs or is about to."""

    COUNTED = "Counted"
    """It ended, and keeps its place."""

    RETURNED = "Returned"
    """It ended in a way that gives its place back: failed, refused, cancelled before any step."""


class LedgerMeasure(LenientDocument):
    """The training of a run that completed, as it was timed."""

    product: GpuProduct = ""
    """Name of the GPUs, by the label of their node."""

    work: Count = 0
    """Blocks of 64 x 64 pixels that each GPU worked through."""

    train_seconds: Count = 0
    """Seconds of optimiser steps."""


class LedgerRun(LenientDocument):
    """A run that is not yet summed up."""

    uid: Annotated[str, Field(min_length=1, max_length=64)]
    """metadata.uid of the run: the same run is never counted twice."""

    user: Text = ""
    """On whose behalf."""

    recipe: Annotated[str, Field(max_length=63)] = ""
    """spec.recipe of the run."""

    state: RunState
    """Where it stands."""

    gpus: Annotated[int, Field(ge=0, le=16)] = 0
    """GPUs that it holds or needs."""

    gpu_seconds: Count = 0
    """GPU-seconds that are paid for."""

    steps: Count = 0
    """Optimiser steps done."""

    cost: ComputedMoney = "0"
    """What they cost."""

    estimate: ComputedMoney | None = None
    """What the whole run was estimated to cost when it was admitted."""

    queued_at: AwareDatetime | None = None
    """Since when it waits, where that is not its creation: its user had suspended it before."""

    measured: LedgerMeasure | None = None
    """How long its training took, once it has completed."""


class LedgerUser(LenientDocument):
    """The sum of a user's runs that ended."""

    user: Text
    """spec.user of the runs."""

    trainings: Count = 0
    """Runs that keep their place in the month."""

    gpu_seconds: Count = 0
    """GPU-seconds of all runs, failed ones included."""

    cost: ComputedMoney = "0"
    """What they cost."""


class LedgerSpeed(LenientDocument):
    """What completed runs of a recipe needed on one kind of GPU, for estimates."""

    recipe: Annotated[str, Field(max_length=63)]
    """The recipe."""

    product: GpuProduct = ""
    """Name of the GPUs, by the label of their node; empty where that can't be read."""

    runs: Count = 0
    """Completed runs that were measured."""

    work: Count = 0
    """Blocks of 64 x 64 pixels that each of their GPUs worked through: steps x pixels x batch."""

    train_seconds: Count = 0
    """Seconds of their optimiser steps."""

    other_seconds: Count = 0
    """Further seconds with GPUs: image pull, data, checks, samples, storing."""


class TrainingLedgerSpec(LenientDocument):
    """The facts of one month."""

    month: Month
    """The month (UTC) in which the runs were created."""

    currency: Annotated[str, Field(max_length=3)] | None = None
    """Of the amounts: they keep it, whatever becomes of the policy's."""

    runs: Annotated[tuple[LedgerRun, ...], Field(max_length=MAX_OPEN_RUNS)] = ()
    """Runs that are not yet summed up."""

    users: Annotated[tuple[LedgerUser, ...], Field(max_length=MAX_USERS)] = ()
    """Sums by user of the others."""

    speeds: Annotated[tuple[LedgerSpeed, ...], Field(max_length=MAX_SPEEDS)] = ()
    """What completed runs needed, by recipe and GPU."""
