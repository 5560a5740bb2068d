"""The one way in which a run is given up: what is trained is stored first.

A module of its own because a dozen rules may end a run badly, and each of them would have to think
of the LoRA that lies finished in the workspace.
"""

from datetime import datetime, timedelta

from lora_api.exit_codes import ExitCode
from lora_api.progress import Stage
from lora_api.reasons import Reason
from lora_api.status import ConditionType, FailureStatus, TrainedStatus, UploadStatus
from lora_api.training import WorkspaceType
from lora_operator.rules.attempt_end import result_of
from lora_operator.rules.base import Verdict
from lora_operator.state.draft import Draft
from lora_operator.state.text import sentence
from lora_operator.state.views import Observed, Pod

EVERY = timedelta(hours=1)
TRAINED_STAGES = frozenset({Stage.SAVE, Stage.SAMPLE, Stage.PUBLISH, Stage.DONE})


def training_is_noted(seen: Observed, draft: Draft) -> Verdict:
    """Write down once that the LoRA is trained: a later attempt begins with Fetch again."""
    if draft.artifact is not None:
        return Verdict.CONTINUE
    claim_uid = seen.claim.uid if seen.claim is not None else None
    known = draft.trained
    # A claim that was made again holds nothing of what an earlier one held.
    is_other = known is not None and claim_uid is not None and known.claim_uid != claim_uid
    if (known is None or is_other) and _tells_of_training(seen, draft, is_other=is_other):
        draft.trained = TrainedStatus(at=draft.now, claim_uid=claim_uid)
    return Verdict.CONTINUE


def _tells_of_training(seen: Observed, draft: Draft, *, is_other: bool) -> bool:
    if seen.progress is not None:
        told = seen.progress
        if told.stage in TRAINED_STAGES or 0 < told.total_steps <= told.step:
            return True
    if any(_ended_trained(pod, seen) for pod in (*seen.pods, *seen.upload_pods)):
        return True
    if is_other:
        return False
    # What was mirrored before this field was known, or by an attempt that is gone.
    progress = draft.progress
    return (progress is not None and progress.stage in TRAINED_STAGES) or any(
        attempt.exit_code == ExitCode.NOT_STORED for attempt in draft.recent_attempts
    )


def _ended_trained(pod: Pod, seen: Observed) -> bool:
    if seen.claim is not None and pod.created_at < seen.claim.created_at:
        return False
    result = result_of(pod)
    has_all_steps = result is not None and 0 < result.total_steps <= result.step
    return pod.container.exit_code == ExitCode.NOT_STORED or has_all_steps


def give_up(
    seen: Observed, draft: Draft, failure: FailureStatus, *, at: datetime | None = None
) -> None:
    """End the run badly, unless a finished LoRA only waits to be stored: then that is repeated.

    Args:
        seen: What there is of the run.
        draft: Receives the end, or the first words about the upload.
        failure: Why the run can't go on.
        at: When its Job failed; None where something else ends it. Then storing was not what
            failed, so the first try begins as soon as no pod of a Job is left.
    """
    if not is_trained_but_not_stored(seen, draft, failure):
        draft.fail(failure, at=at)
        return
    draft.failure = failure
    draft.upload = UploadStatus(tries=0, next_try_at=at + EVERY if at is not None else draft.now)
    tell_of_upload(seen, draft, failure)
    if at is None:
        draft.revisit_in(0)


def is_trained_but_not_stored(seen: Observed, draft: Draft, failure: FailureStatus) -> bool:
    """Whether a finished LoRA lies in a workspace that still exists, and storing it can succeed."""
    spec, trained = seen.run.spec, draft.trained
    if spec is None or draft.artifact is not None or draft.upload is not None:
        return False
    codes = {failure.exit_code, *(attempt.exit_code for attempt in draft.recent_attempts)}
    if spec.workspace.type is WorkspaceType.EPHEMERAL:
        # The copy in the bucket is as good as it gets where only the upload's end was missing.
        return ExitCode.NOT_STORED in codes
    if not has_workspace(seen) or trained is None:
        return False
    if seen.claim is not None and trained.claim_uid != seen.claim.uid:
        return False
    return (
        ExitCode.NOT_STORED in codes
        or failure.retryable
        or failure.reason == Reason.DEADLINE_EXCEEDED
    )


def has_workspace(seen: Observed) -> bool:
    """Whether the claim is there, and going to stay."""
    claim = seen.claim
    return claim is not None and not claim.deleting and claim.phase != "Lost"


def tell_of_upload(seen: Observed, draft: Draft, failure: FailureStatus) -> None:
    """Say what became of the LoRA, and when it is tried again to store it."""
    upload, spec = draft.upload, seen.run.spec
    at = f" at {upload.next_try_at:%H:%M} UTC" if upload and upload.next_try_at else ""
    is_copy = spec is not None and spec.workspace.type is WorkspaceType.EPHEMERAL
    place = "the workspace's copy in the bucket" if is_copy else "the workspace"
    message = (
        f"The LoRA is trained and lies in {place}, but could not be stored: "
        f"{sentence(failure.message)} It is tried again every hour without a GPU, next{at}; set "
        "spec.cancel to give it up."
    )
    draft.wait(Reason.UPLOAD_FAILED, message)
    draft.set(ConditionType.ARTIFACT_STORED, "False", Reason.UPLOAD_FAILED, message)
    draft.set(ConditionType.SUSPENDED, "False", Reason.NOT_SUSPENDED)
