"""From Job to pod: the Job controller makes it, says why it can't, or says nothing.

A module of its own because the last of these is a wait that nobody explains: then at least what is
known has to be told, and where to look. Such a run is not ended: as long as its Job exists the pod
may still come, and what it trains would be lost.
"""

from datetime import datetime, timedelta

from lora_api.reasons import Reason
from lora_operator.rules.base import Verdict
from lora_operator.rules.patience import bear_creation
from lora_operator.state.draft import Draft
from lora_operator.state.pace import FIRST_LOOK_SECONDS, LOOK_AGAIN_SECONDS
from lora_operator.state.text import quote
from lora_operator.state.views import Job, Observed

# A pod follows its Job within a second; of thousands that are made at once the last comes minutes
# later, and then so many events don't matter either.
UNEXPLAINED = timedelta(minutes=5)
# After each failed pod the Job controller waits twice as long as before, up to this
# (MaxJobPodFailureBackOff in Kubernetes' pkg/controller/job).
LONGEST_BACK_OFF = timedelta(minutes=10)


def pod_is_created(seen: Observed, draft: Draft) -> Verdict:
    """Without a pod, the Job's own warnings say what is in the way, or else what is known does."""
    job = seen.job
    if seen.latest_pod is not None or job is None:
        return Verdict.CONTINUE
    since = _without_pod_since(job, draft)
    if seen.job_warning is not None:
        draft.revisit_in(LOOK_AGAIN_SECONDS)
        draft.wait(
            Reason.POD_CREATION_REFUSED,
            f"The pod can't be created: {quote(seen.job_warning)}. The run starts by itself once "
            "the namespace's quota or admission rules allow it.",
        )
        bear_creation(seen, draft)
    elif draft.now - since >= _patience(seen):
        draft.revisit_in(LOOK_AGAIN_SECONDS)
        draft.wait(Reason.POD_MISSING, _what_is_known(job, since))
    else:
        draft.revisit_in(FIRST_LOOK_SECONDS)
        _await(seen, draft)
    return Verdict.SETTLED


def _await(seen: Observed, draft: Draft) -> None:
    if seen.run.status.attempts:
        draft.wait(
            Reason.RETRYING,
            f"Attempt {seen.run.status.attempts} is over; the next one is being started.",
        )
    else:
        draft.wait(Reason.POD_PENDING, "The Job exists; its pod is being created.")


def _without_pod_since(job: Job, draft: Draft) -> datetime:
    """The latest moment from which on there certainly was no pod."""
    ends = (attempt.ended_at for attempt in draft.recent_attempts if attempt.ended_at is not None)
    return max(job.created_at, draft.pending_since or draft.now, *ends)


def _patience(seen: Observed) -> timedelta:
    return UNEXPLAINED + (LONGEST_BACK_OFF if seen.run.status.attempts else timedelta())


def _what_is_known(job: Job, since: datetime) -> str:
    if job.active_pods:
        known = (
            f"The Job's status counts {job.active_pods} active: see whether that pod has lost the "
            f"operator's labels (kubectl get pods -l batch.kubernetes.io/job-name={job.name})."
        )
    elif job.is_noticed:
        known = (
            "The Job controller knows the Job and has made none: look at the log of "
            f"kube-controller-manager and at kubectl describe job {job.name}."
        )
    else:
        known = (
            "The Job controller has not even taken note of the Job: see whether "
            "kube-controller-manager runs and renews its Lease (kubectl -n kube-system get lease "
            "kube-controller-manager)."
        )
    return (
        f"Job {job.name} has had no pod since {since:%Y-%m-%d %H:%M} UTC, and no event that can be "
        f"read says why. {known} The run goes on by itself once there is a pod; set spec.cancel to "
        "give it up."
    )
