"""A pod that its node's kubelet did not admit: nothing of it ever ran.

A module of its own because a Job counts such a pod like a crash, and its retries are gone within
two minutes, while a device plugin restarts or a node shuts down: that is nobody's attempt.
"""

from datetime import timedelta

from lora_api.reasons import Reason
from lora_api.status import FailureStatus
from lora_operator.state.draft import Draft
from lora_operator.state.text import quote
from lora_operator.state.views import Container, Job, Observed, Pod

# Longer than a device plugin, or a node's graceful shutdown, takes; and no GPU is held meanwhile.
PAUSE = timedelta(minutes=5)
# Nearly two hours of a node that admits nobody, whatever spec.limits.retries says.
MOST_JOBS = 20


def was_never_admitted(pod: Pod) -> bool:
    """Whether the pod failed without a container ever having had a state.

    So the kubelet leaves it (`rejectPod`): UnexpectedAdmissionError, OutOfcpu, NodeAffinity,
    NodeShutdown, or Evicted where the node lacks something.
    """
    is_refused = pod.phase == "Failed" and pod.container == Container()
    return is_refused and pod.disrupted is None and not pod.deleting


def explain_refusal(pod: Pod) -> FailureStatus:
    """What the kubelet said."""
    return FailureStatus(
        reason=Reason.POD_NOT_ADMITTED,
        message=(
            f"Node {pod.node} did not admit pod {pod.name} "
            f"({quote(f'{pod.reason}: {pod.message}'.strip(': ') or 'without a word')})."
        ),
        retryable=True,
    )


def goes_on_after_refusals(seen: Observed, draft: Draft, job: Job) -> bool:
    """Have another Job made where a retry of this one was spent on a pod that never ran.

    Returns:
        Whether the run goes on. Its real failures are then fewer than it may have.
    """
    refused = [pod for pod in seen.pods if was_never_admitted(pod)]
    if job.failed_at is None or job.failed_reason != "BackoffLimitExceeded" or not refused:
        return False
    number = seen.run.job_number
    if number >= MOST_JOBS:
        return False
    draft.failure = explain_refusal(refused[-1])
    said = f"{draft.failure.message} That costs no retry: another Job"
    spec = seen.run.spec
    left = (job.failed_at + PAUSE - draft.now).total_seconds()
    if left <= 0 or (spec is not None and spec.suspend):
        draft.start_over(Reason.POD_NOT_ADMITTED, f"{said} is made.")
        return True
    at = f"{job.failed_at + PAUSE:%H:%M:%S} UTC"
    draft.wait(
        Reason.POD_NOT_ADMITTED,
        f"{said} is made at {at} (Job {number + 1} of at most {MOST_JOBS}).",
    )
    draft.revisit_in(left)
    return True
