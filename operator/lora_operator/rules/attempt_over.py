"""The latest pod has ended, but the Job has not: either its end is near, or it tries again."""

from lora_api.reasons import Reason
from lora_api.status import ConditionType
from lora_operator.rules.attempt_end import explain_end
from lora_operator.rules.base import Verdict
from lora_operator.rules.giving_up import give_up
from lora_operator.rules.not_admitted import was_never_admitted
from lora_operator.rules.storage_limit import is_over_storage_limit
from lora_operator.state.draft import Draft
from lora_operator.state.last_codes import LAST_CODES
from lora_operator.state.text import sentence
from lora_operator.state.views import Observed, Pod


def attempt_is_hopeless(seen: Observed, draft: Draft) -> Verdict:
    """A pod that went over a storage limit ends the run, though its Job may go on for ever.

    A trainer that answers SIGTERM within the second that the kubelet leaves it then ends with the
    code of an interruption, which its Job does not count.
    """
    if seen.job is None or seen.job.is_finished or draft.upload is not None:
        return Verdict.CONTINUE
    for pod in seen.pods:
        if is_over_storage_limit(pod):
            give_up(seen, draft, explain_end(seen, pod))
            return Verdict.SETTLED
    return Verdict.CONTINUE


def attempt_is_over(seen: Observed, draft: Draft) -> Verdict:
    """Success waits for the Job's own word; failure is told while the Job backs off."""
    pod = seen.latest_pod
    if pod is None or not pod.has_ended:
        return Verdict.CONTINUE
    if pod.container.exit_code == 0 or (
        pod.phase == "Succeeded" and pod.container.exit_code is None
    ):
        draft.wait(Reason.FINISHING, "The trainer is done; the Job closes.")
        return Verdict.SETTLED
    failure = explain_end(seen, pod)
    draft.failure = failure
    if _is_last(seen, pod):
        # The Job says so within a second; until then nobody should read that it tries again.
        draft.message = failure.message
        draft.set(ConditionType.RUNNING, "False", failure.reason, failure.message)
        return Verdict.SETTLED
    draft.wait(
        Reason.RETRYING,
        f"Attempt {draft.attempts} failed ({failure.reason}): {sentence(failure.message)} "
        "It is tried again.",
    )
    return Verdict.SETTLED


def _is_last(seen: Observed, pod: Pod) -> bool:
    if was_never_admitted(pod):
        # Another Job follows where this one has no attempt left.
        return False
    if pod.disrupted is not None:
        # The Job neither counts it nor looks at its exit code.
        return False
    if pod.container.exit_code in LAST_CODES:
        return True
    if seen.run.spec is None or seen.job is None:
        return False
    return seen.job.failed_pods > seen.run.spec.limits.retries
