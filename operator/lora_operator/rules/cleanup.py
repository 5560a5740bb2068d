"""What goes when a run has ended: its Jobs, its workspace, in the end the run itself.

A module of its own because it decides about the only irreversible acts there are, and one question
comes before them all: may this workspace hold the only copy of something?
"""

from lora_api.exit_codes import ExitCode
from lora_api.progress import Stage
from lora_api.reasons import Reason
from lora_api.status import ConditionType, LoRATrainingStatus, Phase
from lora_api.training import LoRATrainingSpec, WorkspaceRetention
from lora_operator.state.decision import Action
from lora_operator.state.draft import Draft
from lora_operator.state.views import Job, Observed

_AFTER_SAVING = frozenset({Stage.SAMPLE, Stage.PUBLISH, Stage.DONE})


def clean_up(seen: Observed, draft: Draft) -> None:
    """Ask for what is due, and for another look when the next is."""
    spec, ended_at = seen.run.spec, seen.run.status.completed_at
    if spec is None or ended_at is None:
        return
    age = (draft.now - ended_at).total_seconds()
    _remove_jobs(seen, draft, left=spec.retention.job_seconds - age)
    keeps = keeps_workspace(seen.run.status, spec)
    jobs_are_due = age >= spec.retention.job_seconds
    if seen.claim is not None and not seen.claim.deleting and not keeps and jobs_are_due:
        draft.do(Action.DELETE_WORKSPACE)
    ttl = spec.retention.ttl_seconds
    # With the run goes its workspace.
    if ttl is None or may_hold_only_copy(seen.run.status):
        return
    if age >= ttl:
        draft.do(Action.DELETE_RUN)
    else:
        draft.revisit_in(ttl - age)


def _remove_jobs(seen: Observed, draft: Draft, *, left: float) -> None:
    """Delete each Job that is due; one that still runs is, whatever the log is worth."""
    for jobs, action in (
        ((seen.job,), Action.DELETE_JOB),
        (seen.other_jobs, Action.DELETE_OTHER_JOBS),
        ((seen.upload_job,), Action.DELETE_UPLOAD_JOB),
    ):
        present = [job for job in jobs if job is not None and not job.deleting]
        if any(left <= 0 or _goes_on(job) for job in present):
            draft.do(action)
        elif present:
            draft.revisit_in(left)


def _goes_on(job: Job) -> bool:
    # A Job that is about to fail ends its pods itself.
    return not job.is_finished and not job.failing_reason


def keeps_workspace(status: LoRATrainingStatus, spec: LoRATrainingSpec) -> bool:
    """Whether the workspace of a run that has ended stays."""
    if may_hold_only_copy(status):
        return True
    if status.phase is Phase.CANCELLED and spec.cancel is not None and spec.cancel.keep_partial:
        return True
    match spec.retention.workspace:
        case WorkspaceRetention.RETAIN:
            return True
        case WorkspaceRetention.RETAIN_ON_FAILURE:
            return status.phase is not Phase.COMPLETED
        case WorkspaceRetention.DELETE:
            return False


def may_hold_only_copy(status: LoRATrainingStatus) -> bool:
    """Whether a trained LoRA may lie in the workspace and nowhere else."""
    stored = next((c for c in status.conditions if c.type == ConditionType.ARTIFACT_STORED), None)
    if stored is None or stored.status == "True" or status.phase is Phase.CANCELLED:
        return False
    progress = status.progress
    return (
        stored.status == "Unknown"
        or (progress is not None and progress.stage in _AFTER_SAVING)
        or stored.reason in {Reason.UPLOAD_FAILED, Reason.WORKSPACE_LOST}
        or (status.failure is not None and status.failure.exit_code == ExitCode.NOT_STORED)
    )
