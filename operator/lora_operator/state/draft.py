"""The status in the making: what the rules write into, and what keeps their promises for them.

A module of its own because it holds what no single rule should have to think of: transition times
are honest, the phase follows from the conditions, an unchanged status is not written, messages have
a bound.
"""

from datetime import datetime, timedelta
from typing import Literal

from lora_api.reasons import Reason
from lora_api.status import (
    ArtifactStatus,
    AttemptStatus,
    Condition,
    ConditionType,
    FailureStatus,
    LoRATrainingStatus,
    PartialStatus,
    Phase,
    ProgressStatus,
    TimelineStatus,
    TrainedStatus,
    UploadStatus,
    ValidationStatus,
)
from lora_operator.state.decision import Action, Decision, Event, events_between
from lora_operator.state.phase import is_reconciling, phase_of
from lora_operator.state.text import clip
from lora_operator.state.timeline import Part, advance, part_of
from lora_operator.state.views import Observed

Truth = Literal["True", "False", "Unknown"]


class Draft:
    """Starts as the stored status; rules change it, `decision` compares."""

    def __init__(self, seen: Observed, now: datetime) -> None:
        """Begin with what is stored; conditions never seen before are Unknown."""
        # Kubernetes keeps whole seconds; anything finer would differ from what is stored.
        self.now = now.replace(microsecond=0)
        self.stored = stored = seen.run.status
        self.message = stored.message or ""
        self.progress: ProgressStatus | None = stored.progress
        self.attempts = stored.attempts
        self.recent_attempts: tuple[AttemptStatus, ...] = stored.recent_attempts
        self.stalls = stored.stalls
        self.started_at = stored.started_at
        self.completed_at = stored.completed_at
        self.job_name = stored.job_name
        self.job_number = stored.job_number
        self.memory = stored.memory
        self.pod_name = stored.pod_name
        self.node_name = stored.node_name
        self.cost = stored.cost
        self.output_uri = stored.output_uri
        self.artifact: ArtifactStatus | None = stored.artifact
        self.trained: TrainedStatus | None = stored.trained
        self.upload: UploadStatus | None = stored.upload
        self.partial: PartialStatus | None = stored.partial
        self.workspace_copy_removed_at = stored.workspace_copy_removed_at
        self.validation: ValidationStatus | None = stored.validation
        self.failure: FailureStatus | None = stored.failure
        self._seen = seen
        self._generation = seen.run.generation
        self._conditions = {
            str(kind): Condition(
                type=kind,
                status="Unknown",
                reason=Reason.NOT_STARTED,
                observed_generation=seen.run.generation,
                last_transition_time=self.now,
            )
            for kind in ConditionType
        } | {condition.type: condition for condition in stored.conditions}
        # A rule may correct what an earlier one stated, so transitions are told by what was stored.
        self._before = dict(self._conditions)
        self._actions: list[Action] = []
        self._revisit_at: datetime | None = None
        self._untouched = False
        self._acknowledged = False

    @property
    def phase(self) -> Phase:
        """The phase that the conditions, as they stand, amount to."""
        return phase_of(self._conditions, self.stored.phase)

    @property
    def pending_since(self) -> datetime | None:
        """When the present wait before any pod began; None where it begins now."""
        is_pending = self.stored.phase is Phase.PENDING
        return self.stored.phase_started_at if is_pending else None

    def leave_untouched(self) -> None:
        """No word about this run may change."""
        self._untouched = True

    def acknowledge(self) -> None:
        """No word about this run may change any more, but its spec's latest change was seen.

        Tools that compare generations would call a run that has ended unfinished for ever.
        """
        self._acknowledged = True

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
        wish = self.now + timedelta(seconds=max(0.0, seconds))
        if self._revisit_at is None or wish < self._revisit_at:
            self._revisit_at = wish

    def wait(self, reason: Reason, message: str) -> None:
        """The trainer does not run yet, or not at this moment; say why."""
        self.message = message
        self.set(ConditionType.RUNNING, "False", reason, message)
        self.set(ConditionType.SUCCEEDED, "Unknown", reason, message)

    def hold_back(self, reason: Reason, message: str) -> None:
        """The run is held back, by its user or by a queue; it holds nothing meanwhile."""
        self.wait(reason, message)
        self.set(ConditionType.SUSPENDED, "True", reason, message)

    def start_over(self, reason: Reason, message: str) -> None:
        """The Job can't go on, the run can: another Job is made for it at the next look."""
        self.job_number = self._seen.run.job_number + 1
        self.wait(reason, message)
        self.revisit_in(0)

    def fail(self, failure: FailureStatus, *, at: datetime | None = None) -> None:
        """The run ends here, badly."""
        self.failure = failure
        self._end("False", failure.reason, failure.message, at)

    def cancel(self, message: str) -> None:
        """The run ends here, because its user wants it to."""
        self.failure = None
        self._end("False", Reason.CANCELLED, message, None)

    def complete(self, message: str, *, at: datetime) -> None:
        """The run ends here, well."""
        self.failure = None
        self._end("True", Reason.COMPLETED, message, at)

    def _end(self, truth: Truth, reason: str, message: str, at: datetime | None) -> None:
        self.message = message
        # The next look, at what is written then, says when which clean-up is due.
        self.revisit_in(0)
        self.completed_at = (at or self.now).replace(microsecond=0)
        self._close_attempts(reason)
        self.set(ConditionType.RUNNING, "False", reason, message)
        for kind in (ConditionType.ARTIFACT_STORED, ConditionType.VALIDATED):
            if self.condition(kind).status != "True" and truth == "False":
                self.set(kind, "False", reason)
        self.set(ConditionType.SUCCEEDED, truth, reason, message)
        self.set(ConditionType.SUSPENDED, "False", Reason.NOT_SUSPENDED)

    def _close_attempts(self, reason: str) -> None:
        """A pod that is still there goes with its Job, and nobody records that any more."""
        self.recent_attempts = tuple(
            attempt
            if attempt.ended_at is not None
            else attempt.model_copy(
                update={"ended_at": self.now, "reason": attempt.reason or reason}
            )
            for attempt in self.recent_attempts
        )

    def decision(self) -> Decision:
        """Close the draft."""
        status = self._next()
        is_final = self._untouched or self._acknowledged
        if status == self.stored and (is_final or not self._cost_alert()):
            return Decision(status=None, actions=tuple(self._actions), revisit_at=self._revisit_at)
        return Decision(
            # What grows by the second no longer does after the end.
            status=status if self._acknowledged else self._with_gpu_seconds(status),
            actions=tuple(self._actions),
            events=(*events_between(self.stored, status), *self._cost_alert()),
            revisit_at=self._revisit_at,
        )

    def _next(self) -> LoRATrainingStatus:
        if self._untouched:
            return self.stored
        return self._after_the_end() if self._acknowledged else self._status()

    def _status(self) -> LoRATrainingStatus:
        phase = self.phase
        self._conclude(phase)
        moved = phase != self.stored.phase
        return self.stored.model_copy(
            update={
                "observed_generation": self._generation,
                "phase": phase,
                "phase_started_at": self.now if moved else self.stored.phase_started_at,
                "message": clip(self.message),
                "conditions": tuple(map(self._decided_now, self._conditions.values())),
                "progress": self.progress,
                "attempts": self.attempts,
                "recent_attempts": self.recent_attempts,
                "stalls": self.stalls,
                "timeline": self._timeline(phase),
                "started_at": self.started_at,
                "completed_at": self.completed_at,
                "job_name": self.job_name,
                "job_number": self.job_number,
                "memory": self.memory,
                "pod_name": self.pod_name,
                "node_name": self.node_name,
                "cost": self.cost,
                "output_uri": self.output_uri,
                "artifact": self.artifact,
                "trained": self.trained,
                "upload": self.upload,
                "partial": self.partial,
                "validation": self.validation,
                "failure": self.failure,
            }
        )

    def _decided_now(self, condition: Condition) -> Condition:
        """A condition that no rule had to state anew was looked at all the same, and stands."""
        if condition.observed_generation == self._generation:
            return condition
        return condition.model_copy(update={"observed_generation": self._generation})

    def _conclude(self, phase: Phase) -> None:
        """State the two conditions that follow from the others."""
        running = self._conditions[ConditionType.RUNNING]
        if is_reconciling(self._conditions, phase):
            self.set(ConditionType.RECONCILING, "True", running.reason, self.message)
        else:
            self.set(ConditionType.RECONCILING, "False", Reason.SETTLED)
        if phase is Phase.FAILED:
            self.set(ConditionType.STALLED, "True", running.reason, self.message)
        else:
            self.set(ConditionType.STALLED, "False", Reason.SETTLED)

    def _timeline(self, phase: Phase) -> TimelineStatus:
        known = self.stored.timeline or TimelineStatus(
            part=Part.QUEUED, part_started_at=self._seen.run.created_at
        )
        running = self._conditions[ConditionType.RUNNING].status == "True"
        part = part_of(phase, running=running)
        began = self._began(part)
        earliest = known.part_started_at or self.now
        return advance(known, part, max(earliest, min(began or self.now, self.now)))

    def _began(self, part: Part | None) -> datetime | None:
        """When a part began by the cluster's own records, where it has one."""
        pod = self._seen.latest_pod
        if part is None:
            return self.completed_at
        if pod is not None and part is Part.IMAGE_PULL:
            return pod.scheduled_at
        if pod is not None and part is Part.PREPARE:
            return pod.container.started_at
        return None

    def _cost_alert(self) -> tuple[Event, ...]:
        word = self._seen.policy
        if word is None or word.alert is None:
            return ()
        return (Event(kind="Warning", reason=Reason.TRAINING_EXPENSIVE, message=word.alert),)

    def _after_the_end(self) -> LoRATrainingStatus:
        """What may still follow: the last generation, what is tidied up, the cost in the ledger."""
        update: dict[str, object] = {
            "observed_generation": self._generation,
            "workspace_copy_removed_at": self.workspace_copy_removed_at,
        }
        word = self._seen.policy
        if word is not None and word.cost is not None and word.cost.final:
            update["cost"] = word.cost
        return self.stored.model_copy(update=update)

    def _with_gpu_seconds(self, status: LoRATrainingStatus) -> LoRATrainingStatus:
        """What grows by the second: no reason to write, but written along."""
        spec = self._seen.run.spec
        gpus = spec.resources.gpus if spec is not None else 0
        attempts = tuple(_counted_until(a, self.now, gpus=gpus) for a in status.recent_attempts)
        counted = {a.pod_name: a.gpu_seconds or 0 for a in self.stored.recent_attempts}
        added = sum((a.gpu_seconds or 0) - counted.get(a.pod_name, 0) for a in attempts)
        word = self._seen.policy
        if word is not None and word.cost is not None:
            status = status.model_copy(update={"cost": word.cost})
        if not attempts:
            return status
        total = (self.stored.gpu_seconds or 0) + added
        return status.model_copy(update={"recent_attempts": attempts, "gpu_seconds": total})


def _counted_until(attempt: AttemptStatus, now: datetime, *, gpus: int) -> AttemptStatus:
    if attempt.scheduled_at is None:
        return attempt
    held = ((attempt.ended_at or now) - attempt.scheduled_at).total_seconds()
    return attempt.model_copy(update={"gpu_seconds": gpus * max(0, int(held))})
