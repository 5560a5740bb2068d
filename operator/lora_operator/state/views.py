"""The few facts the rules need from a run and its children, as frozen values.

A module of its own because rules written against these can be tested as tables, and can't come to
depend on the shape of Kubernetes' JSON.
"""

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from lora_api.policy import TrainingPolicySpec
from lora_api.progress import Progress
from lora_api.reasons import Reason
from lora_api.status import CostStatus, LoRATrainingStatus
from lora_api.training import LoRATrainingSpec, RetentionSettings, WorkspaceRetention
from lora_operator.labels import QUEUE_LABEL, job_name
from lora_operator.state.keys import Key
from lora_operator.state.retention import Retention, retention_of


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
    queue_labels: dict[str, str] = field(default_factory=dict)
    """Kueue's labels: the LocalQueue that its Jobs go through, and with which priority."""
    job_number: int = 1
    """Which Job is the present one; earlier ones can't go on."""
    spec: LoRATrainingSpec | None
    """None where it can't be read; then `spec_fault` says why."""
    spec_fault: str = ""
    unread_retention: RetentionSettings | None = None
    """What is kept, where the rest of the spec can't be read."""
    status: LoRATrainingStatus = field(default_factory=LoRATrainingStatus)
    status_fault: str = ""
    """Set where the status was written by a version whose words we do not know."""

    @property
    def queue(self) -> str | None:
        """Kueue's LocalQueue that its Jobs go through, if any."""
        return self.queue_labels.get(QUEUE_LABEL)

    @property
    def retention(self) -> Retention:
        """What is kept of the run once it has ended."""
        if self.spec is not None:
            return retention_of(self.spec.retention)
        # Nobody can tell what its user wants, and a deleted workspace can't be had back.
        unknown = RetentionSettings(workspace=WorkspaceRetention.RETAIN)
        return retention_of(self.unread_retention or unknown)

    @property
    def job_name(self) -> str:
        """Name of the Job that runs the trainer, or is to run it."""
        return job_name(self.key.name, self.job_number)


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """The workspace's PersistentVolumeClaim."""

    name: str
    uid: str
    phase: str
    """Pending, Bound or Lost."""
    created_at: datetime
    deleting: bool = False
    """Whether its deletion has begun; a pod that uses it holds that up."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """The run's Job."""

    name: str
    uid: str
    created_at: datetime
    deleting: bool = False
    """Whether its deletion has begun; its pods hold that up."""
    queue: str | None = None
    """Kueue's LocalQueue that it was made for, whatever label the run carries by now."""
    suspended: bool = False
    resumed_at_generation: int | None = None
    """The run's generation when we last let the Job go; None where we never had to."""
    parallelism: int = 1
    is_noticed: bool = False
    """Whether the Job controller has taken note of it since it was last let go."""
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
    ended_at: datetime | None = None
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
    scheduled_at: datetime | None = None
    unschedulable: str | None = None
    """The scheduler's message where it found no node."""
    deleting: bool = False
    """Whether its deletion has begun; only its node, or nobody, knows when it is gone."""
    due_at: datetime | None = None
    """When its node was to have ended it, by the grace that its deletion leaves it."""
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


class Permission(StrEnum):
    """What the namespace's policy says to a run."""

    GRANTED = "Granted"
    AWAITED = "Awaited"
    DENIED = "Denied"
    WITHDRAWN = "Withdrawn"


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyWord:
    """What the policy says of a run, and what the run has cost."""

    permission: Permission = Permission.GRANTED
    reason: Reason = Reason.ACCEPTED
    message: str = ""
    cost: CostStatus | None = None
    policy: TrainingPolicySpec | None = None
    """The policy itself: it says where pods go."""
    alert: str | None = None
    """Warning about the cost, to be told once the cost is written."""
    is_in_queue: bool = False
    """Whether the ledger has it in the queue: it must not be at work."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Observed:
    """Everything a decision is made from."""

    run: Run
    policy: PolicyWord | None = None
    """What the namespace's policy says; None where it has none."""
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
    gpu_misfit: str | None = None
    """Why no GPU of the cluster is large enough, read where the pod finds no node."""
    pods: tuple[Pod, ...] = field(default=())
    """Pods of the Job, oldest first."""
    progress: Progress | None = None
    """What the latest pod last told about itself."""
    progress_moved_at: datetime | None = None
    """When what the latest pod tells last changed, by our clock; None where it never could be
    asked, which is no sign of anything."""
    queue_verdict: str | None = None
    """Why Kueue holds the Job back, where that can be read."""
    other_jobs: tuple[Job, ...] = ()
    """Earlier Jobs of the run that still exist."""
    upload_job: Job | None = None
    """Job that repeats the upload of what is trained but not stored."""
    upload_pods: tuple[Pod, ...] = ()
    """Its pods, oldest first."""
    partial_job: Job | None = None
    """Job that stores what a cancelled run had trained."""
    partial_pods: tuple[Pod, ...] = ()
    """Its pods, oldest first."""
    tidy_job: Job | None = None
    """Job that removes what an Ephemeral workspace left in the bucket."""

    @property
    def errands(self) -> tuple[Job, ...]:
        """The Jobs without a GPU that there are: they follow a training, and train nothing."""
        jobs = (self.upload_job, self.partial_job, self.tidy_job)
        return tuple(job for job in jobs if job is not None)

    @property
    def latest_pod(self) -> Pod | None:
        """The present attempt, or the last one."""
        return self.pods[-1] if self.pods else None

    @property
    def live_pods(self) -> tuple[Pod, ...]:
        """Pods that may still hold a GPU or write into the workspace."""
        return tuple(pod for pod in self.pods if not pod.has_ended)

    @property
    def holds_nothing(self) -> bool:
        """Whether the run has no GPU, nor gets one before its Job is made or resumed."""
        job = self.job
        return not self.live_pods and (job is None or job.suspended or job.is_finished)
