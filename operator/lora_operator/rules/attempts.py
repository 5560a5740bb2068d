"""Which attempt this is: pod, node, number and first start, as far as they can be seen."""

from lora_operator.rules.base import Verdict
from lora_operator.state.decision import Draft
from lora_operator.state.views import Observed


def attempt_is_recorded(seen: Observed, draft: Draft) -> Verdict:
    """Count pods that were never recorded before, and name the latest."""
    pod = seen.latest_pod
    if pod is None:
        return Verdict.CONTINUE
    draft.attempts = max(_counted(seen), len(seen.pods), _job_count(seen))
    draft.pod_name = pod.name
    draft.node_name = pod.node or (
        seen.run.status.node_name if pod.name == seen.run.status.pod_name else None
    )
    starts = [p.container.started_at for p in seen.pods if p.container.started_at is not None]
    if draft.started_at is None and starts:
        draft.started_at = min(starts)
    return Verdict.CONTINUE


def _counted(seen: Observed) -> int:
    """What was counted before, plus the pods that came after the one recorded last."""
    before = seen.run.status.attempts or 0
    names = [pod.name for pod in seen.pods]
    recorded = seen.run.status.pod_name
    if recorded in names:
        return before + len(names) - 1 - names.index(recorded)
    # The recorded pod is gone (preempted, its node lost), so at least the latest one is new.
    return before + 1


def _job_count(seen: Observed) -> int:
    if seen.job is None:
        return 0
    return seen.job.failed_pods + (1 if seen.job.active_pods else 0)
