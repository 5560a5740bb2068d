"""What goes when a run has ended: its Jobs, its workspace, in the end the run itself.

A module of its own because it decides about the only irreversible acts there are, and one question
comes before them all: may this workspace hold the only copy of something?
"""

from lora_api.exit_codes import ExitCode
from lora_api.status import ConditionType, Phase
from lora_api.training import WorkspaceRetention
from lora_operator.rules.bucket_copy import copy_is_gone
from lora_operator.rules.giving_up import TRAINED_STAGES
from lora_operator.state.decision import Action
from lora_operator.state.draft import Draft
from lora_operator.state.views import Job, Observed


def clean_up(seen: Observed, draft: Draft) -> None:
    """Ask for what is due, and for another look when the next is."""
    retention, ended_at = seen.run.retention, seen.run.status.completed_at
    if ended_at is None:
        return
    age = (draft.now - ended_at).total_seconds()
    _remove_jobs(seen, draft, left=retention.job_seconds - age)
    keeps = keeps_workspace(seen)
    jobs_are_due = age >= retention.job_seconds
    if not jobs_are_due and not keeps:
        # Whatever becomes of the Jobs: the workspace or its copy is due then.
        draft.revisit_in(retention.job_seconds - age)
    if seen.claim is not None and not seen.claim.deleting and not keeps and jobs_are_due:
        draft.do(Action.DELETE_WORKSPACE)
    ttl = retention.ttl_seconds
    is_due = ttl is not None and age >= ttl
    is_tidied = True
    if is_due or (jobs_are_due and not keeps):
        is_tidied = copy_is_gone(seen, draft, age=age)
    # With the run goes its workspace.
    if ttl is None or may_hold_only_copy(seen) or not is_tidied:
        return
    if is_due:
        draft.do(Action.DELETE_RUN)
    else:
        draft.revisit_in(ttl - age)


def _remove_jobs(seen: Observed, draft: Draft, *, left: float) -> None:
    """Delete each Job that is due; one that still runs is, whatever the log is worth."""
    for jobs, action in (
        ((seen.job,), Action.DELETE_JOB),
        (seen.other_jobs, Action.DELETE_OTHER_JOBS),
        ((seen.upload_job,), Action.DELETE_UPLOAD_JOB),
        ((seen.partial_job,), Action.DELETE_PARTIAL_JOB),
    ):
        present = [job for job in jobs if job is not None and not job.deleting]
        if any(left <= 0 or _goes_on(job) for job in present):
            draft.do(action)
        elif present:
            draft.revisit_in(left)


def _goes_on(job: Job) -> bool:
    # A Job that is about to fail ends its pods itself.
    return not job.is_finished and not job.failing_reason


def keeps_workspace(seen: Observed) -> bool:
    """Whether the workspace of a run that has ended stays."""
    status, spec = seen.run.status, seen.run.spec
    if may_hold_only_copy(seen):
        return True
    cancel = spec.cancel if spec is not None else None
    is_wanted = status.phase is Phase.CANCELLED and cancel is not None and cancel.keep_partial
    if is_wanted and status.partial is None and status.artifact is None:
        # What could not be stored; else it is a workspace as any other.
        return True
    match seen.run.retention.workspace:
        case WorkspaceRetention.RETAIN:
            return True
        case WorkspaceRetention.RETAIN_ON_FAILURE:
            return status.phase is not Phase.COMPLETED
        case WorkspaceRetention.DELETE:
            return False


def may_hold_only_copy(seen: Observed) -> bool:
    """Whether a trained LoRA may lie in the workspace and nowhere else."""
    status, claim = seen.run.status, seen.claim
    if claim is None or claim.phase == "Lost":
        # Nothing is left to hold on to.
        return False
    stored = next((c for c in status.conditions if c.type == ConditionType.ARTIFACT_STORED), None)
    if stored is None or stored.status == "True" or status.phase is Phase.CANCELLED:
        return False
    progress, failure = status.progress, status.failure
    return (
        stored.status == "Unknown"
        or status.trained is not None
        # Ends that were written before `trained` was known.
        or (progress is not None and progress.stage in TRAINED_STAGES)
        or (failure is not None and failure.exit_code == ExitCode.NOT_STORED)
    )
