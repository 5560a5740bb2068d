"""The pod is being taken from its node, but is still there: drained, preempted, or its node lost.

The container's last known state stays "running" on a dead node, for as long as nobody says
otherwise; the Job makes no other pod before this one is gone, because they share a workspace. Even
a forced deletion of the pod does not end that: the Job's finalizer holds it until it has failed.
"""

from collections.abc import Iterable
from datetime import datetime, timedelta

from lora_api.reasons import Reason
from lora_operator.rules.base import Verdict
from lora_operator.rules.running import mirror_progress
from lora_operator.state.draft import Draft
from lora_operator.state.pace import LOOK_AGAIN_SECONDS
from lora_operator.state.text import quote
from lora_operator.state.views import Observed, Pod

# Who sets it says that the node is off; then Kubernetes lets the node's pods fail.
OUT_OF_SERVICE = "node.kubernetes.io/out-of-service"
# A kubelet that lives says within seconds that a pod's grace is over and its containers are gone.
OVERDUE = timedelta(seconds=30)


def pod_is_taken_away(seen: Observed, draft: Draft) -> Verdict:
    """Say what is awaited; the phase stays, as the trainer may be writing its checkpoint."""
    pod = seen.latest_pod
    if pod is None or pod.node is None or pod.has_ended:
        return Verdict.CONTINUE
    if not pod.deleting and pod.disrupted is None:
        return Verdict.CONTINUE
    mirror_progress(seen, draft)
    draft.wait(Reason.INTERRUPTED, _message(seen, pod, draft.now))
    draft.revisit_in(LOOK_AGAIN_SECONDS)
    return Verdict.SETTLED


def await_ends(pods: Iterable[Pod], draft: Draft, reason: Reason, message: str) -> None:
    """Wait for pods that somebody wants gone; on a dead node that does not end by itself."""
    for pod in pods:
        if pod.node is not None and pod.deleting and not pod.has_ended:
            message += (
                f" Pod {pod.name} is still on node {pod.node}; {_who_ends_it(pod, draft.now)}"
            )
            break
    draft.wait(reason, message)
    draft.revisit_in(LOOK_AGAIN_SECONDS)


def _who_ends_it(pod: Pod, now: datetime) -> str:
    if pod.due_at is not None and now - pod.due_at >= OVERDUE:
        return (
            f"it was to be gone by {pod.due_at:%Y-%m-%d %H:%M} UTC, and node {pod.node} does not "
            "answer. It goes when the node comes back, or when an administrator deletes its Node "
            f"object or taints it with {OUT_OF_SERVICE}."
        )
    return (
        "if the node is dead, that is when it comes back, or when its Node object is deleted or "
        f"tainted with {OUT_OF_SERVICE}."
    )


def _message(seen: Observed, pod: Pod, now: datetime) -> str:
    ending = seen.job.failing_reason if seen.job is not None else ""
    then = f"The run ends ({quote(ending)})" if ending else "The next attempt begins"
    return (
        f"Pod {pod.name} is being taken from node {pod.node} "
        f"({quote(pod.disrupted or 'it is being deleted')}). {then} once it is gone; "
        f"{_who_ends_it(pod, now)}"
    )
