"""spec.suspend and Kueue's queue: who holds the run back, and how it is let go.

A module of its own because two parties may hold a Job back, and one field of the Job has room for
only one of them: where Kueue owns it, the operator keeps its hands off and takes the Job away
instead.
"""

from lora_api.reasons import Reason
from lora_api.status import ConditionType, Phase
from lora_operator.rules.base import Verdict
from lora_operator.rules.interruption import await_ends
from lora_operator.state.decision import Action
from lora_operator.state.draft import Draft
from lora_operator.state.pace import LOOK_AGAIN_SECONDS
from lora_operator.state.text import quote
from lora_operator.state.views import Job, Observed


def run_is_suspended(seen: Observed, draft: Draft) -> Verdict:
    """Bring the Job to what spec.suspend says, whoever moved it there or away."""
    spec, job = seen.run.spec, seen.job
    if job is not None and job.is_finished:
        return Verdict.CONTINUE
    if spec is not None and spec.suspend:
        return _suspend(seen, draft)
    draft.set(ConditionType.SUSPENDED, "False", Reason.NOT_SUSPENDED)
    if job is None or job.deleting:
        return _go_on_after_deletion(seen, draft)
    if job.suspended and job.queue is not None:
        draft.hold_back(Reason.QUEUED, _verdict(seen, job.queue))
        draft.revisit_in(LOOK_AGAIN_SECONDS)
        return Verdict.SETTLED
    if job.suspended or job.parallelism != 1:
        draft.do(Action.RESUME_JOB)
        draft.wait(Reason.POD_PENDING, f"Job {job.name} is being resumed.")
        return Verdict.SETTLED
    return Verdict.CONTINUE


def _suspend(seen: Observed, draft: Draft) -> Verdict:
    job = seen.job
    draft.set(ConditionType.SUSPENDED, "False", Reason.SUSPENDING)
    if job is not None and job.queue is not None:
        # Kueue would let the Job go at once if we held it back by the same field.
        if not job.deleting:
            draft.do(Action.DELETE_JOB)
        return _wait_for_checkpoint(seen, job, draft)
    if job is not None and not job.suspended and not job.deleting:
        draft.do(Action.SUSPEND_JOB)
        return _wait_for_checkpoint(seen, job, draft)
    if job is not None and (seen.live_pods or job.deleting):
        return _wait_for_checkpoint(seen, job, draft)
    if job is None and seen.run.status.job_name is not None:
        _note_taken_away(seen, draft)
    draft.hold_back(Reason.SUSPENDED, _held_back(draft))
    if draft.stored.phase is not Phase.SUSPENDED:
        # What the run held is the queue's again, which hears of it by another look.
        draft.revisit_in(0)
    return Verdict.SETTLED


def _note_taken_away(seen: Observed, draft: Draft) -> None:
    """The Job that was recorded is gone on purpose: the next one has another name."""
    if seen.run.status.job_name == seen.run.job_name:
        draft.job_number = seen.run.job_number + 1


def _wait_for_checkpoint(seen: Observed, job: Job, draft: Draft) -> Verdict:
    await_ends(
        seen.pods,
        draft,
        Reason.SUSPENDING,
        f"The run is being suspended (spec.suspend); its pod of Job {job.name} writes a checkpoint "
        "and ends.",
    )
    return Verdict.SETTLED


def _go_on_after_deletion(seen: Observed, draft: Draft) -> Verdict:
    """The Job was taken away to suspend the run: what goes on is another one."""
    was_held = draft.condition(ConditionType.RUNNING).reason in {
        Reason.SUSPENDING,
        Reason.SUSPENDED,
    }
    if not was_held or seen.run.status.job_name != seen.run.job_name:
        return Verdict.CONTINUE
    draft.start_over(Reason.RETRYING, "The run goes on with another Job.")
    return Verdict.SETTLED


def _held_back(draft: Draft) -> str:
    progress = draft.progress
    if progress is None or not progress.total_steps:
        return "Suspended (spec.suspend) before the training began; unset it to go on."
    return (
        f"Suspended (spec.suspend) at step {progress.step} of {progress.total_steps}; unset it to "
        "go on from the last checkpoint."
    )


def _verdict(seen: Observed, queue: str) -> str:
    said = f": {quote(seen.queue_verdict)}" if seen.queue_verdict else ""
    return (
        f"Kueue holds the Job back in the queue {quote(queue)}{said}. It starts by itself when the "
        "queue has quota."
    )
