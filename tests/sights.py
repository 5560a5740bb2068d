"""What the rules see of a run, built in sentences: `seen().with_claim().with_pods(a_pod())`.

A module of its own because sights are read from the builders' JSON by the operator's own reading,
and only tests of the rules need them.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any, Self

from lora_api.progress import Progress, Stage
from lora_api.status import LoRATrainingStatus
from lora_operator.labels import job_name, partial_job_name, tidy_job_name, upload_job_name
from lora_operator.rules.decide import decide
from lora_operator.state.decision import Decision
from lora_operator.state.reading import read_claim, read_job, read_pod
from lora_operator.state.views import Job, Observed, PolicyWord, Refusal, Refused
from tests.builders import NOW, AJob, APod, ATraining, a_claim, a_job, a_training


@dataclass(frozen=True)
class ASight:
    """What is seen of a run, in the making."""

    training: ATraining = field(default_factory=ATraining)
    observed: Observed = field(default_factory=lambda: Observed(run=a_training().run()))

    def with_claim(self, phase: str = "Bound", warning: str | None = None) -> Self:
        claim = read_claim(a_claim(phase))
        return self._with(claim=claim, claim_warning=warning)

    def with_job(self, job: AJob | None = None, warning: str | None = None) -> Self:
        sight = self if self.observed.claim is not None else self.with_claim()
        name = sight.observed.run.job_name
        return sight._with(job=_read(job or a_job(), name), job_warning=warning)

    def with_pods(self, *pods: APod, warning: str | None = None) -> Self:
        sight = self if self.observed.job is not None else self.with_job()
        bodies = tuple(read_pod(pod.stored()) for pod in pods)
        return sight._with(pods=bodies, pod_warning=warning)

    def with_other_job(self, job: AJob, number: int = 1) -> Self:
        """An earlier Job still exists beside the present one."""
        return self._with(other_jobs=(_read(job, job_name(self.training.name, number)),))

    def with_upload_job(self, job: AJob, *pods: APod) -> Self:
        bodies = tuple(read_pod(pod.stored()) for pod in pods)
        name = upload_job_name(self.training.name)
        return self._with(upload_job=_read(job, name), upload_pods=bodies)

    def with_partial_job(self, job: AJob, *pods: APod) -> Self:
        bodies = tuple(read_pod(pod.stored()) for pod in pods)
        name = partial_job_name(self.training.name)
        return self._with(partial_job=_read(job, name), partial_pods=bodies)

    def with_tidy_job(self, job: AJob) -> Self:
        return self._with(tidy_job=_read(job, tidy_job_name(self.training.name)))

    def unmoved_for(self, seconds: float) -> Self:
        """What the trainer tells has not changed for so long."""
        return self._with(progress_moved_at=NOW - timedelta(seconds=seconds))

    def held_by_kueue(self, verdict: str) -> Self:
        return self._with(queue_verdict=verdict)

    def without_fitting_gpu(self, why: str) -> Self:
        """No GPU of the cluster is large enough."""
        return self._with(gpu_misfit=why)

    def told_by_policy(self, word: PolicyWord) -> Self:
        return self._with(policy=word)

    def without_job(self) -> Self:
        return self._with(job=None, pods=(), progress=None)

    def without_claim(self) -> Self:
        return self._with(claim=None)

    def with_progress(self, stage: Stage, step: int, total: int = 100) -> Self:
        return self._with(progress=a_progress(stage, step, total))

    def claim_refused(self, kind: Refusal, message: str) -> Self:
        what = "PersistentVolumeClaim anna-workspace"
        return self._with(claim_refused=Refused(kind=kind, what=what, message=message))

    def job_refused(self, kind: Refusal, message: str) -> Self:
        return self._with(job_refused=Refused(kind=kind, what="Job anna-train", message=message))

    def with_status(self, status: LoRATrainingStatus | None) -> Self:
        training = self.training.with_status(status)
        observed = replace(self.observed, run=training.run())
        if observed.job is not None and observed.job.name != observed.run.job_name:
            # As the operator's own observing: another Job is the present one by now.
            observed = replace(observed, other_jobs=(observed.job,), job=None, pods=())
        return replace(self, training=training, observed=observed)

    def of(self, training: ATraining) -> Self:
        """The same sight of a run whose user has changed it since."""
        training = replace(training, status=self.training.status)
        return replace(self, training=training, observed=replace(self.observed, run=training.run()))

    def after(self, earlier: ASight, *, now: datetime = NOW) -> Self:
        """The same sight, with the status that an earlier one led to already written."""
        return self.with_status(earlier.decide(now=now).status)

    def settled(self) -> Self:
        """The same sight, with what it led to already written."""
        return self.after(self)

    def decide(self, *, now: datetime = NOW) -> Decision:
        """What the rules make of it."""
        return decide(self.observed, now)

    def _with(self, **changes: Any) -> Self:  # noqa: ANN401
        return replace(self, observed=replace(self.observed, **changes))


def _read(job: AJob, name: str) -> Job:
    body = job.stored()
    body["metadata"]["name"] = name
    return read_job(body)


def seen(training: ATraining | None = None) -> ASight:
    """A run of which nothing exists yet."""
    training = training or a_training()
    return ASight(training=training, observed=Observed(run=training.run()))


def a_progress(stage: Stage, step: int, total: int = 100, at: datetime = NOW) -> Progress:
    """What a trainer tells about itself."""
    return Progress(
        stage=stage,
        stage_percent=min(100.0, 100.0 * step / max(1, total)),
        step=step,
        total_steps=total,
        loss=0.1,
        learning_rate=1e-4,
        steps_per_second=2.0,
        eta_seconds=max(0, total - step) / 2,
        updated_at=at,
    )
