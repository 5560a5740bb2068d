"""The phase, and what tools that know any kind may conclude, both derived from the conditions.

A module of its own so that there is one answer to "which phase is this?": no rule names a phase.
"""

from collections.abc import Mapping

from lora_api.reasons import Reason
from lora_api.status import Condition, ConditionType, Phase

# While the trainer runs, the reason of the condition Running says what it does.
RUNNING_PHASES: Mapping[str, Phase] = {
    Reason.RUNNING: Phase.STARTING,
    Reason.TRAINING: Phase.TRAINING,
    Reason.VALIDATING: Phase.VALIDATING,
    Reason.UPLOADING: Phase.UPLOADING,
}
# While it does not, the reason says what is awaited. Reasons that are not listed (the pod is being
# taken away, the last attempt's own fault) leave the phase as it was.
_WAITING_PHASES: Mapping[str, Phase] = {
    Reason.NOT_STARTED: Phase.PENDING,
    Reason.WORKSPACE_PENDING: Phase.PENDING,
    Reason.PREDECESSOR_TERMINATING: Phase.PENDING,
    Reason.NAME_TAKEN: Phase.PENDING,
    Reason.CREATION_REFUSED: Phase.PENDING,
    Reason.POD_CREATION_REFUSED: Phase.PENDING,
    Reason.POD_PENDING: Phase.PENDING,
    Reason.UNSCHEDULABLE: Phase.PENDING,
    Reason.NO_FITTING_GPU: Phase.PENDING,
    Reason.RETRYING: Phase.PENDING,
    Reason.POD_STARTING: Phase.STARTING,
    Reason.IMAGE_PULL_FAILED: Phase.STARTING,
    Reason.SECRET_NOT_FOUND: Phase.STARTING,
    Reason.CONTAINER_CONFIG_ERROR: Phase.STARTING,
    Reason.FINISHING: Phase.UPLOADING,
    Reason.UPLOAD_FAILED: Phase.UPLOADING,
    Reason.RESULT_MISSING: Phase.UPLOADING,
}
# Held back by a queue, or for want of a policy that can be understood.
_QUEUED = frozenset({Reason.QUEUED, Reason.POLICY_UNREADABLE, Reason.CURRENCY_CHANGED})
_NOT_YET_RUNNING = frozenset({Phase.PENDING, Phase.QUEUED, Phase.STARTING})


def phase_of(conditions: Mapping[str, Condition], before: Phase | None) -> Phase:
    """The phase that conditions amount to.

    Args:
        conditions: By type.
        before: The phase until now, which stays where the conditions name no other.
    """
    succeeded = conditions[ConditionType.SUCCEEDED]
    if succeeded.status == "True":
        return Phase.COMPLETED
    if succeeded.status == "False":
        return Phase.CANCELLED if succeeded.reason == Reason.CANCELLED else Phase.FAILED
    suspended = conditions[ConditionType.SUSPENDED]
    if suspended.status == "True":
        return Phase.QUEUED if suspended.reason in _QUEUED else Phase.SUSPENDED
    running = conditions[ConditionType.RUNNING]
    phases = RUNNING_PHASES if running.status == "True" else _WAITING_PHASES
    return phases.get(running.reason) or (
        Phase.PENDING if before is None or before.is_terminal else before
    )


def is_reconciling(conditions: Mapping[str, Condition], phase: Phase) -> bool:
    """Whether kstatus should call the run InProgress.

    As for a Job, which kstatus calls Current once it runs: waiting for an hour of training is not
    what somebody means who waits until what he applied is in effect.
    """
    return phase in _NOT_YET_RUNNING and conditions[ConditionType.RUNNING].status != "True"
