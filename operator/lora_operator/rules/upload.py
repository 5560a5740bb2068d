"""What is trained and could not be stored is stored later, without a GPU, until that succeeds.

A module of its own because here a run whose Job failed has not: the only copy of hours of training
lies in its workspace, and all that is missing is a storage that answers.
"""

from lora_api.reasons import Reason
from lora_api.status import ConditionType, FailureStatus, UploadStatus
from lora_api.training import WorkspaceType
from lora_operator.rules.attempt_end import explain_end
from lora_operator.rules.base import Verdict
from lora_operator.rules.completion import complete
from lora_operator.rules.giving_up import EVERY, tell_of_upload
from lora_operator.rules.held_elsewhere import why_errand_is_held
from lora_operator.rules.patience import is_borne_no_more
from lora_operator.rules.refusals import RETRY_SECONDS
from lora_operator.state.decision import Action
from lora_operator.state.draft import Draft
from lora_operator.state.pace import LOOK_AGAIN_SECONDS
from lora_operator.state.views import Job, Observed

HELD = frozenset({Reason.QUEUED, Reason.HELD_ELSEWHERE})


def upload_is_repeated(seen: Observed, draft: Draft) -> Verdict:
    """One Job an hour, until the LoRA is stored."""
    if draft.upload is None:
        return Verdict.CONTINUE
    job = seen.upload_job
    if job is not None and job.completed_at is not None and draft.artifact is not None:
        complete(draft, draft.artifact, at=job.completed_at)
    elif job is not None and job.is_finished:
        _end_try(seen, draft, job, draft.upload)
    elif job is not None:
        _await(seen, draft, job, draft.upload)
    elif _is_lost(seen):
        _give_up(draft)
    elif not _makes_room(seen, draft):
        _wait_or_begin(seen, draft, draft.upload)
    return Verdict.SETTLED


def _is_lost(seen: Observed) -> bool:
    spec, claim = seen.run.spec, seen.claim
    if spec is not None and spec.workspace.type is WorkspaceType.EPHEMERAL:
        return False
    return claim is None or claim.phase == "Lost"


def _makes_room(seen: Observed, draft: Draft) -> bool:
    """Whether a Job that was given up is still going: two pods must never share a workspace."""
    if seen.job is not None and not seen.job.is_finished:
        if not seen.job.deleting:
            draft.do(Action.DELETE_JOB)
        return True
    going = [job for job in seen.other_jobs if not job.is_finished]
    if any(not job.deleting for job in going):
        draft.do(Action.DELETE_OTHER_JOBS)
    return bool(going)


def _wait_or_begin(seen: Observed, draft: Draft, upload: UploadStatus) -> None:
    # Not held back by spec.suspend: no GPU is used, and what is stored can be deleted.
    due = upload.next_try_at or draft.now
    if draft.now < due:
        draft.revisit_in((due - draft.now).total_seconds())
    elif seen.job_refused is not None:
        draft.revisit_in(RETRY_SECONDS)
    elif seen.run.spec is not None:
        # Without a spec that this version can read it waits for one that can.
        draft.do(Action.CREATE_UPLOAD_JOB)


def _await(seen: Observed, draft: Draft, job: Job, upload: UploadStatus) -> None:
    """Tell who holds the Job back, and give this try up where nobody has a turn for it.

    In a queue it keeps its place, however long that takes: another Job would begin at the end.
    """
    held = why_errand_is_held(seen, draft, job)
    if held is None:
        _tell_that_it_goes_on(seen, draft)
        return
    reason, message = held
    if job.queue is None and is_borne_no_more(seen, draft, since=job.created_at):
        failure = FailureStatus(reason=reason, message=message, retryable=True)
        _end_try(seen, draft, job, upload, failure)
        return
    draft.wait(
        reason,
        f"The LoRA is trained; storing it waits. {message} Set spec.cancel to give it up.",
    )
    draft.revisit_in(LOOK_AGAIN_SECONDS)


def _tell_that_it_goes_on(seen: Observed, draft: Draft) -> None:
    failure = draft.failure
    if failure is None or draft.condition(ConditionType.RUNNING).reason not in HELD:
        return
    if failure.reason == Reason.RESULT_MISSING:
        draft.wait(Reason.RESULT_MISSING, failure.message)
    else:
        tell_of_upload(seen, draft, failure)


def _end_try(
    seen: Observed,
    draft: Draft,
    job: Job,
    upload: UploadStatus,
    given_up: FailureStatus | None = None,
) -> None:
    """Write the failed try down first, then make room for the next."""
    ended_at = job.failed_at or job.completed_at or draft.now
    if upload.next_try_at is not None and upload.next_try_at > ended_at:
        if not job.deleting:
            draft.do(Action.DELETE_UPLOAD_JOB)
        return
    ended = [pod for pod in seen.upload_pods if pod.has_ended and pod.container.exit_code != 0]
    failure = given_up or (explain_end(seen, ended[-1]) if ended else draft.failure)
    if failure is None:
        failure = FailureStatus(reason=Reason.UPLOAD_FAILED, message="", retryable=True)
    draft.upload = UploadStatus(tries=upload.tries + 1, next_try_at=ended_at + EVERY)
    draft.failure = failure
    tell_of_upload(seen, draft, failure)
    draft.revisit_in(0)


def _give_up(draft: Draft) -> None:
    if draft.failure is not None and draft.failure.reason == Reason.RESULT_MISSING:
        draft.fail(draft.failure)
        return
    message = (
        "The LoRA was trained but could not be stored, and the workspace that held it has been "
        "deleted. Create the run again."
    )
    draft.fail(FailureStatus(reason=Reason.WORKSPACE_LOST, message=message, retryable=True))
