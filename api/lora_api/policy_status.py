"""TrainingPolicy's status: who uses how much of what the policy grants.

A module of its own for the reason that a run's status is: another version may have written it, so
it is read with patience.
"""

from typing import Annotated

from pydantic import AwareDatetime, Field

from lora_api.base import Count, LenientDocument
from lora_api.policy import ComputedMoney, Money
from lora_api.status import Condition

MAX_LISTED = 100
Text = Annotated[str, Field(max_length=253)]
Month = Annotated[str, Field(max_length=7, pattern=r"^[0-9]{4}-[0-9]{2}$")]


class SpendingStatus(LenientDocument):
    """What the runs of this month have cost."""

    amount: ComputedMoney
    """Spent so far."""

    currency: Annotated[str, Field(max_length=3)] | None = None
    """In which currency it was counted."""

    budget: Money | None = None
    """Of how much, where there is a budget."""

    percent: Count | None = None
    """amount / budget in percent, rounded down."""


class UserUsage(LenientDocument):
    """What one user has used this month."""

    user: Text
    """spec.user of the runs."""

    trainings: Count = 0
    """Runs that count for the month."""

    running: Count = 0
    """Runs at work now."""

    gpus: Count = 0
    """GPUs that they hold now."""

    gpu_seconds: Count = 0
    """GPUs times seconds that pods held them this month."""

    cost: ComputedMoney = "0"
    """What that cost."""


class RunningStatus(LenientDocument):
    """A run at work."""

    name: Text
    """Name of the run."""

    user: Text = ""
    """On whose behalf."""

    gpus: Count = 0
    """GPUs that it holds."""


class WaitingStatus(LenientDocument):
    """A run in the queue."""

    name: Text
    """Name of the run."""

    user: Text = ""
    """On whose behalf."""

    gpus: Count = 0
    """GPUs that it needs."""

    position: Count
    """Place in the queue, from 1."""


class TrainingPolicyStatus(LenientDocument):
    """How the namespace stands against its policy."""

    observed_generation: Count | None = None
    """metadata.generation that this was derived from."""

    conditions: Annotated[tuple[Condition, ...], Field(max_length=8)] = ()
    """Acting: whether this is the policy that holds, which is the one named default; and if nothing
    can be decided by it, why."""

    month: Month | None = None
    """The month (UTC) that usage and spending are of."""

    next_reset: AwareDatetime | None = None
    """When the monthly counts begin anew."""

    trainings: Count = 0
    """Runs of all users that count for the month."""

    gpus_in_use: Count = 0
    """GPUs that runs hold now."""

    running_count: Count = 0
    """Runs at work now."""

    waiting_count: Count = 0
    """Runs in the queue now."""

    spending: SpendingStatus | None = None
    """What the runs of this month have cost."""

    previous_spending: SpendingStatus | None = None
    """What the runs of the month before have cost: some of them may still be at work."""

    users: Annotated[tuple[UserUsage, ...], Field(max_length=MAX_LISTED)] = ()
    """Usage by user, those with the most runs first; at most 100."""

    running: Annotated[tuple[RunningStatus, ...], Field(max_length=MAX_LISTED)] = ()
    """Who runs; at most 100."""

    waiting: Annotated[tuple[WaitingStatus, ...], Field(max_length=MAX_LISTED)] = ()
    """Who waits, in the order of the queue; at most 100."""
