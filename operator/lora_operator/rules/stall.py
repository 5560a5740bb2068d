"""A trainer that makes no progress, however alive it claims to be, is ended and started again.

A module of its own because the trainer watches itself by the same limit and leaves the stacks of
its threads in the log; here is caught what is too stuck even for that.
"""

from lora_api.progress import stall_allowance
from lora_api.reasons import Reason
from lora_api.status import FailureStatus
from lora_operator.rules.base import Verdict
from lora_operator.rules.giving_up import give_up
from lora_operator.state.decision import Action
from lora_operator.state.draft import Draft
from lora_operator.state.views import Observed, Pod

# The trainer's own watchdog knows more, so it comes first.
MARGIN_SECONDS = 60


def trainer_makes_progress(seen: Observed, draft: Draft) -> Verdict:
    """Note the stall first and evict the pod at the next look, so that each is counted once."""
    pod, moved_at, spec = seen.latest_pod, seen.progress_moved_at, seen.run.spec
    if pod is None or spec is None or not pod.container.running or pod.has_ended:
        return Verdict.CONTINUE
    if _is_noted(draft, pod):
        draft.do(Action.EVICT_POD)
        return Verdict.SETTLED
    limit = spec.limits.stall_timeout_seconds
    if moved_at is None:
        # Who has just begun to lead has asked nobody yet; a trainer that hangs tells nothing new,
        # and without news nobody looks.
        draft.revisit_in(limit + MARGIN_SECONDS)
        return Verdict.CONTINUE
    if seen.progress is not None:
        limit = int(stall_allowance(seen.progress.stage_percent, timeout_seconds=limit))
    left = limit + MARGIN_SECONDS - (draft.now - moved_at).total_seconds()
    if left > 0:
        draft.revisit_in(left)
        return Verdict.CONTINUE
    stalls = (draft.stalls or 0) + 1
    is_last = stalls > spec.limits.retries
    draft.stalls = stalls
    failure = _failure(pod, limit, is_last=is_last)
    if is_last:
        give_up(seen, draft, failure)
    else:
        _note(draft, pod, failure)
    return Verdict.SETTLED


def _is_noted(draft: Draft, pod: Pod) -> bool:
    return any(
        attempt.pod_name == pod.name and attempt.reason == Reason.STALLED
        for attempt in draft.recent_attempts
    )


def _failure(pod: Pod, limit: int, *, is_last: bool) -> FailureStatus:
    then = (
        "No attempt is left (spec.limits.retries)."
        if is_last
        else "It is ended; the next attempt goes on from the last checkpoint."
    )
    return FailureStatus(
        reason=Reason.STALLED,
        message=(
            f"Pod {pod.name} made no progress for {limit} s (spec.limits.stallTimeoutSeconds). "
            f"{then}"
        ),
        retryable=True,
    )


def _note(draft: Draft, pod: Pod, failure: FailureStatus) -> None:
    draft.recent_attempts = tuple(
        attempt.model_copy(update={"reason": Reason.STALLED})
        if attempt.pod_name == pod.name
        else attempt
        for attempt in draft.recent_attempts
    )
    draft.failure = failure
    draft.wait(Reason.INTERRUPTED, failure.message)
    draft.revisit_in(0)
