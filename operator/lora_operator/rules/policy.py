"""What the namespace's policy says: go on, wait in the queue, or never.

A module of its own because the policy is decided for the whole namespace, before any run is looked
at; here it only becomes words of one run's status.
"""

from lora_api.reasons import Reason
from lora_api.status import ConditionType, FailureStatus
from lora_operator.rules.base import Verdict
from lora_operator.rules.giving_up import give_up
from lora_operator.state.decision import Action
from lora_operator.state.draft import Draft
from lora_operator.state.pace import LOOK_AGAIN_SECONDS
from lora_operator.state.views import Job, Observed, Permission, PolicyWord


def policy_admits(seen: Observed, draft: Draft) -> Verdict:
    """A run that is not under way needs the policy's permission; one that is keeps what it has."""
    word = seen.policy
    if word is None or word.permission is Permission.GRANTED:
        return Verdict.CONTINUE
    if word.permission is Permission.WITHDRAWN:
        return _make_room(seen, draft, word)
    if seen.job is not None and not seen.job.suspended:
        return _take_back(seen.job, draft, word)
    return _keep_out(seen, draft, word)


def _take_back(job: Job, draft: Draft, word: PolicyWord) -> Verdict:
    """Suspend a Job again that somebody let go before its turn, if it is known to have one."""
    if not word.is_in_queue or job.is_finished or job.deleting or job.queue is not None:
        return Verdict.CONTINUE
    draft.do(Action.SUSPEND_JOB)
    draft.wait(
        Reason.SUSPENDING,
        f"Job {job.name} was let go by something other than this operator, and is suspended again: "
        f"it is not the run's turn. {word.message}",
    )
    draft.revisit_in(LOOK_AGAIN_SECONDS)
    return Verdict.SETTLED


def _keep_out(seen: Observed, draft: Draft, word: PolicyWord) -> Verdict:
    if seen.live_pods:
        # Made while the Job was being suspended: the Job controller takes it away again, and to go
        # on with it would be to start without permission.
        draft.wait(Reason.SUSPENDING, word.message)
        draft.revisit_in(LOOK_AGAIN_SECONDS)
        return Verdict.SETTLED
    if word.permission is Permission.DENIED:
        draft.set(ConditionType.ADMITTED, "False", word.reason, word.message)
        failure = FailureStatus(reason=word.reason, message=word.message, retryable=False)
        give_up(seen, draft, failure)
        return Verdict.SETTLED
    if seen.run.spec is not None and seen.run.spec.suspend:
        # Who holds himself back does not stand in the queue.
        return Verdict.CONTINUE
    draft.hold_back(word.reason, word.message)
    draft.revisit_in(LOOK_AGAIN_SECONDS)
    return Verdict.SETTLED


def _make_room(seen: Observed, draft: Draft, word: PolicyWord) -> Verdict:
    """Suspend the Job as its user would; once its pods are gone, the run stands in the queue."""
    if seen.job is not None and not seen.job.suspended and not seen.job.deleting:
        draft.do(Action.SUSPEND_JOB)
    draft.wait(word.reason, word.message)
    # Room that is made has to be told to the namespace's queue, and that takes another look. What
    # we did ourselves brings none about, and a Job that has no pod yet has nobody else to.
    draft.revisit_in(0 if seen.holds_nothing else LOOK_AGAIN_SECONDS)
    return Verdict.SETTLED
