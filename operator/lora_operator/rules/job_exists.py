"""The Job: made exactly once per run; a Job that vanished ends the run, it is not made again."""

from lora_api.reasons import Reason
from lora_api.status import FailureStatus, Phase
from lora_operator.rules.base import Verdict
from lora_operator.rules.refusals import wait_for_permission
from lora_operator.state.decision import Action, Draft
from lora_operator.state.views import Observed


def job_exists(seen: Observed, draft: Draft) -> Verdict:
    """Create the Job, or find that somebody deleted it."""
    if seen.job is not None:
        draft.job_name = seen.job.name
        return Verdict.CONTINUE
    if seen.job_refused is not None:
        return wait_for_permission(seen.job_refused, draft)
    recorded = seen.run.status.job_name
    if recorded is None:
        draft.do(Action.CREATE_JOB)
        draft.wait(Phase.PENDING, Reason.NOT_STARTED, "The training Job is being created.")
        return Verdict.SETTLED
    draft.fail(
        FailureStatus(
            reason=Reason.JOB_VANISHED,
            message=(
                f"Job {recorded} was deleted before it ended, so the training stopped. "
                "Create the run again to train; leave its Job to the operator."
            ),
            retryable=True,
        )
    )
    return Verdict.SETTLED
