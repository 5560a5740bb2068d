"""Which attempt this is, and what is kept of it: pod, node, times, and how it ended."""

from datetime import datetime

from lora_api.reasons import Reason
from lora_api.result import Result
from lora_api.status import MAX_RECENT_ATTEMPTS, AttemptStatus, ProgressStatus
from lora_operator.rules.attempt_end import explain_end, result_of
from lora_operator.rules.base import Verdict
from lora_operator.rules.running import percent
from lora_operator.state.draft import Draft
from lora_operator.state.views import Observed, Pod


def attempt_is_recorded(seen: Observed, draft: Draft) -> Verdict:
    """Name Job and pod, count pods that were never recorded before, note how each ended."""
    pod = seen.latest_pod
    if seen.job is not None:
        draft.job_name = seen.job.name
        draft.job_number = seen.run.job_number if seen.run.job_number > 1 else draft.job_number
    if pod is not None:
        draft.attempts = max(_counted(seen), len(seen.pods), _job_count(seen))
        draft.pod_name = pod.name
        draft.node_name = pod.node or (
            seen.run.status.node_name if pod.name == seen.run.status.pod_name else None
        )
        starts = [p.container.started_at for p in seen.pods if p.container.started_at is not None]
        if draft.started_at is None and starts:
            draft.started_at = min(starts)
    _keep(seen, draft)
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


def _keep(seen: Observed, draft: Draft) -> None:
    present = {pod.name: pod for pod in seen.pods}
    kept = [
        _updated(seen, draft, attempt, present.pop(attempt.pod_name, None))
        for attempt in draft.recent_attempts
    ]
    latest = draft.attempts or 0
    for offset, pod in enumerate(reversed(seen.pods)):
        if pod.name in present:
            new = AttemptStatus(number=max(1, latest - offset), pod_name=pod.name)
            kept.append(_updated(seen, draft, new, pod))
    kept.sort(key=lambda attempt: attempt.number)
    draft.recent_attempts = tuple(kept[-MAX_RECENT_ATTEMPTS:])


def _updated(seen: Observed, draft: Draft, known: AttemptStatus, pod: Pod | None) -> AttemptStatus:
    if known.ended_at is not None:
        return known
    if pod is None:
        # Nobody saw its end: it was taken away while no operator looked.
        return known.model_copy(
            update={"ended_at": draft.now, "reason": known.reason or Reason.INTERRUPTED}
        )
    changes: dict[str, object] = {
        "node_name": pod.node or known.node_name,
        "scheduled_at": pod.scheduled_at or known.scheduled_at,
        "started_at": pod.container.started_at or known.started_at,
    }
    if pod.has_ended:
        changes |= _end(seen, draft, known, pod)
    return known.model_copy(update=changes)


def _end(seen: Observed, draft: Draft, known: AttemptStatus, pod: Pod) -> dict[str, object]:
    result = result_of(pod)
    is_good = pod.container.exit_code == 0 or pod.phase == "Succeeded"
    reason: str = Reason.COMPLETED if is_good else explain_end(seen, pod).reason
    step = result.step if result is not None else None
    if result is not None and pod is seen.latest_pod:
        _note_last_step(draft, result)
    if not step and draft.progress is not None and pod.name == draft.stored.pod_name:
        step = draft.progress.step
    return {
        "ended_at": _second(pod.container.ended_at) or draft.now,
        "exit_code": pod.container.exit_code,
        "reason": known.reason or reason,
        "step": step,
    }


def _note_last_step(draft: Draft, result: Result) -> None:
    """What the trainer said at its end is newer than what it was last asked."""
    known = draft.progress or ProgressStatus()
    total_steps = result.total_steps or known.total_steps
    if result.step > known.step:
        draft.progress = known.model_copy(
            update={
                "step": result.step,
                "total_steps": total_steps,
                "percent": percent(result.step, total_steps),
                "updated_at": draft.now,
            }
        )


def _second(when: datetime | None) -> datetime | None:
    return when.replace(microsecond=0) if when is not None else None
