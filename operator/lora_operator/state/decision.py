"""What a look at a run leads to: actions, a status, events, and when to look again.

A module of its own because it holds the promises that no single rule should have to think of:
transition times are honest, an unchanged status is not written, messages have a bound.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Literal

from lora_api.reasons import Reason
from lora_api.status import (
    ArtifactStatus,
    Condition,
    ConditionType,
    FailureStatus,
    LoRATrainingStatus,
    Phase,
    ProgressStatus,
    ValidationStatus,
)
from lora_operator.state.text import clip
from lora_operator.state.views import Observed

Truth = Literal["True", "False", "Unknown"]


class Action(StrEnum):
    """What the operator may do to the cluster, besides writing the status."""

    CREATE_WORKSPACE = "CreateWorkspace"
    CREATE_JOB = "CreateJob"


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
    """What to create, in this order; a refusal ends the sequence."""

    events: tuple[Event, ...] = ()
    """What to tell once the status is written."""

    revisit_at: datetime | None = None
    """When to look again even if nothing is heard."""

    @property
    def ends_run(self) -> bool:
        """Whether the status to write is a terminal one, and so can't be taken back."""
        return self.status is not None and is_terminal(self.status)


def is_terminal(status: LoRATrainingStatus) -> bool:
    """Whether the run has ended."""
    return status.phase is not None and status.phase.is_terminal


class Draft:
    """The status in the making: starts as the stored one, rules change it, `decision` compares."""

    def __init__(self, seen: Observed, now: datetime) -> None:
        """Begin with what is stored; conditions never seen before are Unknown."""
        # Kubernetes keeps whole seconds; anything finer would differ from what is stored.
        self.now = now.replace(microsecond=0)
        self.stored = seen.run.status
        self.phase = self.stored.phase or Phase.PENDING
        self.message = self.stored.message or ""
        self.progress: ProgressStatus | None = self.stored.progress
        self.attempts = self.stored.attempts
        self.started_at = self.stored.started_at
        self.completed_at = self.stored.completed_at
        self.job_name = self.stored.job_name
        self.pod_name = self.stored.pod_name
        self.node_name = self.stored.node_name
        self.artifact: ArtifactStatus | None = self.stored.artifact
        self.validation: ValidationStatus | None = self.stored.validation
        self.failure: FailureStatus | None = self.stored.failure
        self._generation = seen.run.generation
        self._conditions = {
            kind: Condition(
                type=kind,
                status="Unknown",
                reason=Reason.NOT_STARTED,
                observed_generation=seen.run.generation,
                last_transition_time=self.now,
            )
            for kind in ConditionType
        } | {condition.type: condition for condition in self.stored.conditions}
        # A rule may correct what an earlier one stated, so transitions are told by what was stored.
        self._before = dict(self._conditions)
        self._actions: list[Action] = []
        self._revisit_at: datetime | None = None
        self._untouched = False

    def leave_untouched(self) -> None:
        """Nothing about this run may change any more."""
        self._untouched = True

    def set(self, kind: ConditionType, truth: Truth, reason: str, message: str = "") -> None:
        """State one condition; its transition time moves only when `truth` does."""
        known = self._before[kind]
        self._conditions[kind] = Condition(
            type=kind,
            status=truth,
            reason=reason,
            message=clip(message),
            observed_generation=self._generation,
            last_transition_time=(
                known.last_transition_time if known.status == truth else self.now
            ),
        )

    def condition(self, kind: ConditionType) -> Condition:
        """A condition as it stands in this draft."""
        return self._conditions[kind]

    def do(self, action: Action) -> None:
        """Ask for an action."""
        self._actions.append(action)

    def revisit_in(self, seconds: float) -> None:
        """Ask for another look; the earliest wish counts."""
        wish = self.now + timedelta(seconds=seconds)
        if self._revisit_at is None or wish < self._revisit_at:
            self._revisit_at = wish

    def wait(self, phase: Phase, reason: Reason, message: str) -> None:
        """The trainer does not run yet, or not at this moment; say why."""
        self.phase = phase
        self.message = message
        self.set(ConditionType.RUNNING, "False", reason, message)
        self.set(ConditionType.SUCCEEDED, "Unknown", reason, message)

    def fail(self, failure: FailureStatus, *, at: datetime | None = None) -> None:
        """The run ends here, badly."""
        reason, message = failure.reason, failure.message
        self.phase = Phase.FAILED
        self.message = message
        self.failure = failure
        self.completed_at = (at or self.now).replace(microsecond=0)
        self.set(ConditionType.RUNNING, "False", reason, message)
        for kind in (ConditionType.ARTIFACT_STORED, ConditionType.VALIDATED):
            if self.condition(kind).status != "True":
                self.set(kind, "False", reason)
        self.set(ConditionType.SUCCEEDED, "False", reason, message)

    def decision(self) -> Decision:
        """Close the draft."""
        if self._untouched:
            return Decision(status=None)
        status = self._status()
        return Decision(
            status=None if status == self.stored else status,
            actions=tuple(self._actions),
            events=_events(self.stored, status),
            revisit_at=self._revisit_at,
        )

    def _status(self) -> LoRATrainingStatus:
        moved = self.phase != self.stored.phase
        return self.stored.model_copy(
            update={
                "observed_generation": self._generation,
                "phase": self.phase,
                "phase_started_at": self.now if moved else self.stored.phase_started_at,
                "message": clip(self.message),
                "conditions": tuple(self._conditions.values()),
                "progress": self.progress,
                "attempts": self.attempts,
                "started_at": self.started_at,
                "completed_at": self.completed_at,
                "job_name": self.job_name,
                "pod_name": self.pod_name,
                "node_name": self.node_name,
                "artifact": self.artifact,
                "validation": self.validation,
                "failure": self.failure,
            }
        )


def _events(old: LoRATrainingStatus, new: LoRATrainingStatus) -> tuple[Event, ...]:
    """One event where the phase or the reason of waiting changed; progress is not news."""
    reason = _summary_reason(new)
    if new.phase == old.phase and reason == _summary_reason(old):
        return ()
    trouble = new.phase is Phase.FAILED or reason not in _HEALTHY
    return (
        Event(
            kind="Warning" if trouble else "Normal",
            reason=reason if trouble else str(new.phase),
            message=new.message or "",
        ),
    )


_HEALTHY = frozenset(
    {
        Reason.NOT_STARTED,
        Reason.WORKSPACE_PENDING,
        Reason.PREDECESSOR_TERMINATING,
        Reason.POD_PENDING,
        Reason.POD_STARTING,
        Reason.RUNNING,
        Reason.COMPLETED,
    }
)


def _summary_reason(status: LoRATrainingStatus) -> str:
    for condition in status.conditions:
        if condition.type == ConditionType.SUCCEEDED:
            return condition.reason
    return ""
