"""spec.cancel: the trainer is stopped, then the run ends as its user asked."""

from lora_api.reasons import Reason
from lora_operator.rules.base import Verdict
from lora_operator.rules.interruption import await_ends
from lora_operator.rules.partial import what_is_kept
from lora_operator.state.decision import Action
from lora_operator.state.draft import Draft
from lora_operator.state.text import clip
from lora_operator.state.views import Observed


def run_is_cancelled(seen: Observed, draft: Draft) -> Verdict:
    """Delete the Job, so that its trainer writes a checkpoint and ends; then the run has ended."""
    spec = seen.run.spec
    if spec is None or spec.cancel is None:
        return Verdict.CONTINUE
    for jobs, pods, action in (
        ((seen.job,), seen.pods, Action.DELETE_JOB),
        (seen.other_jobs, (), Action.DELETE_OTHER_JOBS),
        ((seen.upload_job,), seen.upload_pods, Action.DELETE_UPLOAD_JOB),
    ):
        going = [job for job in jobs if job is not None and not job.is_finished]
        if not going:
            continue
        job = going[0]
        if any(not each.deleting for each in going):
            draft.do(action)
        await_ends(
            pods,
            draft,
            Reason.CANCELLING,
            f"The run is being cancelled (spec.cancel); it ends once Job {job.name} and its pod "
            "are gone.",
        )
        return Verdict.SETTLED
    kept = what_is_kept(seen, draft)
    if kept is not None:
        draft.cancel(clip(f"Cancelled by spec.cancel{_how_far(draft)}. {kept}".rstrip()))
    return Verdict.SETTLED


def _how_far(draft: Draft) -> str:
    progress = draft.progress
    if progress is None or not progress.total_steps:
        return " before the training began"
    return f" at step {progress.step} of {progress.total_steps}"
