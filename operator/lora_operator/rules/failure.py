"""The Job failed: its last attempt, or the deadline, says why the run ends."""

import re

from lora_api.reasons import Reason
from lora_api.status import ConditionType, FailureStatus, LoRATrainingStatus
from lora_operator.rules.attempt_end import explain_end, was_taken_away
from lora_operator.rules.base import Verdict
from lora_operator.rules.giving_up import give_up
from lora_operator.rules.not_admitted import goes_on_after_refusals
from lora_operator.state.draft import Draft
from lora_operator.state.last_codes import KILLED
from lora_operator.state.text import clip, quote
from lora_operator.state.views import Job, Observed

# A pod that is killed at each suspension makes a Job each time; everything has a bound.
MAX_JOBS = 99
# How the Job controller says which pod a FailJob rule matched, and by which exit code.
_JUDGED = re.compile(r"for pod [^/ ]{1,63}/(\S{1,253}) failed with exit code (\d{1,3})\b")


def job_failed(seen: Observed, draft: Draft) -> Verdict:
    """End the run with the best explanation there is, unless another Job can still save it."""
    job = seen.job
    if job is None or job.failed_at is None or draft.upload is not None:
        return Verdict.CONTINUE
    failure = _why(seen, job)
    memory = _memory_to_try(seen, failure)
    if _was_taken_away(seen, draft, job):
        draft.start_over(
            Reason.RETRYING,
            f"The pod of Job {job.name} was killed while it was being taken away; another Job goes "
            "on from its last checkpoint.",
        )
    elif memory is not None:
        _raise_memory(draft, memory)
    elif not goes_on_after_refusals(seen, draft, job):
        give_up(seen, draft, failure, at=job.failed_at)
    return Verdict.SETTLED


def _was_taken_away(seen: Observed, draft: Draft, job: Job) -> bool:
    """A kill that ended a deletion or suspension and no fault: the rule of a Job can't tell."""
    judged = _JUDGED.search(job.failed_message)
    if judged is None or int(judged[2]) != KILLED or seen.run.job_number >= MAX_JOBS:
        return False
    for pod in seen.pods:
        if pod.name == judged[1]:
            return was_taken_away(pod)
    reasons = [a.reason for a in draft.recent_attempts if a.pod_name == judged[1]]
    if reasons:
        # A stalled pod that a disruption budget kept from being evicted was deleted by us.
        return reasons[-1] in {Reason.INTERRUPTED, Reason.STALLED}
    # Never seen, and gone: a pod that failed by itself stays with its Job.
    return True


def _memory_to_try(seen: Observed, failure: FailureStatus) -> str | None:
    """More memory for one further attempt, where the spec allows it and it was not made yet."""
    spec = seen.run.spec
    if failure.reason != Reason.OUT_OF_MEMORY or seen.run.status.memory is not None:
        return None
    return spec.resources.memory_on_retry if spec is not None else None


def _raise_memory(draft: Draft, memory: str) -> None:
    draft.memory = memory
    draft.start_over(
        Reason.RETRYING,
        "The trainer went over its memory limit and was killed. It is tried once more with "
        f"{memory} (spec.resources.memoryOnRetry).",
    )


def _why(seen: Observed, job: Job) -> FailureStatus:
    if job.failed_reason == "DeadlineExceeded":
        return _deadline(seen)
    failed = [pod for pod in seen.pods if pod.has_ended and pod.phase != "Succeeded"]
    judged = _JUDGED.search(job.failed_message)
    if judged is not None:
        # Others may have ended after it, or outlived it.
        failed = [pod for pod in failed if pod.name == judged[1]] or failed
    if failed:
        found = explain_end(seen, failed[-1])
    elif seen.run.status.failure is not None:
        # The pod is gone by now, but its end was seen and written down.
        found = seen.run.status.failure
    else:
        found = FailureStatus(
            reason=Reason.TRAINER_CRASHED,
            message=(
                f"The Job failed ({quote(job.failed_reason)}: {quote(job.failed_message)}) and "
                "its pods are gone, so the trainer's own words are lost."
            ),
            retryable=True,
        )
    attempts = job.failed_pods
    if job.failed_reason == "BackoffLimitExceeded" and attempts > 1:
        message = (
            f"{found.message} That was attempt {attempts} of {attempts} (spec.limits.retries)."
        )
        return found.model_copy(update={"message": clip(message)})
    return found


def _deadline(seen: Observed) -> FailureStatus:
    limit = (
        f"{seen.run.spec.limits.active_deadline_seconds} s" if seen.run.spec is not None else "time"
    )
    status = seen.run.status
    text = f"The limit of {limit} (spec.limits.activeDeadlineSeconds) passed"
    progress = status.progress
    kept_failing = _kept_failing(status)
    if kept_failing is not None:
        text += (
            f" while another attempt was awaited; attempt {status.attempts} had failed with "
            f"{kept_failing.reason}: {kept_failing.message}"
        )
    elif status.started_at is None:
        waiting = f" Until then: {status.message}" if status.message else ""
        text += f" before the trainer started.{waiting}"
    elif progress is not None and progress.total_steps:
        text += (
            f" at step {progress.step} of {progress.total_steps}. "
            "Create the run again with a higher limit or fewer steps."
        )
    else:
        text += ". Create the run again with a higher limit."
    is_passing = status.started_at is None if kept_failing is None else kept_failing.retryable
    return FailureStatus(reason=Reason.DEADLINE_EXCEEDED, message=clip(text), retryable=is_passing)


def _kept_failing(status: LoRATrainingStatus) -> FailureStatus | None:
    """How the last attempt failed, where no attempt was under way when the time was up.

    The deadline itself interrupts a trainer, and that explains nothing.
    """
    running = next((c for c in status.conditions if c.type == ConditionType.RUNNING), None)
    if status.failure is None or running is None or running.status == "True":
        return None
    if Reason.INTERRUPTED in {status.failure.reason, running.reason}:
        return None
    return status.failure
