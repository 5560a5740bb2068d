"""What a look at a run leads to: actions, a status, events, and when to look again.

A module of its own because who acts and who writes need these words, and nothing of how a decision
comes about.
"""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Literal

from lora_api.reasons import Reason
from lora_api.status import ConditionType, LoRATrainingStatus, Phase


class Action(StrEnum):
    """What the operator may do to the cluster, besides writing the status."""

    CREATE_WORKSPACE = "CreateWorkspace"
    CREATE_JOB = "CreateJob"
    SUSPEND_JOB = "SuspendJob"
    RESUME_JOB = "ResumeJob"
    RESUME_ERRAND = "ResumeErrand"
    EVICT_POD = "EvictPod"
    CREATE_UPLOAD_JOB = "CreateUploadJob"
    CREATE_PARTIAL_JOB = "CreatePartialJob"
    CREATE_TIDY_JOB = "CreateTidyJob"
    DELETE_JOB = "DeleteJob"
    DELETE_OTHER_JOBS = "DeleteOtherJobs"
    DELETE_UPLOAD_JOB = "DeleteUploadJob"
    DELETE_PARTIAL_JOB = "DeletePartialJob"
    DELETE_TIDY_JOB = "DeleteTidyJob"
    DELETE_WORKSPACE = "DeleteWorkspace"
    DELETE_RUN = "DeleteRun"

    @property
    def only_adds(self) -> bool:
        """Whether it can't harm what exists, whatever the cache did not know."""
        return self in {Action.CREATE_WORKSPACE, Action.CREATE_JOB}


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One line for `kubectl describe`; written after the status it tells of."""

    kind: Literal["Normal", "Warning"]
    reason: str
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """The outcome of `decide`."""

    status: LoRATrainingStatus | None
    """The status to write; None where the stored one is already right."""

    actions: tuple[Action, ...] = ()
    """What to do, in this order; a refusal ends the sequence."""

    events: tuple[Event, ...] = ()
    """What to tell once the status is written."""

    revisit_at: datetime | None = None
    """When to look again even if nothing is heard."""

    @property
    def ends_run(self) -> bool:
        """Whether the status to write is a terminal one, and so can't be taken back."""
        return self.status is not None and is_terminal(self.status)


def is_terminal(status: LoRATrainingStatus) -> bool:
    """Whether the run has ended.

    The conditions decide and not the phase, so that a phase that somebody else wrote is put right.
    """
    return status.completed_at is not None and any(
        condition.type == ConditionType.SUCCEEDED and condition.status != "Unknown"
        for condition in status.conditions
    )


def events_between(old: LoRATrainingStatus, new: LoRATrainingStatus) -> tuple[Event, ...]:
    """One event where the phase or the reason of waiting changed; progress is not news."""
    reason = _summary_reason(new)
    if new.phase == old.phase and reason == _summary_reason(old):
        return ()
    trouble = new.phase is Phase.FAILED or reason not in HEALTHY
    return (
        Event(
            kind="Warning" if trouble else "Normal",
            reason=reason if trouble else str(new.phase),
            message=new.message or "",
        ),
    )


HEALTHY = frozenset(
    {
        Reason.NOT_STARTED,
        Reason.WORKSPACE_PENDING,
        Reason.PREDECESSOR_TERMINATING,
        Reason.POD_PENDING,
        Reason.POD_STARTING,
        Reason.RUNNING,
        Reason.TRAINING,
        Reason.VALIDATING,
        Reason.UPLOADING,
        Reason.FINISHING,
        Reason.COMPLETED,
        Reason.SUSPENDING,
        Reason.SUSPENDED,
        Reason.QUEUED,
        Reason.CANCELLING,
        Reason.CANCELLED,
    }
)


def _summary_reason(status: LoRATrainingStatus) -> str:
    for condition in status.conditions:
        if condition.type == ConditionType.SUCCEEDED:
            return condition.reason
    return ""
