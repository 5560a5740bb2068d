"""The few facts the rules need from a run and its children, as frozen values.

A module of its own because rules written against these can be tested as tables, and can't come to
depend on the shape of Kubernetes' JSON.
"""

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from lora_api.progress import Progress
from lora_api.reasons import Reason
from lora_api.status import LoRATrainingStatus
from lora_api.training import LoRATrainingSpec
from lora_operator.state.keys import Key


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """A LoRATraining as stored."""

    key: Key
    uid: str
    generation: int
    resource_version: str
    created_at: datetime
    deleting: bool = False
    """Whether its deletion has begun."""
    spec: LoRATrainingSpec | None
    """None where it can't be read; then `spec_fault` says why."""
    spec_fault: str = ""
    status: LoRATrainingStatus = field(default_factory=LoRATrainingStatus)
    status_fault: str = ""
    """Set where the status was written by a version whose words we do not know."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """The workspace's PersistentVolumeClaim."""

    name: str
    uid: str
    phase: str
    """Pending, Bound or Lost."""
    created_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """The run's Job."""

    name: str
    uid: str
    created_at: datetime
    failed_pods: int = 0
    active_pods: int = 0
    completed_at: datetime | None = None
    """Set where the Job has the condition Complete."""
    failing_reason: str = ""
    """Why the Job is going to fail once its pods are gone (condition FailureTarget)."""
    failed_at: datetime | None = None
    """Set where the Job has the condition Failed."""
    failed_reason: str = ""
    failed_message: str = ""

    @property
    def is_finished(self) -> bool:
        """Whether no pod of it runs any more, nor ever will."""
        return self.completed_at is not None or self.failed_at is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class Container:
    """The trainer container of one pod."""

    waiting_reason: str = ""
    waiting_message: str = ""
    started_at: datetime | None = None
    running: bool = False
    exit_code: int | None = None
    end_reason: str = ""
    end_message: str = ""
    """Termination message: the trainer's result, or the log's last lines."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pod:
    """One attempt: a pod of the run's Job."""

    name: str
    uid: str
    created_at: datetime
    phase: str = "Pending"
    node: str | None = None
    unschedulable: str | None = None
    """The scheduler's message where it found no node."""
    deleting: bool = False
    """Whether its deletion has begun; only its node, or nobody, knows when it is gone."""
    disrupted: str | None = None
    """Why Kubernetes took the pod away (preemption, eviction, node loss), if it did."""
    reason: str = ""
    message: str = ""
    container: Container = Container()

    @property
    def has_ended(self) -> bool:
        """Whether this attempt is over."""
        return self.phase in {"Succeeded", "Failed"} or self.container.exit_code is not None

    @property
    def is_starting(self) -> bool:
        """Whether it has a node, and the node says nothing of why the container does not run."""
        silent = self.container.waiting_reason in {"", "ContainerCreating", "PodInitializing"}
        return self.node is not None and silent and not (self.container.running or self.has_ended)


class Refusal(StrEnum):
    """What the API server refused, and why it matters."""

    NAME_TAKEN = Reason.NAME_TAKEN
    PREDECESSOR_TERMINATING = Reason.PREDECESSOR_TERMINATING
    CREATION_REFUSED = Reason.CREATION_REFUSED


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """One creation that was refused just now."""

    kind: Refusal
    what: str
    """`Job anna-train` or `PersistentVolumeClaim anna-workspace`."""
    message: str
    """The API server's own words."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Observed:
    """Everything a decision is made from."""

    run: Run
    claim: Claim | None = None
    claim_refused: Refused | None = None
    claim_warning: str | None = None
    """Latest warning event about the claim, read where it waits for long."""
    job: Job | None = None
    job_refused: Refused | None = None
    job_warning: str | None = None
    """Latest warning event about the Job, read where it has no pod for long."""
    pod_warning: str | None = None
    """Latest warning event about the pod, read where it is placed and does not start for long."""
    pods: tuple[Pod, ...] = field(default=())
    """Pods of the Job, oldest first."""
    progress: Progress | None = None
    """What the latest pod last told about itself."""

    @property
    def latest_pod(self) -> Pod | None:
        """The present attempt, or the last one."""
        return self.pods[-1] if self.pods else None
