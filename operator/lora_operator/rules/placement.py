"""From pod to node: a pod that no node can take, or that nobody has looked at yet."""

from lora_api.reasons import Reason
from lora_api.training import LoRATrainingSpec
from lora_operator.rules.base import Verdict
from lora_operator.rules.patience import bear
from lora_operator.state.draft import Draft
from lora_operator.state.pace import LOOK_AGAIN_SECONDS
from lora_operator.state.text import quote
from lora_operator.state.views import Observed, Pod


def pod_is_placed(seen: Observed, draft: Draft) -> Verdict:
    """A pod without a node waits, with the scheduler's reason if it gave one."""
    pod = seen.latest_pod
    if pod is None or pod.node is not None or pod.has_ended:
        return Verdict.CONTINUE
    if pod.unschedulable is None:
        draft.wait(Reason.POD_PENDING, f"Pod {pod.name} waits for a node.")
    elif seen.gpu_misfit is not None:
        draft.wait(
            Reason.NO_FITTING_GPU,
            f"{seen.gpu_misfit} The scheduler says: {quote(pod.unschedulable)}. The run starts by "
            "itself when such a node appears.",
        )
        # Labels may come after their node, and nobody tells of them.
        draft.revisit_in(LOOK_AGAIN_SECONDS)
    else:
        draft.wait(
            Reason.UNSCHEDULABLE,
            f"No node can take the pod: {quote(pod.unschedulable)}. {_wanted(seen.run.spec)}"
            "The run starts by itself when a node has room.",
        )
    bear_placing(seen, draft, pod)
    return Verdict.SETTLED


def bear_placing(seen: Observed, draft: Draft, pod: Pod) -> None:
    """A pod waits for its node only so long, whatever the reason."""
    if seen.run.spec is not None:
        bear(
            seen,
            draft,
            since=pod.created_at,
            seconds=seen.run.spec.limits.schedule_timeout_seconds,
            field="scheduleTimeoutSeconds",
        )


def _wanted(spec: LoRATrainingSpec | None) -> str:
    if spec is None:
        return ""
    asks = spec.resources
    return (
        f"It asks for {asks.gpus} GPU(s), {asks.cpu} CPU and {asks.memory} of memory "
        "(spec.resources.gpus, cpu, memory). "
    )
