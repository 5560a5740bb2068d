"""What an Ephemeral workspace left in the output's bucket, and when it goes.

A module of its own because the operator has no way into a bucket: it sends the trainer, in a Job
without a GPU, and has to remember that this was done. A run that completed removes its copy itself.
"""

from lora_api.status import Phase
from lora_api.training import WorkspaceType
from lora_operator.rules.held_elsewhere import why_errand_is_held
from lora_operator.state.decision import Action
from lora_operator.state.draft import Draft
from lora_operator.state.views import Job, Observed

# A storage that is away comes back; one that never does must not cost a pod an hour for ever.
AGAIN_SECONDS = 3600
GIVE_UP_SECONDS = 7 * 24 * 3600
REFUSED_SECONDS = 300


def copy_is_gone(seen: Observed, draft: Draft, *, age: float) -> bool:
    """Have the copy removed; to be asked only when its time has come.

    Args:
        seen: A run that has ended.
        draft: Receives the Job to be made or taken away, and the note that it is done.
        age: Seconds since the run's end.

    Returns:
        Whether nothing of it is left that anybody would wait for.
    """
    job = seen.tidy_job
    if not may_exist(seen):
        _clear_away(draft, job)
        return True
    if job is None:
        return _begin(seen, draft, age)
    if job.completed_at is not None:
        draft.workspace_copy_removed_at = job.completed_at
        draft.revisit_in(0)
    elif job.failed_at is not None:
        left = AGAIN_SECONDS - (draft.now - job.failed_at).total_seconds()
        if left <= 0:
            _clear_away(draft, job)
        else:
            draft.revisit_in(left)
    else:
        _let_go(seen, draft, job, age)
    return age >= GIVE_UP_SECONDS


def may_exist(seen: Observed) -> bool:
    """Whether a trainer may have left a copy that nobody has removed yet."""
    status, spec = seen.run.status, seen.run.spec
    return (
        spec is not None
        and spec.workspace.type is WorkspaceType.EPHEMERAL
        and status.started_at is not None
        and status.phase is not Phase.COMPLETED
        and status.workspace_copy_removed_at is None
        # Who stored the partial LoRA has removed it.
        and status.partial is None
    )


def _begin(seen: Observed, draft: Draft, age: float) -> bool:
    if age >= GIVE_UP_SECONDS:
        return True
    if _is_in_use(seen):
        # Its end is heard of, and a trainer that ends brings its copy up to date.
        return False
    if seen.job_refused is not None:
        draft.revisit_in(REFUSED_SECONDS)
    else:
        draft.do(Action.CREATE_TIDY_JOB)
    return False


def _let_go(seen: Observed, draft: Draft, job: Job, age: float) -> None:
    """See that a Job that is held back begins, or goes; the run's status tells of its end alone."""
    why_errand_is_held(seen, draft, job)
    if not job.suspended or job.deleting:
        return
    if age >= GIVE_UP_SECONDS:
        draft.do(Action.DELETE_TIDY_JOB)
    else:
        draft.revisit_in(GIVE_UP_SECONDS - age)


def _is_in_use(seen: Observed) -> bool:
    jobs = (seen.job, seen.upload_job, seen.partial_job, *seen.other_jobs)
    return any(job is not None and not job.is_finished for job in jobs) or bool(seen.live_pods)


def _clear_away(draft: Draft, job: Job | None) -> None:
    if job is not None and job.is_finished and not job.deleting:
        draft.do(Action.DELETE_TIDY_JOB)
