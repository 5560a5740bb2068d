"""The Job: made exactly once per run; a Job that vanished ends the run, it is not made again."""

from lora_api.reasons import Reason
from lora_api.status import FailureStatus
from lora_operator.rules.admission import explain_spec_fault
from lora_operator.rules.base import Verdict
from lora_operator.rules.giving_up import give_up
from lora_operator.rules.refusals import wait_for_permission
from lora_operator.state.decision import Action
from lora_operator.state.draft import Draft
from lora_operator.state.views import Observed


def job_exists(seen: Observed, draft: Draft) -> Verdict:
    """Create the Job, or find that somebody deleted it."""
    if seen.job is not None:
        return Verdict.CONTINUE
    if seen.job_refused is not None:
        return wait_for_permission(seen, seen.job_refused, draft)
    recorded = seen.run.status.job_name
    if recorded != seen.run.job_name:
        return _create(seen, draft)
    give_up(
        seen,
        draft,
        FailureStatus(
            reason=Reason.JOB_VANISHED,
            message=(
                f"Job {recorded} was deleted before it ended, so the training stopped. "
                "Create the run again to train; leave its Job to the operator."
            ),
            retryable=True,
        ),
    )
    return Verdict.SETTLED


def _create(seen: Observed, draft: Draft) -> Verdict:
    going = [job.name for job in seen.other_jobs if not job.is_finished]
    if going:
        # Two trainers must never write into one workspace.
        draft.wait(Reason.RETRYING, f"Job {going[0]} and its pod are still being removed.")
        return Verdict.SETTLED
    if seen.run.spec is None:
        give_up(seen, draft, explain_spec_fault(seen.run))
        return Verdict.SETTLED
    draft.do(Action.CREATE_JOB)
    draft.wait(Reason.NOT_STARTED, "The training Job is being created.")
    return Verdict.SETTLED
