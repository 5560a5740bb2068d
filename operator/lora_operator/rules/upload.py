"""What is trained and could not be stored is stored later, without a GPU, until that succeeds.

A module of its own because here a run whose Job failed has not: the only copy of hours of training
lies in its workspace, and all that is missing is a storage that answers.
"""

from datetime import datetime, timedelta

from lora_api.exit_codes import ExitCode
from lora_api.progress import Stage
from lora_api.reasons import Reason
from lora_api.status import ConditionType, FailureStatus, Phase, UploadStatus
from lora_operator.rules.attempt_end import explain_end
from lora_operator.rules.base import Verdict
from lora_operator.rules.completion import complete
from lora_operator.rules.refusals import RETRY_SECONDS
from lora_operator.state.decision import Action
from lora_operator.state.draft import Draft
from lora_operator.state.views import Job, Observed

EVERY = timedelta(hours=1)


def is_trained_but_not_stored(seen: Observed, job: Job, failure: FailureStatus) -> bool:
    """Whether the failed Job leaves a finished LoRA in a workspace that still exists."""
    if seen.claim is None or seen.claim.deleting or seen.claim.phase == "Lost":
        return False
    known = seen.run.status.failure
    codes = {failure.exit_code, known.exit_code if known is not None else None}
    if ExitCode.NOT_STORED in codes:
        return True
    # The deadline interrupted a trainer that was storing already.
    progress, phase = seen.run.status.progress, seen.run.status.phase
    is_storing = phase is Phase.UPLOADING and progress is not None
    return (
        job.failed_reason == "DeadlineExceeded"
        and is_storing
        and (progress is not None and progress.stage == Stage.PUBLISH)
    )


def repeat_upload(draft: Draft, failure: FailureStatus, *, at: datetime) -> None:
    """Begin to repeat the upload."""
    draft.failure = failure
    draft.upload = UploadStatus(tries=0, next_try_at=at + EVERY)
    _tell(draft, failure)


def upload_is_repeated(seen: Observed, draft: Draft) -> Verdict:
    """One Job an hour, until the LoRA is stored."""
    if draft.upload is None:
        return Verdict.CONTINUE
    job = seen.upload_job
    if job is not None and job.completed_at is not None and draft.artifact is not None:
        complete(draft, draft.artifact, at=job.completed_at)
    elif job is not None and job.is_finished:
        _end_try(seen, draft, job, draft.upload)
    elif job is None and seen.claim is None:
        _give_up(draft)
    elif job is None:
        _wait_or_begin(seen, draft, draft.upload)
    return Verdict.SETTLED


def _wait_or_begin(seen: Observed, draft: Draft, upload: UploadStatus) -> None:
    # Not held back by spec.suspend: no GPU is used, and what is stored can be deleted.
    due = upload.next_try_at or draft.now
    if draft.now < due:
        draft.revisit_in((due - draft.now).total_seconds())
    elif seen.job_refused is not None:
        draft.revisit_in(RETRY_SECONDS)
    else:
        draft.do(Action.CREATE_UPLOAD_JOB)


def _end_try(seen: Observed, draft: Draft, job: Job, upload: UploadStatus) -> None:
    """Write the failed try down first, then make room for the next."""
    ended_at = job.failed_at or job.completed_at or draft.now
    if upload.next_try_at is not None and upload.next_try_at > ended_at:
        if not job.deleting:
            draft.do(Action.DELETE_UPLOAD_JOB)
        return
    ended = [pod for pod in seen.upload_pods if pod.has_ended and pod.container.exit_code != 0]
    failure = explain_end(seen, ended[-1]) if ended else draft.failure
    if failure is None:
        failure = FailureStatus(reason=Reason.UPLOAD_FAILED, message="", retryable=True)
    draft.upload = UploadStatus(tries=upload.tries + 1, next_try_at=ended_at + EVERY)
    draft.failure = failure
    _tell(draft, failure)
    draft.revisit_in(0)


def _tell(draft: Draft, failure: FailureStatus) -> None:
    upload = draft.upload
    at = f" at {upload.next_try_at:%H:%M} UTC" if upload and upload.next_try_at else ""
    message = (
        f"The LoRA is trained and lies in the workspace, but could not be stored: {failure.message}"
        f" It is tried again every hour without a GPU, next{at}; set spec.cancel to give it up."
    )
    draft.wait(Reason.UPLOAD_FAILED, message)
    draft.set(ConditionType.ARTIFACT_STORED, "False", Reason.UPLOAD_FAILED, message)


def _give_up(draft: Draft) -> None:
    if draft.failure is not None and draft.failure.reason == Reason.RESULT_MISSING:
        draft.fail(draft.failure)
        return
    message = (
        "The LoRA was trained but could not be stored, and the workspace that held it has been "
        "deleted. Create the run again."
    )
    draft.fail(FailureStatus(reason=Reason.WORKSPACE_LOST, message=message, retryable=True))
