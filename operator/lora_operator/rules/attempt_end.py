"""Why one attempt ended, told from its pod: the trainer's result, or what Kubernetes saw.

A module of its own because a failed attempt that is tried again and the failed run at the end are
explained by the same words.
"""

from pydantic import ValidationError

from lora_api.exit_codes import ExitCode
from lora_api.reasons import Reason
from lora_api.result import Outcome, Result
from lora_api.status import FailureStatus
from lora_operator.rules.not_admitted import explain_refusal, was_never_admitted
from lora_operator.rules.storage_limit import explain_storage_limit, is_over_storage_limit
from lora_operator.state.last_codes import KILLED, LAST_CODES
from lora_operator.state.text import clip, quote, tail, twice
from lora_operator.state.views import Observed, Pod

# How a kubelet reports a container that it no longer finds after its node's restart; the exit code
# 137 that comes with it is made up.
LOST_SIGHT = "ContainerStatusUnknown"


def result_of(pod: Pod) -> Result | None:
    """The trainer's last word, or None where it left none that can be read."""
    text = pod.container.end_message.strip()
    if not text.startswith("{"):
        return None
    try:
        return Result.model_validate_json(text)
    except ValidationError:
        return None


def explain_end(seen: Observed, pod: Pod) -> FailureStatus:
    """Reason and sentence for an attempt that ended badly."""
    code = pod.container.exit_code
    result = result_of(pod)
    by_node = _ended_by_its_node(seen, pod, result)
    if by_node is not None:
        return by_node
    if pod.container.end_reason == "OOMKilled":
        return _out_of_memory(seen, code)
    if result is not None and result.outcome is not Outcome.SUCCEEDED:
        return FailureStatus(
            reason=result.reason,
            message=clip(result.message),
            retryable=result.retryable,
            exit_code=code,
        )
    if code == ExitCode.STALLED:
        return _stalled(seen, pod)
    return _taken_away(pod) if pod.reason else _crash(pod)


def _ended_by_its_node(seen: Observed, pod: Pod, result: Result | None) -> FailureStatus | None:
    """What the node did to the pod, where that explains more than what the trainer says."""
    if is_over_storage_limit(pod):
        return explain_storage_limit(seen, pod)
    if was_never_admitted(pod):
        return explain_refusal(pod)
    return _taken_away(pod) if _ends_by_being_taken_away(pod, result) else None


def was_taken_away(pod: Pod) -> bool:
    """Whether Kubernetes itself says so; what the pod left as its last word proves nothing."""
    if is_over_storage_limit(pod) or pod.container.end_reason == "OOMKilled":
        return False
    lost = pod.container.end_reason == LOST_SIGHT
    return pod.deleting or pod.disrupted is not None or lost


def _ends_by_being_taken_away(pod: Pod, result: Result | None) -> bool:
    if pod.disrupted is not None and (result is None or not result.retryable):
        # Tried again whatever the trainer met on its way out, so nothing final is said here.
        return True
    if pod.container.end_reason == LOST_SIGHT:
        return True
    is_killed = pod.container.exit_code == KILLED and pod.container.end_reason != "OOMKilled"
    return pod.deleting and is_killed and result is None


def _stalled(seen: Observed, pod: Pod) -> FailureStatus:
    spec = seen.run.spec
    limit = f"{spec.limits.stall_timeout_seconds} s" if spec is not None else "too long"
    return FailureStatus(
        reason=Reason.STALLED,
        message=(
            f"The trainer made no progress for {limit} (spec.limits.stallTimeoutSeconds) and "
            f"ended itself; the log of pod {pod.name} has the stacks of its threads."
        ),
        retryable=ExitCode.STALLED.is_retryable,
        exit_code=pod.container.exit_code,
    )


def _taken_away(pod: Pod) -> FailureStatus:
    return FailureStatus(
        reason=Reason.INTERRUPTED,
        message=(f"Pod {pod.name} was taken from its node ({quote(_who_took(pod))})."),
        retryable=True,
        exit_code=pod.container.exit_code,
    )


def _who_took(pod: Pod) -> str:
    if pod.disrupted is not None:
        return pod.disrupted
    if pod.container.end_reason == LOST_SIGHT:
        return f"{LOST_SIGHT}: {pod.container.end_message}".strip(": ")
    return f"{pod.reason}: {pod.message}".strip(": ") or "deleted"


def _out_of_memory(seen: Observed, exit_code: int | None) -> FailureStatus:
    spec = seen.run.spec
    memory = seen.run.status.memory or (spec.resources.memory if spec is not None else None)
    limit = f" of {memory}" if memory is not None else ""
    more = f" of {twice(memory)}" if memory is not None else ""
    return FailureStatus(
        reason=Reason.OUT_OF_MEMORY,
        message=(
            f"The trainer went over its memory limit{limit} and was killed. "
            f"Create the run again with a larger spec.resources.memory (twice as much{more} mostly "
            "does), or with a smaller spec.optimization.batchSize or resolution; with "
            "spec.resources.memoryOnRetry the next run tries that by itself."
        ),
        retryable=False,
        exit_code=exit_code,
    )


def _crash(pod: Pod) -> FailureStatus:
    container = pod.container
    code = container.exit_code
    if container.end_reason in {"StartError", "ContainerCannotRun"}:
        return FailureStatus(
            reason=Reason.TRAINER_CRASHED,
            message=(
                f"The trainer container could not start: {quote(container.end_message)}. "
                "If that does not pass, check that spec.image is a trainer image for the node's "
                "architecture."
            ),
            retryable=code not in LAST_CODES,
            exit_code=code,
        )
    said = container.end_message.strip()
    words = f" Its last words: {tail(said)}" if said else f" See the log of pod {pod.name}."
    ended = f"with exit code {code}" if code is not None else "without an exit code"
    message = f"The trainer ended {ended} and left no result.{words}"
    if code == KILLED:
        message = (
            "The trainer was killed (exit code 137), which mostly means that its node ran out of "
            "memory, so it is not tried again. Look at the node and at spec.resources.memory, then "
            f"create the run again.{words}"
        )
    return FailureStatus(
        reason=Reason.TRAINER_CRASHED,
        message=message,
        retryable=code == KILLED or code not in LAST_CODES,
        exit_code=code,
    )
