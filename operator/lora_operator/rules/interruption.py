"""The pod is being taken from its node, but is still there: drained, preempted, or its node lost.

The container's last known state stays "running" on a dead node, for as long as nobody says
otherwise; the Job makes no other pod before this one is gone, because they share a workspace. Even
a forced deletion of the pod does not end that: the Job's finalizer holds it until it has failed.
"""

from lora_api.reasons import Reason
from lora_operator.rules.base import Verdict
from lora_operator.rules.running import mirror_progress
from lora_operator.state.draft import Draft
from lora_operator.state.text import quote
from lora_operator.state.views import Observed, Pod

# Who sets it says that the node is off; then Kubernetes lets the node's pods fail.
OUT_OF_SERVICE = "node.kubernetes.io/out-of-service"


def pod_is_taken_away(seen: Observed, draft: Draft) -> Verdict:
    """Say what is awaited; the phase stays, as the trainer may be writing its checkpoint."""
    pod = seen.latest_pod
    if pod is None or pod.node is None or pod.has_ended:
        return Verdict.CONTINUE
    if not pod.deleting and pod.disrupted is None:
        return Verdict.CONTINUE
    mirror_progress(seen, draft)
    draft.wait(Reason.INTERRUPTED, _message(seen, pod))
    return Verdict.SETTLED


def _message(seen: Observed, pod: Pod) -> str:
    ending = seen.job.failing_reason if seen.job is not None else ""
    then = f"The run ends ({quote(ending)})" if ending else "The next attempt begins"
    return (
        f"Pod {pod.name} is being taken from node {pod.node} "
        f"({quote(pod.disrupted or 'it is being deleted')}). {then} once it is gone; if the node "
        "is dead, that is when it comes back, or when its Node object is deleted or tainted with "
        f"{OUT_OF_SERVICE}."
    )
