"""A small world in which decisions are carried out: an API server, a Job controller, a kubelet.

A module of its own because the model-based test moves this world at random, and its rules (what a
Job counts as a failure, what waits for what in a deletion) are the cluster's and not the test's.
tests/api shows the same with the real controllers.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from lora_api.exit_codes import ExitCode
from lora_api.progress import Progress, Stage
from lora_api.status import Phase
from lora_api.training import WorkspaceType
from lora_operator.labels import (
    job_name,
    partial_job_name,
    tidy_job_name,
    upload_job_name,
    workspace_name,
)
from lora_operator.state.decision import Action
from lora_operator.state.last_codes import KILLED, LAST_CODES
from lora_operator.state.views import Claim, Container, Job, Observed, Pod, Refusal, Refused
from tests.builders import NOW, ATraining, a_training
from tests.results import a_bad_result, a_good_result
from tests.sights import a_progress

UPLOAD = upload_job_name("anna")
PARTIAL = partial_job_name("anna")
TIDY = tidy_job_name("anna")
ERRANDS = {
    Action.CREATE_UPLOAD_JOB: UPLOAD,
    Action.CREATE_PARTIAL_JOB: PARTIAL,
    Action.CREATE_TIDY_JOB: TIDY,
}
ENDS_OF_ERRANDS = {
    Action.DELETE_UPLOAD_JOB: UPLOAD,
    Action.DELETE_PARTIAL_JOB: PARTIAL,
    Action.DELETE_TIDY_JOB: TIDY,
}
CREATES = {Action.CREATE_WORKSPACE, Action.CREATE_JOB, *ERRANDS}
STAGES = (Stage.FETCH, Stage.TRAIN, Stage.SAVE, Stage.SAMPLE, Stage.PUBLISH)


@dataclass
class APodInTheWorld:
    """A pod as its kubelet knows it, and whether its Job has taken note of its end."""

    view: Pod
    job: str
    stage: int = 0
    moved_at: datetime = NOW
    """When its trainer last told of anything new."""
    is_counted: bool = False

    @property
    def progress(self) -> Progress | None:
        """What its trainer tells, as soon as it runs."""
        if not self.view.container.running:
            return None
        return a_progress(STAGES[self.stage], min(99, 25 * self.stage))

    @property
    def last_moved_at(self) -> datetime | None:
        """When that last changed."""
        return self.moved_at if self.view.container.running else None


@dataclass
class World:
    """What exists, and what became of the training in truth."""

    training: ATraining = field(default_factory=a_training)
    now: datetime = NOW
    claim: Claim | None = None
    jobs: dict[str, Job] = field(default_factory=dict)
    started: dict[str, datetime] = field(default_factory=dict)
    """When each Job was last let go; its deadline counts from then."""
    pods: list[APodInTheWorld] = field(default_factory=list)
    made: list[str] = field(default_factory=list)
    """Every Job of a training that was ever made."""
    born: int = 0
    """How many Jobs were made; no two have the same uid."""
    is_there: bool = True
    """Whether the run exists."""
    is_trained: bool = False
    """Whether the workspace holds a finished LoRA."""
    is_stored: bool = False
    """Whether the bucket does."""
    refuses: bool = False
    """Whether the API server refuses what is new: a quota, an admission rule."""
    has_budget: bool = False
    """Whether a disruption budget forbids evictions: a pod is deleted instead."""
    refused: frozenset[Action] = frozenset()
    """What was refused at the present look."""

    def observe(self) -> Observed:
        """As the operator's own observing does, from a cache that is up to date."""
        run = self.training.run()
        numbers = [number for number in range(1, 99) if job_name("anna", number) in self.jobs]
        run = replace(run, job_number=max([run.job_number, *numbers]))
        job = self.jobs.get(run.job_name)
        pods = self._views(run.job_name) if job is not None else ()
        latest = self._latest(run.job_name)
        return Observed(
            run=run,
            claim=self.claim,
            job=job,
            pods=pods,
            progress=latest.progress if latest is not None else None,
            progress_moved_at=latest.last_moved_at if latest is not None else None,
            claim_refused=self._refusal(Action.CREATE_WORKSPACE),
            job_refused=next(filter(None, map(self._refusal, [Action.CREATE_JOB, *ERRANDS])), None),
            other_jobs=tuple(
                other
                for name, other in self.jobs.items()
                if name not in {run.job_name, *ERRANDS.values()}
            ),
            upload_job=self.jobs.get(UPLOAD),
            upload_pods=self._views(UPLOAD),
            partial_job=self.jobs.get(PARTIAL),
            partial_pods=self._views(PARTIAL),
            tidy_job=self.jobs.get(TIDY),
        )

    def _refusal(self, action: Action) -> Refused | None:
        if action not in self.refused:
            return None
        return Refused(kind=Refusal.CREATION_REFUSED, what=str(action), message="quota")

    @property
    def is_ephemeral(self) -> bool:
        """Whether the workspace is a folder of the node, with a copy in the bucket."""
        spec = self.training.run().spec
        return spec is not None and spec.workspace.type is WorkspaceType.EPHEMERAL

    def _views(self, job: str) -> tuple[Pod, ...]:
        return tuple(pod.view for pod in self.pods if pod.job == job)

    def _latest(self, job: str) -> APodInTheWorld | None:
        found = [pod for pod in self.pods if pod.job == job]
        return found[-1] if found else None

    @property
    def live(self) -> list[APodInTheWorld]:
        """Pods that may write into the workspace."""
        return [pod for pod in self.pods if not pod.view.has_ended]

    # What the operator does.

    def ask_for(self, action: Action) -> None:
        """Have an action carried out, unless it is refused."""
        if self.refuses and action in CREATES:
            self.refused |= {action}
        else:
            self.carry_out(action)

    def carry_out(self, action: Action) -> None:
        """Change the world as the API server would."""
        job = self.observe().run.job_name
        match action:
            case Action.CREATE_WORKSPACE:
                self.make_claim(workspace_name("anna"))
            case Action.CREATE_JOB:
                self.make_job(job, suspended=self.training.run().queue is not None)
            case _ if action in ERRANDS:
                self.make_job(ERRANDS[action], suspended=False)
            case _ if action in ENDS_OF_ERRANDS:
                self.delete_job(ENDS_OF_ERRANDS[action])
            case Action.SUSPEND_JOB:
                self.evict(job)
                self.set_suspended(job, suspended=True)
            case Action.RESUME_JOB:
                self.set_suspended(job, suspended=False)
            case Action.EVICT_POD:
                self.evict(job)
            case Action.DELETE_JOB:
                self.delete_job(job)
            case Action.DELETE_OTHER_JOBS:
                for other in self.observe().other_jobs:
                    self.delete_job(other.name)
            case Action.DELETE_WORKSPACE:
                self.delete_claim()
            case Action.DELETE_RUN:
                self.delete_run()

    def make_claim(self, name: str, *, suspended: bool = False) -> None:
        """Make the workspace, unless it is there."""
        del suspended
        self.claim = self.claim or Claim(
            name=name, uid=f"claim of {self.now}", phase="Bound", created_at=self.now
        )

    def make_job(self, name: str, *, suspended: bool) -> None:
        """Make a Job, unless it is there."""
        if name not in ERRANDS.values():
            self.made.append(name)
        if name not in self.jobs:
            self.started[name] = self.now
            self.born += 1
            self.jobs[name] = Job(
                name=name,
                uid=f"uid {self.born} of {name}",
                created_at=self.now,
                suspended=suspended,
                queue=None if name in ERRANDS.values() else self.training.run().queue,
            )

    def set_suspended(self, name: str, *, suspended: bool) -> None:
        """Hold a Job back or let it go; a Job that has ended does neither."""
        job = self.jobs.get(name)
        if job is not None and not job.is_finished:
            self.started[name] = self.now
            self.jobs[name] = replace(job, suspended=suspended)

    def evict(self, job: str) -> None:
        """Take a Job's pods away; without a budget in the way it is not called their fault."""
        if self.has_budget:
            self._delete_pods(job)
        for pod in self.live:
            if pod.job == job and not pod.view.deleting:
                self.evict_pod(pod)

    def evict_pod(self, pod: APodInTheWorld) -> None:
        """Take a pod away; what has ended stays with its Job."""
        if not pod.view.has_ended:
            pod.view = replace(pod.view, deleting=True, disrupted="EvictionByEvictionAPI")

    def delete_pod(self, name: str) -> None:
        """Take a pod away whatever protects it."""
        for pod in self.live:
            if pod.view.name == name:
                pod.view = replace(pod.view, deleting=True)

    def delete_run(self) -> None:
        """What belongs to it goes, too, in its time."""
        self.is_there = False

    def delete_job(self, name: str) -> None:
        """In the foreground: it stays until its pods have ended."""
        if name in self.jobs:
            self.jobs[name] = replace(self.jobs[name], deleting=True)

    def delete_claim(self) -> None:
        """It stays for as long as a pod uses it."""
        if self.claim is not None:
            self.claim = replace(self.claim, deleting=True)

    # What the controllers do.

    def control(self) -> None:
        """One round of Job controller, garbage collector and claim protection."""
        if not self.is_there:
            self.jobs = {name: replace(job, deleting=True) for name, job in self.jobs.items()}
            self.delete_claim()
        for name in list(self.jobs):
            self._count_ends(name)
            self._keep_deadline(name)
            self._replace_pods(name)
        if self.claim is not None and self.claim.deleting and not self.live:
            self.claim, self.is_trained = None, False

    def _count_ends(self, name: str) -> None:
        for pod in self.pods:
            job = self.jobs[name]
            if pod.job != name or not pod.view.has_ended or pod.is_counted or job.is_finished:
                continue
            pod.is_counted = True
            code = pod.view.container.exit_code
            if code == ExitCode.OK:
                self.jobs[name] = replace(job, completed_at=self.now)
            elif name in ERRANDS.values():
                self._fail(name, "BackoffLimitExceeded")
            elif pod.view.disrupted is not None or code == ExitCode.INTERRUPTED:
                continue
            elif code in LAST_CODES:
                said = f"Container trainer for pod studio/{pod.view.name} failed with exit code"
                self._fail(name, "PodFailurePolicy", f"{said} {code} matching FailJob rule")
            else:
                self.jobs[name] = replace(job, failed_pods=job.failed_pods + 1)
                if job.failed_pods + 1 > self._retries():
                    self._fail(name, "BackoffLimitExceeded")

    def _fail(self, name: str, reason: str, message: str = "") -> None:
        self.jobs[name] = replace(
            self.jobs[name], failed_at=self.now, failed_reason=reason, failed_message=message
        )

    def _retries(self) -> int:
        spec = self.training.run().spec
        assert spec is not None
        return spec.limits.retries

    def _keep_deadline(self, name: str) -> None:
        job = self.jobs[name]
        if job.is_finished or job.suspended:
            return
        if self.now - self.started[name] >= timedelta(seconds=7200):
            self.jobs[name] = replace(job, failing_reason="DeadlineExceeded")
            self._delete_pods(name)
            if not self._is_live(name):
                self._fail(name, "DeadlineExceeded")

    def _replace_pods(self, name: str) -> None:
        job = self.jobs[name]
        if job.deleting or job.suspended:
            self._delete_pods(name)
        if job.deleting and not self._is_live(name):
            del self.jobs[name]
            self.pods = [pod for pod in self.pods if pod.job != name]
        is_quiet = job.deleting or job.suspended or job.is_finished or job.failing_reason
        if not is_quiet and not self._is_live(name) and job.parallelism:
            number = len(self.pods)
            view = Pod(
                name=f"{name}-{self.now:%j%H%M%S}-{number}",
                uid=f"{name} {number}",
                created_at=self.now,
            )
            self.pods.append(APodInTheWorld(view=view, job=name))

    def _delete_pods(self, name: str) -> None:
        for pod in self.live:
            if pod.job == name:
                pod.view = replace(pod.view, deleting=True)

    def _is_live(self, name: str) -> bool:
        return any(pod.job == name for pod in self.live)

    # What scheduler, kubelet and trainer do.

    def step(self, pod: APodInTheWorld) -> None:
        """One step of a pod's way: node, container, stage by stage, end."""
        if pod.view.deleting:
            self.end(pod, ExitCode.INTERRUPTED)
        elif pod.view.node is None:
            pod.view = replace(pod.view, node="node-1", scheduled_at=self.now)
        elif not pod.view.container.running:
            container = Container(running=True, started_at=self.now)
            pod.moved_at = self.now
            pod.view = replace(pod.view, phase="Running", container=container)
        elif pod.job in {PARTIAL, TIDY}:
            self.end(pod, ExitCode.OK)
        elif pod.stage < len(STAGES) - 1:
            pod.stage += 1
            pod.moved_at = self.now
            if STAGES[pod.stage] is Stage.SAVE and not self.is_lost:
                self.is_trained = True
        else:
            self.is_stored = True
            self.end(pod, ExitCode.OK)

    @property
    def is_lost(self) -> bool:
        """Whether the workspace's volume is gone for good."""
        return self.claim is not None and self.claim.phase == "Lost"

    def lose_volume(self) -> None:
        """The disk under the claim dies, with all that lay on it."""
        if self.claim is not None:
            self.claim = replace(self.claim, phase="Lost")
            self.is_trained = False

    def end(self, pod: APodInTheWorld, code: int, reason: str = "Error") -> None:
        """End a pod; what it leaves as its last word follows from the code."""
        message = ""
        if code == ExitCode.OK:
            message = a_good_result()
        elif code not in {KILLED, ExitCode.CRASHED}:
            retryable = ExitCode(code).is_retryable
            message = a_bad_result("StorageUnreachable", "No answer.", retryable=retryable)
        container = Container(
            started_at=pod.view.container.started_at,
            ended_at=self.now,
            exit_code=code,
            end_reason=reason,
            end_message=message,
        )
        phase = "Succeeded" if code == ExitCode.OK else "Failed"
        pod.view = replace(pod.view, phase=phase, container=container)

    def refuse(self, pod: APodInTheWorld) -> None:
        """Have the kubelet not admit a pod: it fails before it has any container."""
        said = "Pod was rejected: Allocate failed due to no healthy devices present"
        pod.view = replace(
            pod.view, phase="Failed", reason="UnexpectedAdmissionError", message=said
        )

    def outgrow(self, pod: APodInTheWorld, code: int) -> None:
        """Evict a pod for what it wrote itself: that is no disruption, whatever it answers."""
        self.end(pod, code)
        message = 'Usage of EmptyDir volume "workspace" exceeds the limit "20Gi". '
        pod.view = replace(pod.view, reason="Evicted", message=message)

    @property
    def phase(self) -> Phase | None:
        """What the stored status says."""
        return self.training.run().status.phase
