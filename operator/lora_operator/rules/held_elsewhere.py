"""A Job that somebody else keeps suspending: told with its reason, and not fought over.

A module of its own because it is the end of a contest that nobody can win: Kueue, where it manages
Jobs without a queue's name (`manageJobsWithoutQueueName`), suspends again whatever we let go. Once
for each change of the run's spec a Job is let go, in case that a person suspended it or an operator
died; who holds it back after that means it.
"""

from lora_api.reasons import Reason
from lora_operator.rules.base import Verdict
from lora_operator.state.decision import Action
from lora_operator.state.draft import Draft
from lora_operator.state.pace import LOOK_AGAIN_SECONDS
from lora_operator.state.text import quote
from lora_operator.state.views import Job, Observed


def job_is_held_elsewhere(seen: Observed, draft: Draft) -> Verdict:
    """Hold the run back where its Job was let go before, and is suspended again."""
    job, spec = seen.job, seen.run.spec
    if job is None or not job.suspended or job.queue is not None:
        return Verdict.CONTINUE
    if job.is_finished or job.deleting or (spec is not None and spec.suspend):
        return Verdict.CONTINUE
    if job.resumed_at_generation != seen.run.generation:
        return Verdict.CONTINUE
    if seen.queue_verdict is not None:
        draft.hold_back(
            Reason.QUEUED,
            f"Kueue manages Job {job.name}, though the run names no queue: "
            f"{quote(seen.queue_verdict)}. Create the run again with the label "
            "kueue.x-k8s.io/queue-name, unless it starts by itself.",
        )
    else:
        draft.hold_back(
            Reason.HELD_ELSEWHERE,
            f"Job {job.name} was suspended again after it had been let go, by something other than "
            "this operator (Kueue does so where manageJobsWithoutQueueName is set: then create the "
            "run again with the label kueue.x-k8s.io/queue-name). The run goes on when the Job's "
            "spec.suspend is unset; to have it let go once more, set the run's spec.suspend and "
            "unset it.",
        )
    draft.revisit_in(LOOK_AGAIN_SECONDS)
    return Verdict.SETTLED


def why_errand_is_held(seen: Observed, draft: Draft, job: Job) -> tuple[Reason, str] | None:
    """Why a Job without a GPU does not begin; where nobody seems to mean that, it is let go.

    Args:
        seen: What there is of the run.
        draft: Receives the wish to let the Job go, once for each change of the run's spec.
        job: One of the run's errands.

    Returns:
        Reason and sentence, or None where nobody holds it back, as far as is known.
    """
    if not job.suspended or job.is_finished or job.deleting:
        return None
    said = f": {quote(seen.queue_verdict)}" if seen.queue_verdict else ""
    if job.queue is not None:
        return (
            Reason.QUEUED,
            f"Kueue holds Job {job.name} back in the queue {quote(job.queue)}{said}.",
        )
    if job.resumed_at_generation != seen.run.generation:
        draft.do(Action.RESUME_ERRAND)
        return None
    if said:
        return Reason.QUEUED, f"Kueue manages Job {job.name}, though the run names no queue{said}."
    return Reason.HELD_ELSEWHERE, (
        f"Job {job.name} was suspended again after it had been let go, by something other than "
        "this operator (Kueue does so where manageJobsWithoutQueueName is set)."
    )
